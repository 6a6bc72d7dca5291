"""Initializers that are inputs: defaults, or the weights of an exporter that lists them."""

from __future__ import annotations

import pytest

from repsimc.compiler.graph.opaque import DefaultInput
from tests.programs import program_of

SCALED = """<ir_version: {ir}, opset_import: ["" : 17]>
g (float[2,3] x, float k{listed}) => (float[2,2] y)
<float k = {{2}}, float[3,2] w = {{1, 2, 3, 4, 5, 6}}> {{ h = Mul(x, k)  y = MatMul(h, w) }}"""


def test_a_default_is_an_input_and_no_weight() -> None:
    program = program_of(SCALED.format(ir=8, listed=""))
    model = program.models["a"]
    assert (model.inputs, model.optional) == ({"x": "a/x"}, {"k": "a/k"})
    assert list(program.weights()) == ["a/w"]
    value = program.copy().values()["a/k"]
    assert isinstance(value, DefaultInput) and value.default == 2 and value.shape == []


@pytest.mark.parametrize(("ir", "told"), [(8, True), (3, False)])
def test_listed_weights_are_weights(ir: int, told: bool) -> None:
    model = program_of(SCALED.format(ir=ir, listed=", float[3,2] w"))
    (own,) = model.models.values()
    assert (own.inputs, own.optional) == ({"x": "a/x"}, {})
    assert sorted(model.weights()) == ["a/k", "a/w"]


def test_before_ir_4_every_initializer_had_to_be_an_input() -> None:
    program = program_of(SCALED.format(ir=3, listed=""))
    assert program.models["a"].optional == {}
