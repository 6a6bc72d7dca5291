"""Looking things up in a program, and what may be known of a node without its graph."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest

from repsimc.compiler.graph.program import is_standard
from tests.programs import joined, program_of

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
TWO = f"""{HEAD} net (float[N,4] x) => (float[N,2] y, float[N,2] z)
{{ left, right = Split<axis = 1>(x) y = Relu(left) z = Add(right, y) }}"""


def test_names_of_the_ends() -> None:
    program = joined([[("a", "x"), ("b", "x")]], a=TWO, b=TWO)
    assert program.input_names == {"x"}
    assert program.output_names == {"a/y", "a/z", "b/y", "b/z"}


def test_order_is_that_of_the_makers() -> None:
    # Both values of a node have its position; inputs, which no node makes, have none.
    assert program_of(TWO).order() == {"a/left": 0, "a/right": 0, "a/y": 1, "a/z": 2}


@pytest.mark.parametrize(
    ("domain", "standard"),
    [(None, True), ("", True), ("ai.onnx", True), ("ai.onnx.ml", False), ("com.example", False)],
)
def test_standard_operators_by_their_domain(domain: str | None, standard: bool) -> None:
    assert is_standard(gs.Node("Relu", "r", domain=domain)) is standard


def test_new_names_are_given_once_and_bodies_have_theirs() -> None:
    program = program_of(
        '<ir_version: 8, opset_import: ["": 17]> g (bool c, float[2] x) => (float[2] y) {'
        "y = If (c) <then_branch = t () => (float[2] o) { o = Relu(x) },"
        " else_branch = e () => (float[2] p) { p = Neg(x) }> }"
    )
    names = program.names()
    assert names.free("a/new") == "a/new"
    assert [names.free("a/new") for _ in range(2)] == ["a/new_2", "a/new_3"]
    assert names.free("a/x") == "a/x_2"
    assert names.free("a/o") == program.unique_name("a/o") == "a/o_2"
    assert names.free("a/new_2") == "a/new_2_2"
