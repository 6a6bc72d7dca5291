"""Debiased CKA against its definition on n by n matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.compiler.fitting.cka import debiased_cka
from tests.nets.networks import Array


def drawn(seed: int, rows: int, width: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def related(seed: int, x: Array, width: int, noise: float) -> Array:
    """An affine image of x with noise."""
    mixed = x @ drawn(seed, x.shape[1], width) + noise * drawn(seed + 1, len(x), width)
    return (mixed + drawn(seed + 2, 1, width)).astype(np.float32)


def direct_hsic(k: Array, m: Array) -> float:
    """HSIC_1 of Nguyen et al. 2020, equation 3, on n x n matrices."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    ones = np.ones(n)
    total = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3)))


def direct_cka(x: Array, y: Array) -> float:
    k, m = x.astype(float) @ x.T.astype(float), y.astype(float) @ y.T.astype(float)
    return direct_hsic(k, m) / np.sqrt(direct_hsic(k, k) * direct_hsic(m, m))


def biased_cka(x: Array, y: Array) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), rows=st.integers(8, 40), widths=st.tuples(*[st.integers(1, 9)] * 2)
)
def test_cka_is_that_of_the_n_by_n_matrices(seed: int, rows: int, widths: tuple[int, int]) -> None:
    x = drawn(seed, rows, widths[0]) + 1
    y = related(seed + 1, x, widths[1], 0.5)
    assert debiased_cka(x, y) == pytest.approx(direct_cka(x, y), rel=1e-6, abs=1e-9)


def test_cka_does_not_see_rotation_scale_or_offset() -> None:
    x = drawn(0, 200, 6)
    y = related(1, x, 6, 2.0)
    turned = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 6)))[0]
    expected = debiased_cka(x, y)
    assert 0.1 < expected < 0.95
    assert debiased_cka(x @ turned * 7 + 5, y) == pytest.approx(expected, rel=1e-5)
    assert debiased_cka(x, x @ turned) == pytest.approx(1.0, rel=1e-6)
    # It does see a map that is no rotation.
    assert debiased_cka(x * np.array([9, 1, 1, 1, 1, 1]), x) < 0.8


def test_cka_of_independent_values_is_near_zero_where_the_biased_one_is_not() -> None:
    x, y = drawn(0, 64, 300), drawn(1, 64, 300)
    assert biased_cka(x, y) > 0.7
    assert abs(debiased_cka(x, y)) < 0.05


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.ones((9, 3)), drawn(0, 9, 3)),
        (drawn(0, 9, 3), np.zeros((9, 2))),
        (drawn(0, 3, 3), drawn(1, 3, 3)),
        (drawn(0, 0, 3), drawn(1, 0, 3)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_cka_without_variance_or_rows_is_undefined(x: Array, y: Array) -> None:
    assert np.isnan(debiased_cka(x, y))
