"""Ranges in which values are whole numbers of 8 bits, by the least error on frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..graph.arrays import Array, Float32

# Frames that ranges go by, and numbers of a value that are kept of each batch.
FRAMES, _NUMBERS = 256, 16_384
# Shares of the extremes that a range may be cut at: what is beyond is clipped.
_CUTS = tuple(np.linspace(0.3, 1.0, 15))
_LEVELS = 255


@dataclass(frozen=True)
class EightBits:
    """A grid of 256 numbers, `scale * (code - zero)`; codes are int8 where `signed`, else uint8."""

    scale: float
    zero: int
    signed: bool = False

    def rounded(self, x: Float32) -> Float32:
        """The numbers of the grid that are nearest."""
        least, most = (-128, 127) if self.signed else (0, _LEVELS)
        codes = np.clip(np.round(x / np.float32(self.scale)) + self.zero, least, most)
        return ((codes - self.zero) * np.float32(self.scale)).astype(np.float32)


@dataclass
class _Seen:
    low: float = 0.0
    high: float = 0.0
    parts: list[Float32] = field(default_factory=list[Float32])


class ValueRanges:
    """Looks on at values and finds the grid of each with the least mean square error.

    0 is always a number of the grid: padding and ReLU make it. Symmetric grids have their zero in
    the middle. Values that are no floats, not finite, or never anything but 0 have none. Memory:
    16 384 numbers of a value for each batch, of at most 256 frames.
    """

    def __init__(self, values: Sequence[str], symmetric: bool = False) -> None:
        self.limit = FRAMES
        self.grids: dict[str, EightBits] = {}
        self._symmetric = symmetric
        self._seen = {name: _Seen() for name in dict.fromkeys(values)}
        self._frames = 0

    @property
    def values(self) -> Sequence[str]:
        """All that were finite floats so far; none once enough frames were seen."""
        return list(self._seen) if self._frames < FRAMES else []

    def begin(self, frames: int) -> None:
        """Nothing depends on how many frames follow."""

    def take(self, batch: slice, arrays: Mapping[str, Array]) -> None:
        """Keep the extremes, and evenly spaced numbers."""
        self._frames += batch.stop - batch.start
        for name in list(self._seen):
            array = arrays[name]
            if array.dtype != np.float32 or not array.size:
                del self._seen[name]
                continue
            flat, seen = array.reshape(-1), self._seen[name]
            low, high = float(flat.min()), float(flat.max())
            if not np.isfinite([low, high]).all():
                del self._seen[name]
                continue
            seen.low, seen.high = min(seen.low, low), max(seen.high, high)
            # An odd step, so that no channel or column rules.
            step = -(-flat.size // _NUMBERS) | 1
            seen.parts.append(flat[::step].copy())

    def finish(self) -> None:
        """Choose the grids."""
        for name, seen in self._seen.items():
            if seen.high > seen.low:
                numbers = np.concatenate(seen.parts)
                self.grids[name] = best_grid(numbers, seen.low, seen.high, self._symmetric)
        self._seen = {}


def best_grid(numbers: Float32, low: float, high: float, symmetric: bool = False) -> EightBits:
    """The grid of least mean square error on `numbers`, which lie from `low` <= 0 to `high` >= 0.

    Of the whole range and ranges that clip, cut at either end.
    """
    if symmetric:
        most = max(-low, high)
        grids = [EightBits(_scale(cut * most / 127), 0, True) for cut in _CUTS]
    else:
        lows = [cut * low for cut in _CUTS[::2]] if low < 0 else [0.0]
        highs = [cut * high for cut in _CUTS] if high > 0 else [0.0]
        grids = [_between(a, b) for a in lows for b in highs]
    errors = [_error(numbers, grid) for grid in grids]
    # Of equals the widest: it is the last.
    return grids[len(errors) - 1 - int(np.argmin(errors[::-1]))]


def _between(low: float, high: float) -> EightBits:
    scale = _scale((high - low) / _LEVELS)
    return EightBits(scale, int(np.clip(np.round(-low / scale), 0, _LEVELS)))


def _scale(wanted: float) -> float:
    """A scale as float32 has it, which is not 0."""
    return float(max(np.float32(wanted), np.finfo(np.float32).tiny))


def _error(numbers: Float32, grid: EightBits) -> float:
    return float(np.square(numbers - grid.rounded(numbers), dtype=np.float64).mean())
