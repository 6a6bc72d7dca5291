from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.graph.text import text
from repsimc.passes.normalise import Normalise
from repsimc.passes.remove_no_ops import RemoveNoOps
from tests.passes.checking import floats, normalised, ops
from tests.programs import assert_same_outputs, model_of_text, program_of

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


@pytest.mark.parametrize(
    "line",
    [
        "m = Identity(h)",
        "m = Dropout(h)",
        "m, unread = Dropout(h, ratio, no)",
        "m = Cast<to = 1>(h)",
        "m = Reshape(h, same)",
        "m = Reshape(h, open)",
        "m = Flatten(h)",
        "m = Transpose<perm = [0, 1]>(h)",
        "m = Concat<axis = 1>(h)",
    ],
)
def test_nodes_that_change_nothing_go(line: str) -> None:
    model = f"""{HEAD} net (float[N,4] x) => (float[N,4] y)
    <float ratio = {{0.5}}, bool no = {{0}}, int64[2] same = {{0, 4}}, int64[2] open = {{-1, 4}}>
    {{ h = Relu(x) {line} y = Neg(m) }}"""
    program = normalised(model, {"x": floats(3, 4)})
    assert ops(program) == ["Relu", "Neg"]


@pytest.mark.parametrize(
    "line",
    [
        "m, mask = Dropout(h) k = Cast<to = 1>(mask)",
        "m = Dropout(h, ratio, yes) k = Neg(h)",
        "c = Cast<to = 11>(h) m = Cast<to = 1>(c) k = Neg(h)",
        "m = Reshape(h, other) k = Neg(h)",
        "m = Transpose<perm = [1, 0]>(h) k = Neg(h)",
        "m = Transpose(h) k = Neg(h)",
        "m = Flatten<axis = 0>(h) k = Neg(h)",
        "m = Concat<axis = 0>(h, h) k = Neg(h)",
    ],
)
def test_must_not_fire_when_something_changes(line: str) -> None:
    model = f"""{HEAD} net (float[4,4] x) => (float[P,Q] y, float[R,S] z)
    <float ratio = {{0.5}}, bool yes = {{1}}, int64[2] other = {{2, 8}}>
    {{ h = Relu(x) {line} y = Abs(m) z = Abs(k) }}"""
    program = program_of(model)
    before = text(program)
    assert Normalise().run(program) == []
    assert text(program) == before


def test_reshape_stays_where_two_dimensions_are_unknown() -> None:
    model = f"""{HEAD} net (float[N,M] x, int64[2] s) => (float[P,Q] y)
    {{ h = Relu(x) m = Reshape(h, s) y = Neg(m) }}"""
    assert ops(normalised(model)) == ["Relu", "Reshape", "Neg"]


def test_must_not_fire_when_an_output_would_lose_its_name() -> None:
    model = f"""{HEAD} net (float[N,4] x) => (float[N,4] y, float[N,4] z)
    {{ h = Relu(x) y = Identity(h) z = Dropout(y) }}"""
    program = normalised(model, {"x": floats(2, 4)})
    assert ops(program) == ["Relu", "Identity", "Dropout"]


def test_must_not_fire_when_a_mask_is_an_output() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[2,3] x) => (float[2,3] z, bool[2,3] mask)
    { h = Relu(x) y, mask = Dropout(h) z = Neg(y) }"""
    program = program_of(text)
    assert RemoveNoOps().run(program) == []
    assert_same_outputs(model_of_text(text), program)


def test_bodies_read_the_value_before() -> None:
    model = f"""{HEAD} net (float[N,4] x, bool flag) => (float[N,4] y) {{
      h = Relu(x) m = Identity(h)
      y = If (flag) <then_branch = t () => (float[N,4] a) {{ a = Neg(m) }},
                     else_branch = e () => (float[N,4] b) {{ b = Identity(m) }}>
    }}"""
    program = normalised(model, {"x": floats(2, 4), "flag": np.array(True)})
    assert ops(program) == ["Relu", "If"]
    bodies = list(program.graph.nodes[1].subgraphs())
    assert [body.nodes[0].inputs[0].name for body in bodies] == ["a/h", "a/h"]
    assert bodies[1].nodes[0].op == "Identity"  # bodies themselves are left alone
