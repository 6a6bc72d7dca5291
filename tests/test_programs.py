"""The comparison that all tests rest on must be able to fail."""

from __future__ import annotations

import numpy as np
import pytest

from tests.programs import assert_close, program_of, run

VALUES = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


def test_equal_arrays_pass():
    assert_close(VALUES.copy(), VALUES)
    assert_close(np.array([1.0, np.nan, np.inf]), np.array([1.0, np.nan, np.inf]))


def damaged(how: str) -> np.ndarray:
    values = VALUES.copy()
    if how == "scaled":
        return values * np.float32(1.01)
    if how == "swapped":
        return values[:, [1, 0, 2]]
    if how == "nan":
        values[0, 0, 0] = np.nan
        return values
    if how == "dtype":
        return values.astype(np.float64)
    if how == "shape":
        return values.reshape(2, 4, 3)
    return np.zeros_like(values)


@pytest.mark.parametrize("how", ["scaled", "swapped", "nan", "dtype", "shape", "zero"])
def test_damage_is_seen(how: str):
    with pytest.raises(AssertionError):
        assert_close(damaged(how), VALUES, rtol=1e-3, atol=1e-4)


def test_a_nan_that_should_be_there_is_missed():
    with pytest.raises(AssertionError):
        assert_close(np.zeros(1), np.array([np.nan]))


def test_run_gives_the_outputs_asked_for():
    program = program_of(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x)  z = Abs(x) }"""
    )
    found = run(program, {"a/x": np.array([-1, 2], np.float32)}, ["a/z"])
    assert list(found) == ["a/z"]
    assert_close(found["a/z"], np.array([1, 2], np.float32))
