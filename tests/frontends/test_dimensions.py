"""Symbols of joined models' shapes: apart, or one where inputs are tied."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.errors import ModelError
from repsimc.compiler.graph.free_size import FreeSize
from tests.frontends.given_models import SQUARE, TWICE, X, model
from tests.programs import joined, model_of_text, run

IMAGE = np.ones((2, 3, 4, 6), np.float32)


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


@pytest.mark.parametrize("name", ["?", "", "unk__12", "None", "-1", "dynamic", "Unknown", "dyn_3"])
def test_placeholders_name_no_size(name: str) -> None:
    proto = model_of_text(model("g (float[N,3,H,H] x) => (float[N,3,H,H] y) { y = Neg(x) }"))
    for info in (*proto.graph.input, *proto.graph.output):
        for dim in list(info.type.tensor_type.shape.dim)[2:]:
            dim.dim_param = name
    program = joined(a=proto)
    assert shape(program, "a/x") == ["N", 3, None, None]
    assert run(program, {"a/x": IMAGE})["a/y"].shape == IMAGE.shape


@pytest.mark.parametrize("name", ["height", "p2o.DynamicDimension.1", "dynamic_axes_1", "n"])
def test_names_that_mean_something_stay(name: str) -> None:
    proto = model_of_text(model("g (float[N,H] x) => (float[N,H] y) { y = Neg(x) }"))
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = name
    assert shape(joined(a=proto), "a/x") == ["N", name]


def test_the_batch_counts_frames_wherever_its_name_stands() -> None:
    turned = model("g (float[N,2] x) => (float[2,N] y) { y = Transpose<perm = [1, 0]> (x) }")
    program = joined([[("a", "x"), ("b", "x")]], a=turned, b=TWICE)
    batch = shape(program, "a/y")[1]
    assert isinstance(batch, FreeSize) and batch == "N"
    assert (batch.sizes, batch.per_frame) == ((1,), True)
