"""Which units of a layer may go: those that the others explain, and the error that then rises."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.fitting.regression import Problem
from repsimc.compiler.fitting.unit_choice import eliminate_units, select_units
from tests.nets.networks import Array


def problem(x: Array, target: Array) -> Problem:
    """x [rows, columns] and target [rows, outputs] as one group; choosing overwrites the copy."""
    return Problem(x.copy()[:, None], target[:, None])


def rows(count: int = 600) -> tuple[Array, Array]:
    """Four units of one tap, of which the third is the sum of the first two; what they make."""
    random = np.random.default_rng(0)
    x = random.normal(size=(count, 4)).astype(np.float32)
    x[:, 2] = x[:, 0] + x[:, 1]
    target = x @ np.array([[1, 0], [0, 1], [0.5, 0.5], [0, 0.01]], np.float32)
    return x, target


def test_units_go_by_what_the_others_cannot_replace() -> None:
    x, target = rows()
    steps = list(eliminate_units(problem(x, target), 4, [3, 2, 1]))
    assert [len(kept) for kept, _ in steps] == [3, 2, 1]
    power = float(np.square(target - target.mean(axis=0)).sum())
    losses = [risen / power for _, risen in steps]
    assert losses[0] < 1e-4 and losses[1] < 0.01 < losses[2]
    assert 3 not in steps[1][0]  # hardly used
    assert select_units(problem(x, target), 4, 2).tolist() == steps[1][0].tolist()


def test_a_rise_is_what_a_fit_without_the_units_loses() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(800, 12)).astype(np.float32)
    target = (x @ random.normal(size=(12, 3))).astype(np.float32)
    ((kept, risen),) = eliminate_units(problem(x, target), 6, [3], ridge=1e-9)
    columns = (kept[:, None] * 2 + np.arange(2)).reshape(-1)
    x, target = x - x.mean(axis=0), target - target.mean(axis=0)
    left = target - x[:, columns] @ np.linalg.lstsq(x[:, columns], target)[0]
    assert risen == pytest.approx(float(np.square(left).sum()), rel=1e-3)


def drawn(count: int, units: int, taps: int) -> Array:
    return np.random.default_rng(0).standard_normal((count, units * taps)).astype(np.float32)


@pytest.mark.parametrize("taps", [1, 9])
def test_the_units_that_matter_are_kept(taps: int) -> None:
    x = drawn(2000, 8, taps)
    weight = np.zeros((8, taps, 3), np.float32)
    weight[[1, 4, 6]] = np.random.default_rng(1).standard_normal((3, taps, 3))
    target = x @ weight.reshape(-1, 3) + np.float32(2)
    assert select_units(problem(x, target), 8, 3).tolist() == [1, 4, 6]


def test_of_two_equal_units_one_is_kept() -> None:
    x = drawn(2000, 3, 1)
    x[:, 2] = x[:, 0]
    target = x[:, :1] + 0.5 * x[:, 1:2]
    kept = select_units(problem(x, target), 3, 2).tolist()
    assert 1 in kept
    assert len({0, 2} & set(kept)) == 1
