"""How close a compiled output stays to the original's: metrics, streamed over frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UsageError
from ..graph.arrays import Array, Float64
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


@dataclass
class LossMeter:
    """The share of its accuracy that a rewrite is expected to cost, without labels; by batches.

    For class scores: the sum over rows of p(own class) - p(new class) by the sum of p(own class),
    with p the original's own softmax and the classes those of the largest scores before and after.
    A row that changes sides where the original itself wavered costs little. If the original is
    calibrated, the divisor is its expected accuracy and the dividend what it expects to lose.
    Scores that are probabilities already are taken as they are.
    """

    rows: int = 0
    _lost: float = 0.0
    _sure: float = 0.0
    _broken: bool = False

    def update(self, original: Array, compiled: Array) -> None:
        """Take in one batch of scores, arrays [..., C] of equal shape."""
        if original.shape != compiled.shape or not bool(np.all(np.isfinite(compiled))):
            self._broken = True
            return
        scores = original.reshape(-1, original.shape[-1]).astype(np.float64)
        sure = _probabilities(scores)
        chosen = compiled.reshape(scores.shape).argmax(-1)
        row = np.arange(len(scores))
        own = sure[row, scores.argmax(-1)]
        self._lost += float(np.sum(own - sure[row, chosen]))
        self._sure += float(np.sum(own))
        self.rows += len(scores)

    @property
    def value(self) -> float:
        """The loss so far, 0 to 1; 1 when nothing was seen."""
        return 1.0 if self._broken or not self.rows else self._lost / self._sure


def _probabilities(scores: Float64) -> Float64:
    if bool(np.all(scores >= 0)) and bool(np.all(np.abs(scores.sum(-1) - 1) < 1e-3)):
        return scores
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
    """

    metric: str
    frames: int = 0
    _agree: int = 0
    _rows: int = 0
    _sse: float = 0.0
    _sums: PositionSums = field(default_factory=PositionSums, repr=False)
    _sum_squares: float = 0.0
    _broken: bool = False

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
        if self.metric == TOP1:
            self._agree += int(np.sum(original.argmax(-1) == compiled.argmax(-1)))
            self._rows += int(np.prod(original.shape[:-1]))
            return
        exact = original.astype(np.float64)
        difference = compiled.astype(np.float64) - exact
        self._sse += float(np.nansum(difference * difference))
        self._sums.add(exact)
        self._sum_squares += float(np.nansum(exact * exact))

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
