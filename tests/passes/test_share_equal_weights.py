from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from repsimc.compiler.graph.export import to_proto
from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.graph.weights import nbytes_of, unique_nbytes
from repsimc.compiler.structure.cost import program_cost
from repsimc.passes.share_equal_weights import ShareEqualWeights
from tests.nets.random_graphs import siblings
from tests.programs import assert_close, joined, program_of, run

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def layer(weight: str, kind: str = "float[2,2]", more: str = "") -> str:
    dtype = kind.split("[", maxsplit=1)[0]
    return f"""{HEAD} net ({dtype}[N,2] x) => ({dtype}[N,2] y)
    <{kind} w = {{{weight}}}> {{ y = MatMul(x, w) {more} }}"""


def test_equal_weights_of_two_models_are_held_once(golden: Callable[[str, str], None]) -> None:
    program = joined((), a=layer("1, 2, 3, 4"), b=layer("1, 2, 3, 4"))
    before = program.copy()
    (change,) = ShareEqualWeights().run(program)
    verify(program)
    assert change.what == "weight 'b/w' equals 'a/w' and is held once"
    assert (change.node, change.nbytes_saved) == ("b/w", 16)
    assert list(program.weights()) == ["a/w"]
    golden("share_equal_weights.txt", text(program))
    feeds = {"a/x": np.ones((1, 2), np.float32), "b/x": np.full((3, 2), 2, np.float32)}
    expected, actual = run(before, feeds), run(program, feeds)
    for name in expected:
        assert_close(actual[name], expected[name], 0, 0)


def test_must_not_fire_when_weights_differ() -> None:
    for other in (
        layer("1, 2, 3, 5"),
        layer("1, 2, 3, 4", "double[2,2]"),
        layer("1, 2, 3, 4", "float[2,2]").replace("1, 2", "1, 2.0000002"),
    ):
        program = joined((), a=layer("1, 2, 3, 4"), b=other)
        before = text(program)
        assert ShareEqualWeights().run(program) == []
        assert text(program) == before


def test_zero_and_minus_zero_are_two_weights() -> None:
    program = joined((), a=layer("0, 2, 3, 4"), b=layer("0, 2, 3, 4"))
    program.weights()["b/w"].values = np.array([[-0.0, 2], [3, 4]], np.float32)
    assert ShareEqualWeights().run(program) == []


def test_shape_counts() -> None:
    model = f"""{HEAD} net (float[N,4] x) => (float[N,4] y)
    <float[4] w = {{1, 2, 3, 4}}, float[1,4] v = {{1, 2, 3, 4}}>
    {{ h = Add(x, w) y = Add(h, v) }}"""
    assert ShareEqualWeights().run(program_of(model)) == []


def test_within_a_model_and_in_bodies() -> None:
    model = f"""{HEAD} net (float[N,2] x, bool flag) => (float[N,2] y)
    <float[2] w = {{1, 2}}, float[2] v = {{1, 2}}> {{
      h = Add(x, w) k = Mul(h, v)
      y = If (flag) <then_branch = t () => (float[N,2] a) {{ a = Sub(k, v) }},
        else_branch = e () => (float[N,2] b) <float[2] u = {{1, 2}}> {{ b = Sub(k, u) }}>
    }}"""
    program = program_of(model)
    before = program.copy()
    (change,) = ShareEqualWeights().run(program)
    verify(program)
    assert change.node == "a/v"
    feeds = {"a/x": np.ones((1, 2), np.float32), "a/flag": np.array(True)}
    assert_close(run(program, feeds)["a/y"], run(before, feeds)["a/y"], 0, 0)


def branches(then: float, other: float, size: int = 40) -> onnx.ModelProto:
    """An If whose branches hold a weight each and the model none; equal ones where told so."""
    net = f"net (float[N,{size}] x, bool flag) => (float[N,{size}] y)"
    model = onnx.parser.parse_model(f"""{HEAD} {net} {{
      y = If (flag) <then_branch = t () => (float[N,{size}] a) {{ p = MatMul(x, w) a = Neg(p) }},
        else_branch = e () => (float[N,{size}] b) {{ b = MatMul(x, v) }}> }}""")
    for attribute, name, value in zip(model.graph.node[0].attribute, "wv", (then, other)):
        array = np.full((size, size), value, np.float32)
        attribute.g.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("copied", [False, True])
def test_large_weights_of_bodies_are_held_once(copied: bool) -> None:
    program = joined([[("a", "x"), ("b", "x")]], a=branches(1, 1), b=branches(1, 2))
    before = program.copy()
    changes = ShareEqualWeights().run(program)
    assert sorted(change.node for change in changes) == ["a/v", "b/w"]
    program = program.copy() if copied else program
    assert ShareEqualWeights().run(program) == []
    verify(program)
    # What is predicted is what the file holds.
    held = to_proto(program)
    arrays = sum(len(t.raw_data) for t in weights_of(held.graph))
    assert arrays == program_cost(program).weights_nbytes == 2 * 40 * 40 * 4
    feeds = {"x": np.ones((1, 40), np.float32), "a/flag": np.array(True), "b/flag": np.array(False)}
    for name, expected in run(before, feeds).items():
        assert_close(run(program, feeds)[name], expected, 0, 0)


def test_small_weights_of_bodies_stay_with_them() -> None:
    program = joined([[("a", "x"), ("b", "x")]], a=branches(1, 1, 4), b=branches(1, 2, 4))
    assert ShareEqualWeights().run(program) == []
    arrays = sum(len(t.raw_data) for t in weights_of(to_proto(program).graph))
    assert arrays == program_cost(program).weights_nbytes == 4 * 4 * 4 * 4


def weights_of(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """The initializers of the graph and of its bodies."""
    bodies = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.initializer, *(t for body in bodies for t in weights_of(body))]


@settings(max_examples=20, deadline=None)
@given(siblings())
def test_random_programs(models: list[onnx.ModelProto]) -> None:
    program = joined((), **dict(zip("abc", models, strict=False)))
    weights = list(program.weights().values())
    changes = ShareEqualWeights().run(program)
    verify(program)
    left = list(program.weights().values())
    total = sum(map(nbytes_of, left))
    assert total == unique_nbytes(left) == unique_nbytes(weights)
    assert total == sum(map(nbytes_of, weights)) - sum(c.nbytes_saved for c in changes)
    assert ShareEqualWeights().run(program) == []
