"""How close a compiled output stays to the original's: metrics, streamed over frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..errors import UsageError
from ..graph.arrays import Array, Float64, Int64
from .confidence import agreement_bound, variance_bound
from .positions import PositionSums

TOP1 = "top-1 agreement"
VARIANCE = "explained variance"
_SPELLINGS = {
    "top1": TOP1,
    "top-1": TOP1,
    TOP1: TOP1,
    "variance": VARIANCE,
    "explained-variance": VARIANCE,
    VARIANCE: VARIANCE,
}


def metric_for(
    shape: Sequence[int | str | None] | None, override: str | None = None, dtype: Any = np.float32
) -> str:
    """The metric of an output: top-1 agreement for scores [N, C > 1], else explained variance.

    `override` is a user's wish ('top1' or 'variance'). Raises UsageError for an unknown one.
    """
    if override is not None:
        metric = _SPELLINGS.get(override.lower())
        if metric is None:
            raise UsageError(
                f"'{override}' is not a fidelity metric", "use top1 (class scores) or variance"
            )
        return metric
    scores = shape is not None and len(shape) == 2 and shape[1] != 1
    return TOP1 if scores and np.issubdtype(np.dtype(dtype), np.floating) else VARIANCE


def metric_of(
    value: gs.Variable,
    override: str | None = None,
    shape: Sequence[int | str | None] | None = None,
) -> str:
    """The metric of a value of a program, as `metric_for`; of a `shape` that is told of it."""
    try:
        dtype = np.dtype(value.dtype)
    except TypeError:  # bfloat16 and the like: floating all the same
        dtype = np.dtype(np.float32)
    return metric_for(value.shape if shape is None else shape, override, dtype)


@dataclass
class LossMeter:
    """The share of its accuracy that a rewrite is expected to cost, without labels; by batches.

    For class scores: the sum over rows of p(own class) - p(new class) by the sum of p(own class),
    with p the original's own softmax and the classes those of the largest scores before and after.
    A row that changes sides where the original itself wavered costs little. If the original is
    calibrated, the divisor is its expected accuracy and the dividend what it expects to lose.
    Scores that are probabilities already are taken as they are. `change` is the largest change of
    a probability.
    """

    rows: int = 0
    change: float = 0.0
    _lost: float = 0.0
    _sure: float = 0.0
    _broken: bool = False

    def update(self, original: Array, compiled: Array) -> None:
        """Take in one batch of scores, arrays [..., C] of equal shape."""
        if original.shape != compiled.shape or not bool(np.all(np.isfinite(compiled))):
            self._broken = True
            return
        scores = original.reshape(-1, original.shape[-1]).astype(np.float64)
        found = compiled.reshape(scores.shape).astype(np.float64)
        sure, now = scores, found
        if not _sum_to_one(scores):
            sure, now = _softmax(scores), _softmax(found)
        self.change = max(self.change, float(np.abs(now - sure).max(initial=0.0)))
        chosen = found.argmax(-1)
        row = np.arange(len(scores))
        own = sure[row, scores.argmax(-1)]
        self._lost += float(np.sum(own - sure[row, chosen]))
        self._sure += float(np.sum(own))
        self.rows += len(scores)

    @property
    def value(self) -> float:
        """The loss so far, 0 to 1; 1 when nothing was seen."""
        return 1.0 if self._broken or not self.rows else self._lost / self._sure


def _sum_to_one(scores: Float64) -> bool:
    return bool(np.all(scores >= 0)) and bool(np.all(np.abs(scores.sum(-1) - 1) < 1e-3))


def _softmax(scores: Float64) -> Float64:
    spread = np.exp(scores - scores.max(-1, keepdims=True))
    return spread / spread.sum(-1, keepdims=True)


@dataclass
class FidelityMeter:
    """Fidelity of one output, accumulated batch by batch.

    Top-1 agreement is the share of rows whose largest score (last axis) has the same index.
    Explained variance is 1 - SSE / SST with SST the variance of the original around its mean
    per element position (axes after the first; of frames of several sizes those axes in which they
    agree), so that a constant output explains nothing.
    A non-finite compiled output where the original is finite counts as a total loss.
    `max_difference` is the largest absolute difference of finite values. Without `bounded` nothing
    is kept of each frame, and there is no bound.
    """

    metric: str
    bounded: bool = True
    frames: int = 0
    max_difference: float = 0.0
    _agree: int = 0
    _rows: int = 0
    _sse: float = 0.0
    _sums: PositionSums = field(default_factory=PositionSums, repr=False)
    _sum_squares: float = 0.0
    _broken: bool = False
    # Of each row of the first axis: its squared error, and its part of the variance.
    _first: list[Float64] = field(default_factory=list[Float64], repr=False)
    _second: list[Float64] = field(default_factory=list[Float64], repr=False)

    def update(self, original: Array, compiled: Array) -> None:
        """Take in one batch: arrays of equal shape, the first axis counting frames."""
        if original.shape != compiled.shape:
            self._broken = True
            return
        self.frames += int(original.shape[0]) if original.ndim else 1
        # A NaN compares as no agreement and no explained variance, never as a good value.
        if bool(np.any(~np.isfinite(compiled.astype(np.float64)) & np.isfinite(original))):
            self._broken = True
            return
        exact = original.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = compiled.astype(np.float64) - exact
        gaps = np.abs(difference)
        largest = float(gaps.max(initial=0.0, where=np.isfinite(gaps)))
        self.max_difference = max(self.max_difference, largest)
        if self.metric == TOP1:
            same = np.atleast_1d(original.argmax(-1) == compiled.argmax(-1))
            self._agree += int(np.sum(same))
            self._rows += same.size
            if self.bounded and len(same):
                self._first.append(np.zeros(len(same)))
            return
        squares = difference * difference
        self._sse += float(np.nansum(squares))
        before = self._sums.power
        self._sums.add(exact)
        if self.bounded and exact.ndim and len(exact):
            self._first.append(_by_row(squares))
            self._second.append(_parts(exact, before - self._sums.power))
        self._sum_squares += float(np.nansum(exact * exact))

    def bound(self, confidence: float, groups: Int64 | None = None, of: int | None = None) -> float:
        """What the frames so far prove of the fidelity: a lower bound, never above the value.

        `groups` numbers the frames that tell the same [frames]: each group counts once. With `of`
        the bound is that of so many groups of the spread that was seen.
        """
        if self._broken or not self._first:
            return min(0.0, self.value)
        first = _grouped(self._first, groups)
        if self.metric == TOP1:
            share = self.value
            return min(share, agreement_bound(share, of or len(first), confidence))
        if self.value >= 1.0:
            return 1.0
        second = _grouped(self._second, groups)
        found = variance_bound(first, second, confidence)
        if of is not None and len(first) > 1:
            found = self.value - (self.value - found) * math.sqrt(len(first) / of)
        return min(self.value, found)

    @property
    def value(self) -> float:
        """The fidelity so far, at most 1; 0 when nothing was seen."""
        if self._broken or not self.frames:
            return 0.0
        if self.metric == TOP1:
            return self._agree / self._rows if self._rows else 0.0
        total = self._sum_squares - self._sums.power
        if total <= 1e-12 * max(self._sum_squares, 1e-30):
            # A constant output: only (nearly) equal values keep it.
            return 1.0 if self._sse <= 1e-9 * max(self._sum_squares, 1e-30) else 0.0
        lost = self._sse / total
        # Float noise of an exact rewrite is not a loss: a floor of 1 must be reachable.
        return 1.0 if lost < 1e-9 else 1.0 - lost


def _parts(exact: Float64, fallen: float) -> Float64:
    """Each row's part in the variance: around its batch's mean, and the batch around all so far.

    `fallen` is what the power of the means fell by with the batch, so that all parts add up to the
    whole (Chan, Golub and LeVeque 1979).
    """
    mean = exact.sum(axis=0) / len(exact)
    apart = fallen + float(np.nansum(np.square(mean))) * len(exact)
    return _by_row(np.square(exact - mean)) + apart / len(exact)


def _by_row(squares: Float64) -> Float64:
    """The sum of each row, NaN left out."""
    return np.nansum(squares.reshape(len(squares), -1), axis=1)


def _grouped(batches: list[Float64], groups: Int64 | None) -> Float64:
    """Sums by group of what was kept of each row of outputs."""
    rows = np.concatenate(batches)
    if groups is None or not len(groups):
        return rows
    if len(rows) % len(groups):  # boxes that were found, say: whose they are is not known
        return np.array([batch.sum() for batch in batches])
    _, place = np.unique(groups, return_inverse=True)
    sums = np.zeros(int(place.max()) + 1)
    np.add.at(sums, place, rows.reshape(len(groups), -1).sum(axis=1))
    return sums
