"""Signs of a layer's numbers, and the dimension that its rows fill."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from repsimc.compiler.execution.signs import SignCounts, two_nn

Float64 = NDArray[np.float64]


def rotation(size: int, seed: int) -> Float64:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def test_sign_statistics() -> None:
    counts = SignCounts.empty(3)
    counts.add(np.array([[1.0, 0, -1], [1, 2, 0]]))
    counts.add(np.array([[1.0, 3, 1], [1, 0, 0]]))
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert counts.entropy() == pytest.approx((0 + 1 + quarter) / 3)
    assert counts.sign_entropy() == pytest.approx((0 + 1 + 1.5) / 3)
    assert counts.shares() == pytest.approx((7 / 12, 1 / 12))


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_two_nn_finds_the_dimension(dimension: int) -> None:
    random = np.random.default_rng(0)
    flat = random.uniform(size=(800, dimension)) @ rotation(20, 1)[:dimension]
    assert two_nn(flat) == pytest.approx(dimension, rel=0.25)
    assert math.isnan(two_nn(np.zeros((50, 4))))
