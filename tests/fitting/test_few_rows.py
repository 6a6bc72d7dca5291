"""Fits on few rows: how far old weights are left, and wide problems by their rows' products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repsimc.compiler.fitting.few_rows import Dual, fit_on_few
from repsimc.compiler.fitting.regression import Affine, Normal, Problem

ROWS, FAN_IN, FAN_OUT = 60, 100, 7


def problem(rows: int, rectified: bool = False, skip: bool = False, seed: int = 0) -> Problem:
    """Rows of a map that is known: `truth(seed)`; noise of a tenth."""
    random = np.random.default_rng((seed, rows))
    x = random.standard_normal((rows, 1, FAN_IN)).astype(np.float32) + np.float32(0.5)
    other = random.standard_normal((rows, 1, FAN_OUT)).astype(np.float32) if skip else None
    wanted = truth(seed)(x) + random.standard_normal((rows, 1, FAN_OUT)).astype(np.float32) / 10
    wanted = wanted if other is None else wanted + other
    return Problem(x, np.maximum(wanted, 0) if rectified else wanted, other, rectified).centred()


def truth(seed: int) -> Affine:
    random = np.random.default_rng((seed, 1))
    weight = random.standard_normal((1, FAN_IN, FAN_OUT)) / np.sqrt(FAN_IN)
    return Affine(weight, random.standard_normal((1, FAN_OUT)))


def moved(found: Affine, by: float) -> Affine:
    noise = np.random.default_rng(3).standard_normal(found.weight.shape) * by
    return Affine(found.weight + noise, found.bias)


def lost(found: Affine, seen: Problem) -> float:
    assert seen.centre is not None
    made = found(seen.x + seen.centre)
    return float(np.square(made - seen.wanted).mean())


def near(one: Affine, other: Affine) -> bool:
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (one.weight, other.weight),
        (one.bias, other.bias),
    ]
    return all(np.allclose(a, b, atol=2e-3) for a, b in pairs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("rows", [ROWS, 2 * FAN_IN])
def test_the_dual_gives_the_same_map_as_the_normal_equations(
    bias: bool, rectified: bool, skip: bool, rows: int
) -> None:
    seen, start = problem(rows, rectified, skip), moved(truth(0), 0.05)
    dual, normal = Dual(seen, bias), Normal(seen, bias, 0.01)
    assert near(dual.fit(seen, start, 0.01), normal.fit(seen, start))
    ridges = [0.01, 0.1, 10.0]
    both = zip(dual.fits_at(seen, start, ridges), normal.fits_at(seen, start, ridges), strict=True)
    for (one, mine), (other, theirs) in both:
        assert one == other and near(mine, theirs)
    if not bias:
        assert (dual.fit(seen, start, 0.01).bias == start.bias).all()


def test_the_rows_are_left_as_they_are() -> None:
    seen = problem(ROWS)
    before = seen.x.copy()
    fit_on_few(seen, moved(truth(0), 0.05), True, 0.01)
    assert (seen.x == before).all()


@pytest.mark.parametrize("rows", [ROWS, 4 * FAN_IN])
def test_what_is_found_does_better_on_rows_that_no_fit_saw(rows: int) -> None:
    start, others = moved(truth(0), 0.2), problem(500)
    found = fit_on_few(problem(rows), start, True, 3e-3)
    assert lost(found, others) < 0.8 * lost(start, others)


def test_weights_that_nothing_does_better_than_stay() -> None:
    start = truth(0)
    assert fit_on_few(problem(ROWS), start, True, 3e-3) is start


def test_new_maps_are_never_left_at_nothing() -> None:
    start = Affine(np.zeros((1, FAN_IN, FAN_OUT)), np.zeros((1, FAN_OUT)))
    found = fit_on_few(problem(ROWS, seed=5), start, True, 3e-3)
    assert found.weight.any()
