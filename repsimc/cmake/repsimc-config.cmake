# find_package(repsimc CONFIG): repsimc_bundle() and the command REPSIMC_EXECUTABLE.
# Configure with -Drepsimc_DIR="$(repsimc --cmake-dir)".

if(CMAKE_VERSION VERSION_LESS 3.20)
  set(repsimc_FOUND FALSE)
  set(repsimc_NOT_FOUND_MESSAGE "repsimc_bundle() needs CMake 3.20, which has DEPFILE for Make too")
  return()
endif()

# The command of the environment that this file is installed in, or else the one on the path.
find_program(
  REPSIMC_EXECUTABLE
  NAMES repsimc
  HINTS "${CMAKE_CURRENT_LIST_DIR}/../../../../../bin" "${CMAKE_CURRENT_LIST_DIR}/../../../../Scripts"
  DOC "The repsimc that compiles bundles"
)
if(NOT REPSIMC_EXECUTABLE)
  set(repsimc_FOUND FALSE)
  set(repsimc_NOT_FOUND_MESSAGE "there is no command repsimc: set REPSIMC_EXECUTABLE to it")
  return()
endif()

include("${CMAKE_CURRENT_LIST_DIR}/repsimc.cmake")
