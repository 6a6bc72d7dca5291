"""Sums of a value per position over frames, which may differ in size; frames on the first axis."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..graph.arrays import Array, Float64


@dataclass
class PositionSums:
    """Sums per position of frames [n, ...]; axes in which frames differ are summed over.

    So means of maps of several sizes are means per channel. `count` numbers went into each sum.
    """

    count: int = 0
    _total: Float64 | None = field(default=None, repr=False)

    def add(self, frames: Float64) -> None:
        """Take in frames [n, ...] of one size."""
        total = frames.sum(axis=0) if frames.ndim else frames
        count = len(frames) if frames.ndim else 1
        if self._total is None:
            self._total, self.count = total, count
            return
        if total.ndim != self._total.ndim:
            total, count = _summed(total, count, tuple(range(total.ndim)), False)
            kept = tuple(range(self._total.ndim))
            self._total, self.count = _summed(self._total, self.count, kept, False)
        pairs = enumerate(zip(self._total.shape, total.shape, strict=True))
        apart = tuple(axis for axis, (mine, theirs) in pairs if mine != theirs)
        if apart:
            self._total, self.count = _summed(self._total, self.count, apart, True)
            total, count = _summed(total, count, apart, True)
        self._total = self._total + total
        self.count += count

    @property
    def power(self) -> float:
        """The sum of squares that the means alone make up: of every number its position's mean."""
        if self._total is None:
            return 0.0
        return float(np.nansum(self._total**2)) / self.count


def _summed(total: Float64, count: int, axes: tuple[int, ...], keep: bool) -> tuple[Float64, int]:
    numbers = int(np.prod([total.shape[axis] for axis in axes]))
    return np.asarray(total.sum(axis=axes, keepdims=keep)), count * numbers


def frames_first(count: int, *arrays: Array) -> tuple[Array, ...]:
    """The arrays with their axis of `count` frames first, where it is another one.

    A state [layers, frames, features], say. Left as they are where that cannot be told.
    """
    shape = arrays[0].shape
    if any(array.shape != shape for array in arrays) or not shape or shape[0] == count:
        return arrays
    axes = [axis for axis, size in enumerate(shape) if size == count]
    return arrays if len(axes) != 1 else tuple(np.moveaxis(array, axes[0], 0) for array in arrays)
