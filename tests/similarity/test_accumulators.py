"""Sums that add up and come apart, and what is made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repsimc.compiler.similarity.accumulators import Moments, jackknife, u_centred
from tests.similarity.activations import hsic_1, pair


def test_u_centring_gives_hsic() -> None:
    x, y = pair()
    k, m = x @ x.T, y @ y.T
    n = len(x)
    inner = float((u_centred(k.copy()) * u_centred(m.copy())).sum()) / (n * (n - 3))
    assert inner == pytest.approx(hsic_1(k, m), rel=1e-9)


def test_moments_add_and_come_apart() -> None:
    x, y = pair()
    whole, first, rest = (Moments.of(x[s], y[s]) for s in (slice(None), slice(9), slice(9, None)))
    for combined, expected in ((first + rest, whole), (whole - first, rest)):
        assert combined.rows == expected.rows
        for a, b in zip(combined.centred(), expected.centred()):
            np.testing.assert_allclose(a, b, atol=1e-8)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=10)
    left_out = [np.delete(values, k).mean() for k in range(10)]
    expected = values.std(ddof=1) / math.sqrt(10)
    assert float(jackknife([np.asarray(v) for v in left_out])) == pytest.approx(expected)
