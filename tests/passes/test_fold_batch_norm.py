"""Normalise folds a BatchNormalization into the convolution before it, where nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from repsimc.compiler.graph.text import text
from repsimc.passes.normalise import Normalise
from tests.passes.checking import floats, normalised, ops
from tests.programs import assert_close, program_of, run


def convolution(
    op: str = "Conv",
    shape: tuple[int, ...] = (4, 3, 3, 3),
    image: tuple[int, ...] = (2, 3, 8, 8),
    channels: int = 4,
    bias: np.ndarray[Any, Any] | None = None,
    norm: dict[str, Any] | None = None,
    more: list[onnx.NodeProto] | None = None,
    outputs: tuple[str, ...] = ("y",),
    scale: np.ndarray[Any, Any] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """x -> operator -> BatchNormalization -> Relu, and what `more` adds."""
    weights = {
        "w": floats(*shape, seed=1),
        "scale": floats(channels, seed=2) if scale is None else scale,
        "offset": floats(channels, seed=3),
        "mean": floats(channels, seed=4),
        "variance": np.abs(floats(channels, seed=5)) + np.float32(0.1),
    }
    if bias is not None:
        weights["b"] = bias
    nodes = [
        helper.make_node(op, ["x", "w", *(["b"] if bias is not None else [])], ["h"], "op",
                         **attributes),
        helper.make_node("BatchNormalization", ["h", "scale", "offset", "mean", "variance"],
                         ["n"], "bn", **(norm or {})),
        helper.make_node("Relu", ["n"], ["y"], "relu"),
        *(more or []),
    ]  # fmt: skip
    dims = ["N", *(f"d{axis}" for axis in range(1, len(image)))]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


IMAGE = {"x": floats(2, 3, 8, 8)}
FEATURES = {"x": floats(5, 3)}
FOLDED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "conv": ({}, IMAGE),
    "conv with bias": ({"bias": floats(4, seed=6), "norm": {"epsilon": 0.01}}, IMAGE),
    "padded conv": ({"pads": [1, 1, 1, 1], "strides": [2, 2]}, IMAGE),
    "grouped conv": (
        {"shape": (4, 3, 3, 3), "image": (2, 6, 8, 8), "group": 2}, {"x": floats(2, 6, 8, 8)}),
    "depthwise conv": ({"shape": (3, 1, 3, 3), "channels": 3, "group": 3}, IMAGE),
    "1d conv": ({"shape": (4, 3, 3), "image": (2, 3, 8)}, {"x": floats(2, 3, 8)}),
    "transposed conv": (
        {"op": "ConvTranspose", "shape": (3, 4, 2, 2), "strides": [2, 2],
         "bias": floats(4, seed=6)}, IMAGE),
    "grouped transposed conv": (
        {"op": "ConvTranspose", "shape": (6, 2, 3, 3), "group": 2, "image": (2, 6, 8, 8)},
        {"x": floats(2, 6, 8, 8)}),
    "gemm": ({"op": "Gemm", "shape": (3, 4), "image": (5, 3)}, FEATURES),
    "square gemm": ({"op": "Gemm", "shape": (3, 3), "image": (5, 3), "channels": 3}, FEATURES),
    "transposed gemm": (
        {"op": "Gemm", "shape": (4, 3), "image": (5, 3), "transB": 1, "alpha": 0.5, "beta": 2.0,
         "bias": floats(4, seed=6)}, FEATURES),
    "gemm with one bias": (
        {"op": "Gemm", "shape": (3, 4), "image": (5, 3), "bias": floats(1, seed=6)}, FEATURES),
    "gemm with a row of biases": (
        {"op": "Gemm", "shape": (3, 4), "image": (5, 3), "bias": floats(1, 4, seed=6)}, FEATURES),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_batch_norm_is_folded(case: str) -> None:
    arguments, feeds = FOLDED[case]
    program = normalised(convolution(**arguments), feeds)
    assert ops(program) == [arguments.get("op", "Conv"), "Relu"]
    operator = program.graph.nodes[0]
    assert operator.name == "a/op" and operator.outputs[0].name == "a/n"
    assert program.notes["a/op"].sources == ("a/op", "a/bn")
    assert set(program.notes) == {"a/op", "a/relu"}


def test_batch_norm_that_is_an_output_keeps_its_name() -> None:
    program = normalised(convolution(outputs=("n", "y")), IMAGE)
    assert ops(program) == ["Conv", "Relu"]


def test_bytes_saved_by_a_fold() -> None:
    program = program_of(convolution())
    (change,) = Normalise().run(program)
    assert change.nbytes_saved == 3 * 4 * 4  # scale, mean and variance go, offset becomes bias
    assert change.what == "BatchNormalization 'a/bn' is folded into Conv 'a/op'"


def test_shared_filter_is_copied() -> None:
    other = [
        helper.make_node("Conv", ["x", "w"], ["k"], "other"),
        helper.make_node("Neg", ["k"], ["z"], "neg"),
    ]
    model = convolution(more=other, outputs=("y", "z"))
    program = normalised(model, IMAGE)
    assert ops(program) == ["Conv", "Relu", "Conv", "Neg"]
    assert {"a/w", "a/w.folded"} <= set(program.weights())
    stays = normalised(model, IMAGE, Normalise(growth_nbytes=100))
    assert "BatchNormalization" in ops(stays)


def test_two_folds_of_one_filter() -> None:
    other = [
        helper.make_node("Conv", ["x", "w"], ["k"], "other"),
        helper.make_node(
            "BatchNormalization", ["k", "offset", "scale", "mean", "variance"], ["z"], "bn2"
        ),
    ]
    program = normalised(convolution(more=other, outputs=("y", "z")), IMAGE)
    assert ops(program) == ["Conv", "Relu", "Conv"]
    assert {"a/w.folded", "a/w.folded_2"} & set(program.weights())


@pytest.mark.parametrize(
    "arguments",
    [
        {"more": [helper.make_node("Neg", ["h"], ["z"])], "outputs": ("y", "z")},
        {"outputs": ("y", "h")},
        {"op": "MatMul", "shape": (3, 4), "image": (5, 3)},
        {"scale": np.full(4, np.inf, np.float32)},
        {"norm": {"epsilon": -1.0}},
        {"op": "Gemm", "shape": (3, 4), "image": (5, 3), "bias": floats(5, 1)},
        {"op": "Gemm", "shape": (3, 4), "image": (4, 3), "bias": floats(4, 1)},
    ],
    ids=[
        "another reader",
        "an output",
        "no bias to take",
        "inf",
        "negative variance",
        "rows",
        "square rows",
    ],
)
def test_must_not_fold_batch_norm(arguments: dict[str, Any]) -> None:
    program = program_of(convolution(**arguments))
    before = text(program)
    assert Normalise().run(program) == []
    assert text(program) == before


def test_training_batch_norm_stays() -> None:
    model = convolution(norm={"training_mode": 1})
    model.graph.node[1].output.extend(["running_mean", "running_variance"])
    program = program_of(model)
    assert Normalise().run(program) == []


def test_lone_batch_norm_stays() -> None:
    model = convolution()
    model.graph.node[0].CopyFrom(helper.make_node("Abs", ["x"], ["h"], "op"))
    model.graph.initializer.remove(model.graph.initializer[0])
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:3], tensor.name))
    assert ops(normalised(model, IMAGE)) == ["Abs", "BatchNormalization", "Relu"]


def test_quantised_filter_stays() -> None:
    model = convolution()
    filters = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int8), "q")
    model.graph.initializer[0].CopyFrom(filters)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "s"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "s"], ["w"], "dq"))
    assert ops(normalised(model, IMAGE)) == [
        "DequantizeLinear", "Conv", "BatchNormalization", "Relu",
    ]  # fmt: skip


def test_half_precision_weights_stay_half() -> None:
    model = convolution()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    program = program_of(model)
    before = program.copy()
    assert len(Normalise().run(program)) == 1
    feeds = {"a/x": IMAGE["x"].astype(np.float16)}
    assert_close(run(program, feeds)["a/y"], run(before, feeds)["a/y"], rtol=2e-2, atol=5e-2)
    assert {str(weight.dtype) for weight in program.weights().values()} == {"float16"}


def test_a_wrong_fold_would_be_seen() -> None:
    program = program_of(convolution())
    before = program.copy()
    Normalise().run(program)
    weight = program.graph.nodes[0].inputs[1]
    assert isinstance(weight, gs.Constant)
    weight.values = weight.values * np.float32(1.01)
    with pytest.raises(AssertionError):
        feeds = {"a/x": IMAGE["x"]}
        assert_close(run(program, feeds)["a/y"], run(before, feeds)["a/y"], 1e-5, 1e-5)
