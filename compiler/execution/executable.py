"""Running parts of a program on ONNX Runtime, batch by batch, and keeping what was computed."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort

from ...runtime.narrow_types import readable, run_session
from ...runtime.ort import keep_products_float
from ..errors import InternalFault, ModelError
from ..frontends.check import foreign_domains
from ..frontends.opset import raise_opset
from ..graph.arrays import Array, Int64
from ..graph.dequantising import dequantising, opset_of_stored
from ..graph.eight_bits import values_in_eight_bits
from ..graph.export import every_node, to_proto, write_model
from ..graph.free_size import size_of
from ..graph.program import Program, constants_of
from ..graph.weights import values_nbytes

# Frames go through the network in batches of this many when the batch axis is free (enough to keep
# the cores busy on 32x32 images), or as many as have this many bytes of input: a convolution's
# activations are some twenty times its input.
BATCH = 64
BATCH_NBYTES = 8 << 20
# Or as many whose values, all of them together, have this many bytes: statistics and fits look at
# most of them at once.
VALUES_NBYTES = 256 << 20
# Activations that have to outlive a batch are kept in memory up to this many bytes, then in
# unnamed temporary files. This is the "stated cache" of the compiler's memory use.
CACHE_NBYTES = 1 << 30
# Protobuf cannot carry more than 2 GiB, so bigger programs reach ONNX Runtime through a file.
_INLINE_NBYTES = 1 << 30
# Work that goes on side by side, each on one thread: every one has activations of its own.
_MOST_WORKERS = 8


class Executable:
    """A piece of a program, compiled once by ONNX Runtime and then called on batches.

    `inputs` None means the graph inputs that `outputs` need. Calling it with a mapping of value
    name to array returns the arrays of `outputs`, in order; graph inputs among them are handed on.
    `as_written` runs every node, where ONNX Runtime would leave out what it can tell otherwise,
    and frees values as soon as it can. A program that computes in 8 bits is run by the kernels that
    the bundle will have, pieces with `inputs` in float on rounded values. Raises ModelError where
    ONNX Runtime lacks an operator of the user's own, else InternalFault.
    """

    def __init__(
        self,
        program: Program,
        inputs: Sequence[str] | None,
        outputs: Sequence[str],
        threads: int | None = None,
        as_written: bool = False,
    ) -> None:
        options = ort.SessionOptions()
        keep_products_float(options)
        if values_in_eight_bits(program):
            if inputs is None:
                program = _as_it_will_run(program)
            else:
                # Pieces of a walk, whose weights are not rounded yet: by itself ONNX Runtime would
                # round those of a convolution between two values in 8 bits, its own way.
                options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.log_severity_level = 4
        # Pieces run one after another with matrix products between: threads of one must not spin
        # on cores that the next step, or another process, wants.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        if as_written:
            off = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = off
            # This order takes Shape before all else, so that what it reads is free again.
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
            options.enable_cpu_mem_arena = False
        self.outputs = tuple(outputs)
        handed_on = program.input_names.intersection(outputs)
        self._computed = [name for name in outputs if name not in handed_on]
        self.inputs = tuple(name for name in self.outputs if name in handed_on)
        if not self._computed:
            return
        values = program.values()
        needed = program.needed_nodes([values[name] for name in self._computed], stop=inputs or ())
        weight_nbytes = sum(map(values_nbytes, constants_of(every_node(needed))))
        try:
            if weight_nbytes < _INLINE_NBYTES:
                proto = to_proto(program, inputs=inputs, outputs=self._computed)
                model = proto.SerializeToString()
            else:
                self._folder = tempfile.TemporaryDirectory(prefix="repsimc-")
                place = Path(self._folder.name)
                part = write_model(
                    program, place, inputs=inputs, outputs=self._computed, in_floats=True
                )
                model = str(part[0])
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except (OSError, MemoryError):  # the disk or the memory is full
            raise
        except Exception as error:
            raise _not_opened(program, outputs, error) from error
        self._read = [value.name for value in self._session.get_inputs()]
        self.inputs = tuple(dict.fromkeys([*self._read, *self.inputs]))

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The arrays of `outputs` for one batch. Raises ModelError when the run fails."""
        if not self._computed:
            return [feeds[name] for name in self.outputs]
        try:
            given = {name: feeds[name] for name in self._read}
            made = map(readable, run_session(self._session, self._computed, given))
        except Exception as error:
            raise ModelError(
                f"running the graph up to {', '.join(self.outputs[:3])} failed: "
                f"{first_line(error)}",
                "check that the frames have the shape and value range the model expects",
            ) from error
        arrays = {**feeds, **dict(zip(self._computed, made))}
        return [arrays[name] for name in self.outputs]


