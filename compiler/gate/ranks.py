"""Whether one sample lies above another, by ranks: nothing is assumed of how times scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# One side of the test: asv, which watches benchmarks for years, asks for as much.
CHANCE = 0.002
# Of six and six values the most telling order has a chance of 1 in 924; of five and five 1 in 252.
FEWEST = 6


@dataclass(frozen=True)
class Shift:
    """By how much one sample lies above another: the median of all differences, and its interval.

    Each end of the interval is missed with a chance of CHANCE at most (Hodges and Lehmann 1963).
    The one sample is larger at that chance (Mann and Whitney 1947) where `low` is above zero.
    """

    value: float
    low: float
    high: float


def shift_of(now: Sequence[float], before: Sequence[float]) -> Shift | None:
    """The shift from `before` to `now`; None where there are too few values to tell anything."""
    if min(len(now), len(before)) < FEWEST:
        return None
    differences = np.sort(np.subtract.outer(np.array(now), np.array(before)).ravel())
    counts = _orders(len(now), len(before))
    shares = np.cumsum(counts) / counts.sum()
    # The k-th difference from an end bounds the shift, if fewer than k differences beyond it are
    # that rare.
    k = int(np.searchsorted(shares, CHANCE, side="right"))
    return Shift(float(np.median(differences)), float(differences[k - 1]), float(differences[-k]))


@lru_cache
def _orders(n: int, m: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """In how many orders of n and m values so many (0 .. n m) pairs stand the wrong way round."""
    # The product over i of (1 - q^(m+i)) / (1 - q^i), as coefficients.
    found = np.zeros(n * m + 1)
    found[0] = 1
    for i in range(1, n + 1):
        if m + i <= n * m:
            found[m + i :] -= found[: -(m + i)].copy()
        for at in range(i, n * m + 1):
            found[at] += found[at - i]
    return found
