from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import given, settings

from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.graph.weights import nbytes_of, unique_nbytes
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
