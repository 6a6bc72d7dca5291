"""The CUDA driver through ctypes: memory, streams, graphs. JetPack's Python has no CUDA package.

Only libcuda.so.1 is loaded, which comes with every driver; TensorRT uses the same primary context.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError

LIBRARY = "libcuda.so.1"
# CUdevice_attribute
_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76
_CAPTURE_RELAXED = 2
OUT_OF_MEMORY = 2
NO_GPU = (
    "build and run engines on the device itself: repsimc build bundle/ --backend tensorrt; "
    "here, --backend tensorrt-rtx checks that the bundle compiles"
)


@dataclass(frozen=True)
class Gpu:
    """The first GPU: its name, compute capability, multiprocessors, memory in bytes.

    `integrated` GPUs share the memory of the processor, as all Jetsons do.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    integrated: bool
    total_nbytes: int
    free_nbytes: int
    driver: str


class Cuda:
    """The primary context of the first GPU, and all that was allocated in it.

    Opening it can crash in a broken driver: `probe` does so in a child process first. Raises
    BackendError (exit code 6) without a driver or GPU, and for every call that fails.
    """

    def __init__(self, library: str = "") -> None:
        self._lib = open_library(library)
        self._allocated: dict[int, tuple[int, str]] = {}  # address -> (bytes, function to free)
        self._context = ctypes.c_void_p()
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._number = device.value
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._number)
        self.make_current()

    @property
    def allocated_nbytes(self) -> int:
        """Bytes of device and pinned memory that were taken here and not given back."""
        return sum(nbytes for nbytes, _ in self._allocated.values())

    def gpu(self) -> Gpu:
        """What the GPU is, and how much memory is free now."""
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, 256, self._number)
        free, total = self.memory()
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return Gpu(
            name=name.value.decode(errors="replace"),
            capability=(self._attribute(_MAJOR), self._attribute(_MINOR)),
            multiprocessors=self._attribute(_MULTIPROCESSORS),
            integrated=bool(self._attribute(_INTEGRATED)),
            total_nbytes=total,
            free_nbytes=free,
            driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
        )

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of device memory; on integrated GPUs the first reads too low."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def make_current(self) -> None:
        """Use the context in this thread."""
        self._call("cuCtxSetCurrent", self._context)

    # -- memory --------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> int:
        """The address of that much device memory, aligned to 256 bytes or more."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(nbytes, 1)))
        self._allocated[address.value] = (max(nbytes, 1), "cuMemFree_v2")
        return address.value

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array in page-locked memory, which copies to the device without a detour.

        It must not be used after `free(array.ctypes.data)`.
        """
        nbytes = max(int(np.prod(shape)) * dtype.itemsize, 1)
        address = ctypes.c_void_p()
        self._call("cuMemAllocHost_v2", ctypes.byref(address), ctypes.c_size_t(nbytes))
        assert address.value is not None
        self._allocated[address.value] = (nbytes, "cuMemFreeHost")
        raw = (ctypes.c_ubyte * nbytes).from_address(address.value)
        return np.ndarray(shape, dtype, memoryview(raw).cast("B"))

    def free(self, address: int) -> None:
        """Give memory back."""
        _, function = self._allocated.pop(address)
        self._call(function, ctypes.c_uint64(address))

    def copy_in(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy a contiguous array to the device, in stream order."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def copy_out(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy from the device into a contiguous array, in stream order."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    # -- streams and graphs --------------------------------------------------------------

    def stream(self) -> int:
        """A new stream."""
        found = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(found), 1)  # does not wait for the default one
        assert found.value is not None
        return found.value

    def synchronise(self, stream: int) -> None:
        """Wait for all that was put into the stream."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def destroy_stream(self, stream: int) -> None:
        """End a stream."""
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def capture(self, stream: int, work: Callable[[], None]) -> int | None:
        """What `work` puts into the stream, as a graph to launch; None if it can't be captured.

        Some layers need the processor half way; those run without a graph.
        """
        if self._code("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), _CAPTURE_RELAXED):
            return None
        failed = False
        try:
            work()
        except BackendError:
            failed = True
        graph, launchable = ctypes.c_void_p(), ctypes.c_void_p()
        if self._code("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph)) or failed:
            return None
        code = self._code(
            "cuGraphInstantiateWithFlags", ctypes.byref(launchable), graph, ctypes.c_uint64(0)
        )
        self._code("cuGraphDestroy", graph)
        return None if code else launchable.value

    def launch(self, graph: int, stream: int) -> None:
        """Put a captured graph into the stream."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        """End a captured graph."""
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def close(self) -> None:
        """Give everything back. The object must not be used afterwards."""
        for address in list(self._allocated):
            self.free(address)
        self._call("cuDevicePrimaryCtxRelease_v2", self._number)

    # -- calling -------------------------------------------------------------------------

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._number)
        return value.value

    def _code(self, function: str, *arguments: object) -> int:
        return int(getattr(self._lib, function)(*arguments))

    def _call(self, function: str, *arguments: object) -> None:
        code = self._code(function, *arguments)
        if not code:
            return
        text = ctypes.c_char_p()
        self._code("cuGetErrorName", code, ctypes.byref(text))
        name = text.value.decode() if text.value else f"error {code}"
        if function == "cuInit":
            raise BackendError(f"there is no usable GPU: cuInit says {name}", NO_GPU)
        hint = (
            "use fewer models, a smaller batch or less workspace" if code == OUT_OF_MEMORY else ""
        )
        raise BackendError(f"CUDA: {function} failed with {name}", hint)


def open_library(library: str = "") -> ctypes.CDLL:
    """The driver's library. Raises BackendError (exit code 6) where there is none."""
    try:
        return ctypes.CDLL(library or LIBRARY)
    except OSError as error:
        raise BackendError(
            f"there is no CUDA driver on this machine ({library or LIBRARY} cannot be loaded)",
            NO_GPU,
        ) from error
