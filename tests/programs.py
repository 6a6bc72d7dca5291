"""Small programs for tests: from text or protos, run in ONNX Runtime, compared honestly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
from numpy.typing import NDArray

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.frontends.join import join
from repsimc.compiler.frontends.onnx import import_model
from repsimc.compiler.graph.export import to_proto
from repsimc.compiler.graph.program import Program, Source

Array = NDArray[Any]


def model_of_text(text: str) -> onnx.ModelProto:
    """The model that onnx.parser reads from `text`."""
    return onnx.parser.parse_model(text)


def program_of(model: str | onnx.ModelProto, name: str = "a") -> Program:
    """A program of one model, given as onnx.parser text or as a proto."""
    proto = model_of_text(model) if isinstance(model, str) else model
    return import_model(proto, name, Source(Path(f"{name}.onnx"), 0, "0" * 64))


def joined(
    tied: Sequence[Sequence[tuple[str, str]]] = (), /, **models: str | onnx.ModelProto
) -> Program:
    """One program of all models, called by their keywords."""
    return join([program_of(model, name) for name, model in models.items()], tied)


class AsRead:
    """Models as they were read, in the place of their files, which tests often do not have."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def run(self, model: str, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """All outputs of a model by its own names, for arrays by the names of its inputs."""
        own = self.program.models[model]
        values = list(dict.fromkeys(own.outputs.values()))
        segment = Executable(self.program, None, values)
        made = dict(zip(values, segment({own.inputs[name]: a for name, a in feeds.items()})))
        return {name: made[value] for name, value in own.outputs.items()}


def session(model: Program | onnx.ModelProto | Path) -> ort.InferenceSession:
    """The model in ONNX Runtime: CPU, one thread, no graph optimisations."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    if isinstance(model, Program):
        model = to_proto(model)
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(
    model: Program | onnx.ModelProto | Path,
    feeds: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
) -> dict[str, Array]:
    """Every output (or those named) by name, computed by ONNX Runtime."""
    ready = session(model)
    names = list(outputs) if outputs is not None else [o.name for o in ready.get_outputs()]
    return dict(zip(names, ready.run(names, dict(feeds)), strict=True))


def assert_close(actual: Array, expected: Array, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Fails unless both arrays have one dtype and shape, NaN in the same places, and every
    element within atol + rtol * |expected|. Exact for integers, booleans and strings."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype} is not {expected.dtype}"
    assert actual.shape == expected.shape, f"shape {actual.shape} is not {expected.shape}"
    if np.issubdtype(expected.dtype, np.inexact):
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, equal_nan=True)
    else:
        np.testing.assert_array_equal(actual, expected)


def feeds_for(
    model: onnx.ModelProto, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Random arrays for the model's float inputs; symbolic dimensions are 2 or as in `sizes`."""
    random = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        shape = [d.dim_value or (sizes or {}).get(d.dim_param, 2) for d in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        # A scalar cannot be drawn as an array: NumPy gives a number.
        found[value.name] = np.asarray(random.standard_normal(shape)).astype(dtype)
    return found


def assert_same_outputs(
    model: onnx.ModelProto,
    program: Program | None = None,
    name: str = "a",
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """Fails unless model `name` of the program computes what `model` does, on random feeds.

    Other models of the program must take the same inputs.
    """
    program = program or program_of(model, name)
    own = program.models[name]
    feeds = feeds_for(model)
    expected = run(model, feeds)
    given = {
        value: array
        for other in program.models.values()
        for value, array in zip(other.inputs.values(), feeds.values(), strict=True)
    }
    actual = run(program, given)
    assert list(own.outputs) == list(expected)
    for output, value in own.outputs.items():
        assert_close(actual[value], expected[output], rtol=rtol, atol=atol)
