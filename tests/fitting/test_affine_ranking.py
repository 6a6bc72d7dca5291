"""R2 of affine maps between values, against least squares done directly."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repsimc.compiler.execution.samples import Samples
from repsimc.compiler.fitting.affine_ranking import AffineRanking

Array = NDArray[Any]


def drawn(seed: int, rows: int, width: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def related(seed: int, x: Array, width: int, noise: float) -> Array:
    """An affine image of x with noise."""
    mixed = x @ drawn(seed, x.shape[1], width) + noise * drawn(seed + 1, len(x), width)
    return (mixed + drawn(seed + 2, 1, width)).astype(np.float32)


def samples(spatial: tuple[int, ...] = (4, 4), **rows: Array) -> Samples:
    return Samples(
        rows, dict.fromkeys(rows, spatial), {name: rows.shape[1] for name, rows in rows.items()}
    )


def direct_r2(x: Array, y: Array) -> float:
    """Least squares with an intercept on three quarters of the rows, judged on the others."""
    cut = len(x) * 3 // 4
    left = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    weight = np.linalg.lstsq(left[:cut], y[:cut].astype(np.float64))[0]
    judged = y[cut:].astype(np.float64)
    error = ((left[cut:] @ weight - judged) ** 2).sum()
    return float(1 - error / ((judged - judged.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_r2_is_that_of_least_squares_on_rows_kept_back(noise: float) -> None:
    x = drawn(0, 800, 7) + 3
    y = related(1, x, 5, noise)
    ((found, donors),) = AffineRanking(samples(x=x, y=y), ["x"], ridge=1e-9).best("y")
    assert donors == ("x",)
    assert found == pytest.approx(direct_r2(x, y), abs=2e-4)


def test_r2_of_several_donors_is_that_of_their_channels_together() -> None:
    parts = {name: drawn(seed, 800, 4) for seed, name in enumerate("abc")}
    every = np.concatenate(list(parts.values()), axis=1)
    y = related(9, every, 5, 1.0)
    ranking = AffineRanking(samples(**parts, y=y), list(parts), ridge=1e-9)
    found = ranking.best("y", count=3)
    assert [len(donors) for _, donors in found] == [1, 2, 3]
    for r2, donors in found:
        together = np.concatenate([parts[name] for name in donors], axis=1)
        assert r2 == pytest.approx(direct_r2(together, y), abs=2e-4)
    assert found[0][0] == pytest.approx(max(direct_r2(x, y) for x in parts.values()), abs=2e-4)
    assert sorted(r2 for r2, _ in found) == [r2 for r2, _ in found]
    assert [donors[: len(first)] for (_, first), (_, donors) in pairwise(found)] == [
        first for _, first in found[:-1]
    ]


def test_a_donor_that_adds_nothing_is_not_added() -> None:
    x = drawn(0, 800, 4)
    data = samples(x=x, copy=x + 1, noise=drawn(1, 800, 4), y=related(2, x, 3, 0.3))
    assert len(AffineRanking(data, ["x", "copy", "noise"]).best("y", count=3)) == 1


def test_asking_again_gives_the_same() -> None:
    data = samples(**{name: drawn(seed, 400, 4) for seed, name in enumerate("abcd")})
    ranking = AffineRanking(data, ["a", "b", "c"])
    first = ranking.best("d", count=2)
    ranking.best("a", count=2)
    assert ranking.best("d", count=2) == first


@pytest.mark.filterwarnings("error")
def test_values_without_variance_are_no_receivers_and_poor_donors() -> None:
    x = drawn(0, 400, 3)
    data = samples(flat=np.full((400, 4), 2, np.float32), x=x, y=related(1, x, 3, 0.1))
    ranking = AffineRanking(data, ["flat", "x"])
    assert ranking.best("flat") == []
    assert ranking.best("y")[0][1] == ("x",)
    assert AffineRanking(data, ["flat"]).best("y")[0][0] < 0.05


def test_no_rows_no_donors() -> None:
    assert AffineRanking(Samples({}, {}, {}), []).donors == ()
    assert AffineRanking(samples(x=drawn(0, 80, 2)), []).best("x") == []


def test_values_of_one_place_a_frame_are_split_by_their_own_rows() -> None:
    # Beside maps of sixteen rows a frame; the first value says nothing of the others.
    pixels, vector = drawn(0, 1600, 6), drawn(1, 100, 4)
    found = Samples(
        {"map": pixels, "donor": vector, "receiver": related(2, vector, 3, 0.1)},
        {"map": (4, 4), "donor": (), "receiver": ()},
        {"map": 6, "donor": 4, "receiver": 3},
    )
    ((r2, donors), *_) = AffineRanking(found, ["map", "donor"]).best("receiver")
    assert donors == ("donor",) and r2 > 0.98
