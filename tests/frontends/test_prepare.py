"""Models made light: names are unique, constants are weights."""

from __future__ import annotations

import onnx
from onnx import helper

from tests.frontends.given_models import SMALL, check_refused
from tests.programs import assert_same_outputs, model_of_text, program_of


def test_empty_and_duplicate_node_names_become_unique():
    model = model_of_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y)
        { a = Neg(x)  b = Neg(a)  c = Neg(b)  d = Abs(c)  y = Neg(d) }"""
    )
    for node, name in zip(model.graph.node, ["n", "n", "", "Neg_2", "n"]):
        node.name = name
    program = program_of(model)
    found = [node.name for node in program.graph.nodes]
    assert found == ["a/n", "a/n_2", "a/Neg_2_2", "a/Neg_2", "a/n_3"]
    assert [node.name for node in program_of(model).graph.nodes] == found


def test_initializers_listed_as_inputs_are_weights():
    model = model_of_text(SMALL)
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 3]))
    program = program_of(model)
    assert list(program.models["a"].inputs) == ["x"]
    assert set(program.weights()) == {"a/w"}
    assert_same_outputs(model, program)


def test_constant_nodes_become_weights():
    model = model_of_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y)
        { a = Constant<value = float[2] {1, 2}>()  b = Constant<value_float = 3.0>()
          i = Constant<value_ints = [1]>()
          p = Mul(x, a)  q = Add(p, b)  y = Gather<axis=0>(q, i) }"""
    )
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    program = program_of(model)
    assert [node.op for node in program.graph.nodes] == ["Mul", "Add", "Gather"]
    assert set(program.weights()) == {"a/a", "a/b", "a/i"}
    assert_same_outputs(model, program)


def weight_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])


def test_two_weights_of_one_name():
    check_refused(weight_twice, "two weights named 'w'")
