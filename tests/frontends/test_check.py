"""Graphs and numbers that are no usable model: refused with the model, the place and what to do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from repsimc.compiler.errors import ModelError
from tests.frontends.given_models import check_refused
from tests.programs import assert_same_outputs, program_of


def undefined(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nowhere"


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


def made_twice(model: onnx.ModelProto) -> None:
    model.graph.node.add().CopyFrom(model.graph.node[0])


def output_of_nothing(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nothing"


def no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def custom_domain_not_imported(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "acme"


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Frobnicate"
    model.graph.node[1].name = "the_node"


def unknown_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[1].attribute.append(helper.make_attribute("strength", 3))


def too_few_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[1]


def shapes_that_do_not_fit(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


def types_that_do_not_fit(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def far_future(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9999


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "undefined tensor": (undefined, "nowhere"),
    "cycle": (cycle, "y"),
    "value made twice": (made_twice, "h"),
    "output of nothing": (output_of_nothing, "nothing"),
    "no outputs": (no_outputs, "output"),
    "no opset": (no_opset, "opset"),
    "custom domain not imported": (custom_domain_not_imported, "acme"),
    "unknown operator": (unknown_operator, "node 'the_node'.*Frobnicate"),
    "unknown attribute": (unknown_attribute, "strength"),
    "too few inputs": (too_few_inputs, "MatMul"),
    "shapes": (shapes_that_do_not_fit, "MatMul"),
    "types": (types_that_do_not_fit, "MatMul|Type"),
    "opset of the future": (far_future, "opset"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_broken_graph(case: str):
    check_refused(*GRAPHS[case])


def with_number(number: float, op: str, dtype: str = "float32") -> onnx.ModelProto:
    array = np.ones((3, 3), np.float32)
    array[1, 2] = number
    tensor = numpy_helper.from_array(array.astype(dtype), "w")
    kind = tensor.data_type
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [3, 3])],
        [helper.make_tensor_value_info("y", kind, [3, 3])],
        [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("op", ["MatMul", "PRelu"])
def test_nan_in_a_weight(op: str, dtype: str):
    with pytest.raises(ModelError, match=r"weight 'w' of model 'a' \(a.onnx\) holds NaN"):
        program_of(with_number(np.nan, op, dtype))


@pytest.mark.parametrize("number", [np.inf, -np.inf])
def test_infinity_in_a_weight(number: float):
    with pytest.raises(ModelError, match=r"weight 'w'.*infinity"):
        program_of(with_number(number, "MatMul"))
    assert "a/w" in program_of(with_number(number, "Add")).weights()


def test_nan_in_a_constant_that_is_no_weight_is_kept_and_told():
    program = program_of(with_number(np.nan, "Max"))
    assert_same_outputs(with_number(np.nan, "Max"), program)
    assert program.models["a"].remarks == ("constant 'a/w' holds NaN, which is kept",)


def test_nan_inside_a_body():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}>
        { y = If (c) < then_branch = t () => (float[2] o) { o = PRelu(x, w) },
                       else_branch = e () => (float[2] p) { p = Neg(x) }> }"""
    )
    array = np.array([1, np.nan], np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    with pytest.raises(ModelError, match=r"weight 'w'.*NaN"):
        program_of(model)
