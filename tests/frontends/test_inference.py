"""Types and shapes of values that a model does not tell."""

from __future__ import annotations

import numpy as np

from tests.frontends.given_models import SMALL
from tests.programs import model_of_text, program_of


def test_values_know_their_type_and_shape():
    program = program_of(SMALL)
    for name, shape in {"a/x": ["N", 4], "a/h": ["N", 3], "a/y": ["N", 3]}.items():
        value = program.values()[name]
        assert value.dtype == np.float32
        assert value.shape == shape


def test_shapes_are_told_through_shape_arithmetic():
    program = program_of(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2,3,4] x) => (float[p,q] y)
        <int64[1] zero = {0}, int64[1] minus = {-1}>
        { s = Shape(x)  n = Gather(s, zero)  t = Concat<axis=0>(n, minus)  r = Reshape(x, t)
          y = Neg(r) }"""
    )
    assert program.values()["a/r"].shape == [2, 12]


def test_an_output_without_a_shape_gets_one():
    model = model_of_text(SMALL)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert program_of(model).values()["a/y"].shape == ["N", 3]
