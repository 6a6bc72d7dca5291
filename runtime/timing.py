"""Times of runs as figures: percentiles, and two sides that took turns as a ratio."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .json_values import JsonValue

CONFIDENCE = 0.95
_RESAMPLES = 2000
# An interval wider than this tells too little; with fewer turns its own width is a guess.
_WIDEST, _FEWEST = 1.1, 20


@dataclass(frozen=True)
class Latency(JsonValue):
    """Seconds for one frame through all models: percentiles over the runs, and the mean.

    Whatever else the machine does only adds to a run: the 10th percentile moves least with it.
    """

    p10_seconds: float
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float
    mean_seconds: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Latency:
        """The latency of runs that took so long."""
        p10, p50, p90, p99 = (float(np.percentile(seconds, q)) for q in (10, 50, 90, 99))
        return Latency(p10, p50, p90, p99, statistics.fmean(seconds))


@dataclass(frozen=True)
class RunTimes(JsonValue):
    """Every timed run, in order: seconds on the clock, and of processor time on all threads."""

    seconds: tuple[float, ...]
    processor_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Ratio(JsonValue):
    """One side's 10th percentile by the other's, and the interval that holds it.

    The interval is of a bootstrap over turns, in blocks of neighbouring ones, because what slows
    one turn slows the next: both sides keep the turns they ran in. The same samples give the same
    interval (Kuensch 1989, doi:10.1214/aos/1176347265, on a circle).
    """

    value: float
    low: float
    high: float
    confidence: float
    turns: int

    @staticmethod
    def of(one: Sequence[float], other: Sequence[float]) -> Ratio:
        """The ratio of two sides whose k-th runs were neighbours in time."""
        turns = len(one)
        pair = np.array([one, other], np.float64)
        (value,) = _ratios(pair[:, None, :])
        length = max(1, round(turns ** (1 / 3)))
        random = np.random.default_rng(0)
        starts = random.integers(0, turns, (_RESAMPLES, -(-turns // length), 1))
        rows = ((starts + np.arange(length)) % turns).reshape(_RESAMPLES, -1)[:, :turns]
        found = np.concatenate([_ratios(pair[:, part]) for part in np.array_split(rows, 20)])
        tail = 50 * (1 - CONFIDENCE)
        low, high = np.percentile(found, (tail, 100 - tail))
        return Ratio(float(value), float(low), float(high), CONFIDENCE, turns)

    @property
    def doubt(self) -> str:
        """Why this tells too little, in words; '' where it does not."""
        if self.turns < _FEWEST:
            return f"{self.turns} runs are too few to tell: give --runs {_FEWEST} or more"
        if self.high > _WIDEST * self.low:
            return (
                f"the machine is too noisy to tell: the ratio may be {self.low:.2f} to "
                f"{self.high:.2f}; end other programs, or give more --runs"
            )
        return ""


def _ratios(
    pairs: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Of [2, resamples, turns] the one side's 10th percentile by the other's."""
    one, other = np.percentile(pairs, 10, axis=2)
    return one / other
