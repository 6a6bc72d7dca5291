"""Rank tests beside the counting of all orders."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from repsimc.compiler.gate import ranks
from repsimc.compiler.gate.ranks import CHANCE, FEWEST, shift_of


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (4, 4), (5, 3), (6, 6)])
def test_orders_are_counted(n: int, m: int) -> None:
    wrong = np.zeros(n * m + 1)
    for places in combinations(range(n + m), n):
        # Of the k-th of `n` values: how many of the m others stand before it.
        wrong[sum(place - k for k, place in enumerate(places))] += 1
    counts = ranks._orders(n, m)  # pyright: ignore[reportPrivateUsage]
    assert counts.tolist() == wrong.tolist()
    assert counts.sum() == comb(n + m, n)


def test_six_values_apart_from_six_are_told() -> None:
    found = shift_of([11, 12, 13, 14, 15, 16], [1, 2, 3, 4, 5, 6])
    assert found is not None and (found.value, found.low) == (10, 5)
    touching = shift_of([6.5, 12, 13, 14, 15, 16], [1, 2, 3, 4, 5, 7])
    assert touching is not None and touching.low < 0


def test_too_few() -> None:
    assert shift_of([1.0] * (FEWEST - 1), [1.0] * FEWEST) is None
    assert shift_of([1.0] * FEWEST, [1.0] * (FEWEST - 1)) is None


def test_equal_samples_do_not_differ_and_a_swap_turns_the_sign() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=10).tolist(), random.normal(1, 1, size=10).tolist()
    same, there, back = shift_of(one, one), shift_of(one, other), shift_of(other, one)
    assert same is not None and there is not None and back is not None
    assert same.value == 0 and same.low < 0 < same.high
    assert (back.value, back.low, back.high) == (-there.value, -there.high, -there.low)


def test_false_alarms_are_as_rare_as_they_may_be() -> None:
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(2000):
        found = shift_of(random.normal(size=8).tolist(), random.normal(size=8).tolist())
        assert found is not None
        alarms += found.low > 0
    assert alarms <= 2000 * CHANCE * 2.5
