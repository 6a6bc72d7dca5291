"""Engines in GPU memory: one scratch arena for all, values passed on without a copy."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, DataError
from .api import Context, Engine, Log, Tensor, TensorRT
from .cuda import Cuda
from .engines import EngineFile, read_engine_file

Array = NDArray[Any]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Library:
    """The TensorRT that loads engines: its version (that of `Device`) and its Python module.

    `plugins` are shared libraries with operators of the user's; `log` gets all that it says.
    """

    version: str
    module: str = "tensorrt"
    plugins: Sequence[str] = ()
    log: Log = lambda severity, message: None


@dataclass(frozen=True)
class _Stage:
    """One engine among those that run one after another."""

    file: EngineFile
    engine: Engine
    context: Context

    @property
    def inputs(self) -> list[Tensor]:
        return [tensor for tensor in self.engine.tensors.values() if tensor.is_input]

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Give the engine the shapes of its inputs. Raises DataError, ModelError."""
        for tensor in self.inputs:
            shape = shapes[tensor.name]
            if -1 in tensor.shape:
                self.context.set_shape(tensor.name, shape)
            elif shape != tensor.shape:
                raise DataError(
                    f"input '{tensor.name}' has shape {list(shape)}, and its engine takes "
                    f"{list(tensor.shape)}",
                    "build again with --batch LEAST:USUAL:MOST for other batches",
                )


@dataclass
class _Buffer:
    """A value on the device, and for what goes in or out a page-locked twin of it."""

    shape: tuple[int, ...]
    address: int
    host: Array | None = None


