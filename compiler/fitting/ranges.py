"""Ranges of values that are rounded to 8 bits: which are worth trying, and the grids they make."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..graph.arrays import Array, Float32, Float64
from ..graph.eight_bits import Grid

Range = tuple[float, float]
"""The lowest and the highest number that is not clipped: low <= 0 <= high, low < high."""

# By how much frames that nobody has seen may go beyond the extremes of those that were.
_BEYOND = 1.25
# Shares of all numbers that a range may clip at either end.
_CLIPPED = (1e-4, 1e-3)
# Ends of a range as shares of the extremes, among which the least square error is looked for.
_SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
# Two ranges closer than this share of the wider one are tried as one.
_ALIKE = 0.01
_LEAST_SCALE = 1e-12
_STEPS, _SIGNED_STEPS = 255, 127


def wrong_range(low: float, high: float) -> str:
    """What is wrong with a range that somebody gives; '' where nothing is."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{low:g} to {high:g} is not finite"
    if not low <= 0.0 <= high:
        return f"{low:g} to {high:g} leaves out 0, which has to be representable"
    if abs(low) > np.finfo(np.float32).max or abs(high) > np.finfo(np.float32).max:
        return f"{low:g} to {high:g} does not fit into float32"
    return "" if low < high else "0 to 0 holds one number"


def grid_of(given: Range, signed: bool) -> Grid:
    """The grid of a range: with an exact 0; symmetric about it where codes are `signed`."""
    low, high = given
    if signed:
        return Grid(_scale(max(-low, high), _SIGNED_STEPS), 0, True)
    scale = _scale(high - low, _STEPS)
    return Grid(scale, int(np.clip(round(-low / scale), 0, _STEPS)), False)


def rounded(array: Array, grid: Grid) -> Float32:
    """What QuantizeLinear and DequantizeLinear make of an array, in float32."""
    least, most = (-128, 127) if grid.signed else (0, 255)
    codes = np.rint(array / np.float32(grid.scale)) + np.float32(grid.zero)
    np.clip(codes, least, most, out=codes)
    return ((codes - np.float32(grid.zero)) * np.float32(grid.scale)).astype(np.float32)


def ranges_worth_trying(
    sample: Array, extremes: Range, signed: bool, most: float = math.inf
) -> list[Range]:
    """A bit more than the extremes, these, percentiles, and the range of least square error.

    Alike ones once, widest first.

    The value is never above `most`. `sample` are finite numbers [n] of it. None where all are 0.
    """
    low, high = min(extremes[0], 0.0), max(extremes[1], 0.0)
    if not low < high or not sample.size:
        return []
    found: list[Range] = [(_BEYOND * low, min(_BEYOND * high, most)), (low, high)]
    for share in _CLIPPED:
        ends = np.quantile(sample, (share, 1.0 - share))
        found.append((max(low, min(float(ends[0]), 0.0)), min(high, max(float(ends[1]), 0.0))))
    found.append(_least_square(sample, (low, high), signed))
    kept: list[Range] = []
    for one in sorted(found, key=lambda ends: ends[0] - ends[1]):
        if one[0] < one[1] and not any(_alike(one, other) for other in kept):
            kept.append(one)
    return kept


def _least_square(sample: Array, extremes: Range, signed: bool) -> Range:
    """One end after the other is drawn in as long as that lowers the mean square error."""
    best, least = extremes, _error(sample, extremes, signed)
    for end in (1, 0):
        for share in _SHARES:
            ends = list(best)
            ends[end] = share * extremes[end]
            tried = ends[0], ends[1]
            if tried[0] < tried[1] and (error := _error(sample, tried, signed)) < least:
                best, least = tried, error
    return best


def _error(sample: Array, given: Range, signed: bool) -> float:
    return float(np.square(rounded(sample, grid_of(given, signed)) - sample).mean())


def _alike(one: Range, other: Range) -> bool:
    width = max(one[1] - one[0], other[1] - other[0])
    return max(abs(one[0] - other[0]), abs(one[1] - other[1])) <= _ALIKE * width


def _scale(width: float, steps: int) -> float:
    return float(np.float32(max(width / steps, _LEAST_SCALE)))


def lost_share(made: Sequence[Array], wanted: Sequence[Array]) -> float:
    """The share of its variance that an output loses; infinite where that is no finite number.

    Both are batches [frames, ...] of it. 0 of what is not float or does not vary.
    """
    if not wanted or any(array.dtype.kind != "f" for array in wanted):
        return 0.0
    one, other = _together(made), _together(wanted)
    if one.shape != other.shape:
        return math.inf
    varied = float(np.square(other - other.mean(axis=0, keepdims=True)).sum())
    lost = float(np.square(one - other).sum())
    if not math.isfinite(lost):
        return math.inf
    return lost / varied if varied > 0 else 0.0


def _together(batches: Sequence[Array]) -> Float64:
    """All frames [frames, ...]; all numbers [n, 1] where frames differ in size."""
    if len({array.shape[1:] for array in batches}) == 1 and batches[0].ndim:
        return np.concatenate(batches).astype(np.float64)
    return np.concatenate([array.reshape(-1, 1) for array in batches]).astype(np.float64)
