"""Symbols of joined models' shapes: apart, or one where inputs are tied."""

from __future__ import annotations

import pytest

from repsimc.compiler.errors import ModelError
from tests.frontends.given_models import SQUARE, TWICE, X, model
from tests.programs import joined, run


def shape(program: object, name: str) -> list[object]:
    return list(program.values()[name].shape)  # type: ignore[attr-defined]


def test_equal_symbols_of_untied_models_stay_different():
    program = joined(a=TWICE, b=TWICE)
    assert shape(program, "a/y") == ["N", 2]
    assert shape(program, "b/y") == ["b.N", 2]
    found = run(program, {"a/x": X, "b/x": X[:2]})
    assert found["b/y"].shape == (2, 2)


def test_symbols_of_tied_inputs_become_one():
    program = joined([[("a", "x"), ("b", "image")]], a=TWICE, b=SQUARE)
    assert shape(program, "x") == shape(program, "b/y") == ["N", 2]


def test_a_number_wins_over_a_symbol():
    fixed = model("g (float[3,2] x) => (float[3,2] y) { y = Neg(x) }")
    program = joined([[("a", "x"), ("b", "x")]], a=TWICE, b=fixed)
    assert shape(program, "x") == shape(program, "a/y") == [3, 2]


def test_a_symbol_cannot_be_two_numbers():
    square = model("g (float[N,N] x) => (float[N,N] y) { y = Neg(x) }")
    other = model("g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }")
    with pytest.raises(ModelError, match=r"2 and 3|3 and 2"):
        joined([[("a", "x"), ("b", "x")]], a=square, b=other)
