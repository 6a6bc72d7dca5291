"""Ends of a Range are scalars, whatever they were."""

from __future__ import annotations

import pytest

from tests.programs import program_of


@pytest.mark.parametrize(("shape", "made"), [("", 0), ("[1]", 1), ("[R]", 1)])
def test_only_ends_with_an_axis_are_reshaped(shape: str, made: int) -> None:
    program = program_of(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (int64{shape} n) => (int64[N] y) <int64 zero = {{0}}, int64 one = {{1}}>
        {{ y = Range(zero, n, one) }}"""
    )
    assert [node.op for node in program.graph.nodes] == ["Reshape"] * made + ["Range"]
    assert all(value.shape == [] for value in program.graph.nodes[-1].inputs[1:2])