class LoadedEngines:
    """The engines of one build, run one after another on one stream.

    All contexts get the same scratch memory, as large as the largest need: they never run at the
    same time (NVIDIA/TensorRT#3276). `shared_scratch=False` gives each its own, to compare. What
    one engine gives and the next takes stays on the device. Where the same shapes come again the
    whole run is a CUDA graph, if TensorRT lets it be captured. `outputs` are the values that
    callers get; others that engines make stay on the device.
    Raises ModelError (damaged plans), BackendError. Calls from several threads wait in turn.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[EngineFile],
        outputs: Iterable[str],
        library: Library,
        shared_scratch: bool = True,
    ) -> None:
        self._lock = threading.Lock()
        self._stages: list[_Stage] = []
        self._buffers: dict[str, _Buffer] = {}
        self._captured: dict[tuple[tuple[int, ...], Shapes], int | None] = {}
        self._graphs = True
        self._outputs = frozenset(outputs)
        self._made = frozenset(name for file in files for name in file.outputs)
        self._tensorrt: TensorRT | None = None
        self.cuda = Cuda()
        self._stream = 0
        try:
            self._stream = self.cuda.stream()
            tensorrt = self._tensorrt = TensorRT(library.module, library.log, library.plugins)
            loaded: list[tuple[EngineFile, Engine]] = []
            for file in files:
                content = read_engine_file(folder, file, library.version)
                loaded.append((file, tensorrt.engine(content, str(folder / file.file))))
                del content  # never two plans in memory beside their engines
            needs = [engine.scratch_nbytes for _, engine in loaded]
            self.scratch_nbytes = max(needs, default=0) if shared_scratch else sum(needs)
            shared = self.cuda.allocate(max(needs, default=0)) if shared_scratch else 0
            for file, engine in loaded:
                need = engine.scratch_nbytes
                scratch = shared if shared_scratch else self.cuda.allocate(need)
                size = max(needs) if shared_scratch else need
                self._stages.append(_Stage(file, engine, engine.context(scratch, size)))
        except BaseException:
            self.close()
            raise

    @property
    def needs_nbytes(self) -> tuple[int, ...]:
        """Scratch bytes that each engine needs by itself."""
        return tuple(stage.engine.scratch_nbytes for stage in self._stages)

    @property
    def captured(self) -> int:
        """How many combinations of engines and shapes run as a CUDA graph."""
        return sum(graph is not None for graph in self._captured.values())

    def tensor_dtype(self, name: str) -> str | None:
        """The dtype in which the engines hold a value; None if they do not know it."""
        for stage in self._stages:
            if name in stage.engine.tensors:
                return stage.engine.tensors[name].dtype
        return None

    def least(self, name: str) -> tuple[int, ...] | None:
        """The smallest shape that an input may have; None where it is fixed or unknown."""
        for stage in self._stages:
            if name in stage.engine.tensors:
                return stage.engine.tensors[name].least
        return None

    def run(self, models: Sequence[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs, by value name, of the engines that these models need.

        Raises DataError for an array that does not fit, BackendError.
        """
        with self._lock:
            if not self._stages:
                raise BackendError("these engines are closed", "open another session")
            self.cuda.make_current()
            chosen = tuple(
                index
                for index, stage in enumerate(self._stages)
                if set(stage.file.models) & set(models)
            )
            made = {name for index in chosen for name in self._stages[index].file.outputs}
            wanted = {t.name for index in chosen for t in self._stages[index].inputs} - made
            if missing := sorted(wanted - feeds.keys()):
                raise DataError(f"no array for input '{missing[0]}', which the engines take")
            given = {
                name: _converted(name, feeds[name], self.tensor_dtype(name))
                for name in sorted(wanted)
            }
            shapes = tuple((name, array.shape) for name, array in given.items())
            self._prepare(chosen, given)
            for name, array in given.items():
                host = self._buffers[name].host
                assert host is not None
                np.copyto(host, array)
            self._execute(chosen, shapes, list(given))
            self.cuda.synchronise(self._stream)
            return {
                name: self._taken(name)
                for index in chosen
                for name in self._stages[index].file.outputs
                if self._buffers[name].host is not None
            }

    def close(self) -> None:
        """Frees all memory; nothing may stay allocated."""
        with self._lock:
            self.cuda.make_current()
            self._drop_graphs()
            # Contexts before engines before the runtime: the order that TensorRT asks for.
            self._stages.clear()
            self._tensorrt = None
            for name in list(self._buffers):
                self._release(name)
            if self._stream:
                self.cuda.destroy_stream(self._stream)
                self._stream = 0
            self.cuda.close()

    # -- one run -------------------------------------------------------------------------

    def _prepare(self, chosen: Sequence[int], given: Mapping[str, Array]) -> None:
        """Sets shapes, and makes the buffers that do not fit them."""
        shapes = {name: array.shape for name, array in given.items()}
        for index in chosen:
            stage = self._stages[index]
            stage.set_shapes(shapes)
            for tensor in stage.engine.tensors.values():
                shape = stage.context.shape(tensor.name)
                if -1 in shape:
                    raise BackendError(
                        f"the shape of output '{tensor.name}' depends on the values of the frame",
                        "leave such post-processing out of the model, or use onnxruntime",
                    )
                shapes[tensor.name] = shape
                self._provide(tensor.name, shape, np.dtype(tensor.dtype))
                stage.context.set_address(tensor.name, self._buffers[tensor.name].address)

    def _provide(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        held = self._buffers.get(name)
        if held is not None and held.shape == shape:
            return
        if held is not None:
            # A captured graph knows the old address.
            self._drop_graphs()
            self._release(name)
        address = self.cuda.allocate(int(np.prod(shape)) * dtype.itemsize)
        self._buffers[name] = _Buffer(shape, address)
        if name in self._outputs or name not in self._made:
            self._buffers[name].host = self.cuda.pinned(shape, dtype)

    def _drop_graphs(self) -> None:
        for graph in self._captured.values():
            if graph is not None:
                self.cuda.destroy_graph(graph)
        self._captured.clear()

    def _release(self, name: str) -> None:
        buffer = self._buffers.pop(name)
        self.cuda.free(buffer.address)
        if buffer.host is not None:
            self.cuda.free(buffer.host.ctypes.data)

    def _execute(self, chosen: tuple[int, ...], shapes: Shapes, given: Sequence[str]) -> None:
        key = (chosen, shapes)
        graph = self._captured.get(key)
        if graph is not None:
            self.cuda.launch(graph, self._stream)
            return
        self._enqueue(chosen, given)
        if not self._graphs or key in self._captured:
            return
        # Captured after a plain run: the first one may allocate, which a graph can't hold.
        self.cuda.synchronise(self._stream)
        self._captured[key] = self.cuda.capture(self._stream, lambda: self._enqueue(chosen, given))

    def _enqueue(self, chosen: Sequence[int], given: Sequence[str]) -> None:
        for name in given:
            buffer = self._buffers[name]
            assert buffer.host is not None
            self.cuda.copy_in(buffer.address, buffer.host, self._stream)
        for index in chosen:
            self._stages[index].context.execute(self._stream)
        for index in chosen:
            for name in self._stages[index].file.outputs:
                buffer = self._buffers[name]
                if buffer.host is not None:
                    self.cuda.copy_out(buffer.host, buffer.address, self._stream)

    def _taken(self, name: str) -> Array:
        host = self._buffers[name].host
        assert host is not None
        return host.copy()


def _converted(name: str, array: Array, dtype: str | None) -> Array:
    """The array in the engine's dtype: TensorRT 8 has no 64-bit integers."""
    wanted = np.dtype(dtype or array.dtype.name)
    if array.dtype == wanted:
        return array
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        limits = np.iinfo(wanted)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise DataError(
                f"input '{name}' holds {array.dtype} values that do not fit {wanted}, which is "
                "what this TensorRT computes with"
            )
        return array.astype(wanted)
    raise DataError(f"input '{name}' is {array.dtype}, and its engine takes {wanted}")
