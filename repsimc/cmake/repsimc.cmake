# repsimc_bundle(NAME
#   MODELS a.onnx [b.onnx ...]      # left out where CONFIG names them
#   [CALIB frames.npz | a=a.npz b=images/]
#   [BUDGET 2GB] [PRECISION int8] [PLAN plan.json] [CONFIG repsimc.toml]
#   [OUTPUT folder]                 # default: NAME in the current binary directory
#   [FLAGS --max-macs 60% ...]      # anything else that `repsimc compile` takes
#   [DEPENDS file-or-target ...])
#
# A target NAME, part of `all`, that compiles the models into a bundle whenever one of its inputs
# changed, and does nothing where none did. Relative paths are to the current source directory,
# OUTPUT is to the current binary directory. In the caller's scope afterwards:
#   NAME_BUNDLE    the bundle's folder; also the target's property REPSIMC_BUNDLE
#   NAME_MANIFEST  its manifest.json, to depend on for "the bundle is up to date"
#   NAME_GRAPH     its merged.onnx, to depend on for its content: its time changes if its bytes do

include_guard(GLOBAL)
cmake_policy(PUSH)
cmake_policy(VERSION 3.20)  # of functions defined here: paths in depfiles are as CMP0116 has them

function(repsimc_bundle name)
  cmake_parse_arguments(
    PARSE_ARGV 1 arg "" "BUDGET;PRECISION;PLAN;CONFIG;OUTPUT" "MODELS;CALIB;FLAGS;DEPENDS"
  )
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "repsimc_bundle(${name}): unknown words: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(arg_KEYWORDS_MISSING_VALUES)
    message(FATAL_ERROR "repsimc_bundle(${name}): no value for ${arg_KEYWORDS_MISSING_VALUES}")
  endif()
  if(NOT arg_MODELS AND NOT arg_CONFIG)
    message(FATAL_ERROR "repsimc_bundle(${name}): no MODELS, and no CONFIG that names some")
  endif()

  set(words)
  set(files)
  foreach(model IN LISTS arg_MODELS)
    get_filename_component(path "${model}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
    list(APPEND words "${path}")
    list(APPEND files "${path}")
  endforeach()
  foreach(frames IN LISTS arg_CALIB)
    set(of)
    if(frames MATCHES "^([A-Za-z0-9_.-]+)=(.*)$")
      set(of "${CMAKE_MATCH_1}=")
      set(frames "${CMAKE_MATCH_2}")
    endif()
    get_filename_component(path "${frames}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
    list(APPEND words --calib "${of}${path}")
    if(NOT IS_DIRECTORY "${path}")
      list(APPEND files "${path}")
    endif()
  endforeach()
  foreach(option IN ITEMS PLAN CONFIG)
    if(arg_${option})
      get_filename_component(
        path "${arg_${option}}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}"
      )
      string(TOLOWER "--${option}" flag)
      list(APPEND words ${flag} "${path}")
      list(APPEND files "${path}")
    endif()
  endforeach()
  foreach(option IN ITEMS BUDGET PRECISION)
    if(arg_${option})
      string(TOLOWER "--${option}" flag)
      list(APPEND words ${flag} "${arg_${option}}")
    endif()
  endforeach()
  if(NOT arg_OUTPUT)
    set(arg_OUTPUT "${name}")
  endif()
  get_filename_component(bundle "${arg_OUTPUT}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_BINARY_DIR}")

  add_custom_command(
    OUTPUT "${bundle}/manifest.json"
    BYPRODUCTS "${bundle}/merged.onnx"
    COMMAND
      "${REPSIMC_EXECUTABLE}" compile ${words} --output "${bundle}" --overwrite --depfile
      "${bundle}.d" ${arg_FLAGS}
    DEPENDS ${files} ${arg_DEPENDS}
    DEPFILE "${bundle}.d"
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    COMMENT "Compiling the bundle ${name}"
    VERBATIM
  )
  add_custom_target("${name}" ALL DEPENDS "${bundle}/manifest.json")
  set_target_properties(
    "${name}" PROPERTIES REPSIMC_BUNDLE "${bundle}" ADDITIONAL_CLEAN_FILES "${bundle}"
  )
  set(${name}_BUNDLE "${bundle}" PARENT_SCOPE)
  set(${name}_MANIFEST "${bundle}/manifest.json" PARENT_SCOPE)
  set(${name}_GRAPH "${bundle}/merged.onnx" PARENT_SCOPE)
endfunction()

cmake_policy(POP)
