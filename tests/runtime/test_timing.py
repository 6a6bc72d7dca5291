"""Times as figures: what the interval holds, and when it is said that it tells too little."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.runtime.timing import Latency, Ratio


def times(turns: int, seed: int, spread: float = 0.02) -> list[float]:
    """Runs of a second and what disturbs them: only ever more."""
    random = np.random.default_rng(seed)
    return (1 + random.exponential(spread, turns)).tolist()


def test_percentiles() -> None:
    found = Latency.of([float(n) for n in range(101)])
    assert found == Latency(10.0, 50.0, 90.0, 99.0, 50.0)


def test_the_interval_holds_the_ratio_that_is_there() -> None:
    held = 0
    for seed in range(40):
        found = Ratio.of([0.5 * t for t in times(100, seed)], times(100, seed + 1000))
        assert found.low <= found.value <= found.high and found.doubt == ""
        held += found.low <= 0.5 <= found.high
    assert held >= 34  # 38 are expected


def test_the_same_samples_give_the_same_interval() -> None:
    one, other = times(60, 1), times(60, 2)
    assert Ratio.of(one, other) == Ratio.of(one, other)


def test_a_slow_stretch_that_both_sides_share_moves_little() -> None:
    one, other = times(100, 1), times(100, 2)
    slow = [3.0 if 30 <= k < 70 else 1.0 for k in range(100)]
    found = Ratio.of([a * s for a, s in zip(one, slow)], [b * s for b, s in zip(other, slow)])
    assert found.value == pytest.approx(1, abs=0.02)


def test_doubt() -> None:
    assert "too few" in Ratio.of(times(19, 1), times(19, 2)).doubt
    wild = Ratio.of(times(40, 1, 4.0), times(40, 2, 4.0))
    assert wild.high > 1.1 * wild.low and "too noisy to tell" in wild.doubt


def test_one_run_is_a_ratio() -> None:
    found = Ratio.of([1.0], [2.0])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