def _as_it_will_run(program: Program) -> Program:
    """The program with nodes that make its weights, so that integer kernels take these."""
    raised = program.copy()
    raise_opset(raised, opset_of_stored(raised), "the program")
    return dequantising(raised)


def frame_nbytes(value: gs.Tensor) -> int:
    """Bytes of one frame of a value, as far as its sizes are known."""
    if value.is_empty() or value.shape is None or value.dtype is None:
        return 0
    try:
        itemsize = np.dtype(value.dtype).itemsize
    except TypeError:  # an ONNX type that NumPy has no word for: at most a byte per element
        itemsize = 1
    sizes = [size_of(size) or 1 for size in value.shape]
    # A fixed first axis counts the frames of a batch.
    fixed = bool(sizes) and isinstance(value.shape[0], int)
    return itemsize * math.prod(sizes[1:] if fixed else sizes)


class Activations:
    """Arrays by value name and batch, in memory up to a limit and in temporary files beyond it.

    `limit` is in bytes. Dropped values free their place; file-backed ones free their file.
    """

    def __init__(self, limit: int = CACHE_NBYTES) -> None:
        self._limit = limit
        self._held: dict[str, list[Array]] = {}
        self._nbytes: dict[str, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held in memory (file-backed batches not counted)."""
        return sum(self._nbytes.values())

    def append(self, name: str, array: Array) -> None:
        """Add the next batch of value `name`."""
        if self.nbytes + array.nbytes > self._limit and array.nbytes:
            with tempfile.TemporaryFile(prefix="repsimc-") as file:
                mapped = np.memmap(file, dtype=array.dtype, mode="w+", shape=array.shape)
            mapped[...] = array
            array = mapped
        else:
            self._nbytes[name] = self._nbytes.get(name, 0) + array.nbytes
        self._held.setdefault(name, []).append(array)

    def adopt(self, name: str, batches: Sequence[Array]) -> None:
        """Take value `name` from another, which goes on holding it."""
        self._held[name] = list(batches)

    def batches(self, name: str) -> list[Array]:
        """All batches of value `name`."""
        return self._held[name]

    def keep_channels(self, name: str, kept: Int64, axis: int) -> None:
        """Leave only the channels `kept` in every batch of value `name`."""
        batches = [np.take(batch, kept, axis=axis) for batch in self._held.pop(name)]
        self._nbytes.pop(name, None)
        for batch in batches:
            self.append(name, batch)

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def names(self) -> list[str]:
        """The values held, sorted."""
        return sorted(self._held)

    def keep_only(self, names: Iterable[str]) -> None:
        """Drop every value that is not in `names`."""
        kept = set(names)
        for name in [held for held in self._held if held not in kept]:
            del self._held[name]
            self._nbytes.pop(name, None)


def workers() -> int:
    """How many things to do at a time, one thread each: one per core that we may use, up to 8."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


def batches_of(rows: Int64, batch: int) -> Iterator[Int64]:
    """`rows` in consecutive pieces of `batch`."""
    for start in range(0, len(rows), batch):
        yield rows[start : start + batch]


def _not_opened(
    program: Program, outputs: Sequence[str], error: Exception
) -> ModelError | InternalFault:
    """Why a piece of a program cannot be opened: an operator of the user's own, else our fault.

    Models were refused when they were read if ONNX Runtime cannot open them.
    """
    models = ", ".join(sorted({name.split("/", 1)[0] for name in outputs}))
    message = f"ONNX Runtime cannot run {models}: {first_line(error)}"
    if own := sorted(foreign_domains(program)):
        return ModelError(
            message,
            f"operators of the domain '{own[0]}' run nowhere here, so nothing can be measured: "
            "leave --calib out, and what is exact is shared",
        )
    return InternalFault(message)


def first_line(error: Exception) -> str:
    """The first line of an error's message, cut where it is long."""
    return str(error).strip().splitlines()[0][:400] if str(error).strip() else type(error).__name__
