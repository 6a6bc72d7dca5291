"""What a sample of frames proves: one-sided lower bounds of fidelities, and frames that they need.

A bound at 0.95 is below the true fidelity in 95 of 100 such samples, as long as the frames to come
are like those of the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..graph.arrays import Float64

_BISECTIONS = 100
# Of the continued fraction: far more than it takes for millions of frames.
_TERMS = 10_000
_TINY = 1e-300


def agreement_bound(share: float, trials: int, confidence: float) -> float:
    """The least true share of successes when `trials` had this `share` of them, 0 to 1.

    Clopper and Pearson 1934, one-sided. `share * trials` need not be whole: trials may be groups of
    frames, of which a part agrees.
    """
    hits = share * trials
    if trials <= 0 or hits <= 0:
        return 0.0
    # P(X >= hits | p) rises with p; the bound is where it is as unlikely as the confidence leaves.
    misses = max(trials - hits, 0.0)
    return _rising(lambda p: beta_cdf(p, hits, misses + 1), 1 - confidence, 0.0, 1.0)


def variance_bound(errors: Float64, totals: Float64, confidence: float) -> float:
    """The least true 1 - E[error] / E[total], of squared errors and totals [n] of n groups of rows.

    The linearised ratio (Cochran, Sampling Techniques, 1977, section 6.3) with Student's t. One
    group says nothing of how groups differ: 0 then, or what was found if that is less.
    """
    count, total = len(errors), float(totals.sum())
    if not count or total <= 0:
        return 0.0
    ratio = float(errors.sum()) / total
    if count == 1:
        return min(0.0, 1 - ratio)
    residual = errors - ratio * totals
    spread = math.sqrt(count / (count - 1) * float(np.sum(residual * residual))) / total
    return 1 - ratio - t_quantile(confidence, count - 1) * spread


def trials_needed(floor: float, confidence: float) -> int | None:
    """How many trials without a miss prove that share; None where no number does."""
    if floor >= 1:
        return None
    if floor <= 0:
        return 0
    return math.ceil(math.log(1 - confidence) / math.log(floor) - 1e-9)


def t_quantile(probability: float, freedom: int) -> float:
    """Student's t below which that probability lies (0.5 and more), of such degrees of freedom."""

    def below(t: float) -> float:
        return 1 - 0.5 * beta_cdf(freedom / (freedom + t * t), freedom / 2, 0.5)

    high = 1.0
    while below(high) < probability and high < 1e12:
        high *= 2
    return _rising(below, probability, 0.0, high)


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b); a continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # it converges fast only below the mean
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # Lentz's method, as modified by Thompson and Barnett.
    value, c, d = 1.0, 1.0, 0.0
    for term in range(_TERMS):
        m = term // 2
        if term == 0:
            factor = 1.0
        elif term % 2:
            factor = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            factor = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + factor * d or _TINY)
        c = 1 + factor / c or _TINY
        value *= c * d
        if abs(c * d - 1) < 1e-13 and term > 1:
            break
    return front * (value - 1) / a


def _rising(function: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a rising function takes that value."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if function(middle) < wanted:
            low = middle
        else:
            high = middle
    return low
