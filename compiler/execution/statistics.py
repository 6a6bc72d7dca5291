"""How straight activation functions are on the frames, and which values never change there.

One forward pass; per channel only sums, counts and extremes are kept, and of values that were the
same so far two frames. A measurement that cannot turn out to be of use is settled after a first
look: what is the same on every frame, or always on one straight piece, has to be so on all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..graph.arrays import Array, Float64
from ..graph.program import Program
from ..structure.activation_functions import Activation
from ..structure.straight_pieces import straight
from .executable import Executable
from .feeds import FrameSet
from .observing import observe

# Frames of a first look, and the rows that they have to give: variances are then known to a tenth.
_FIRST_FRAMES = 32
_FIRST_ROWS = 512
# Frames for what only ranks; constants and dead channels are asked of all.
_RANKING_FRAMES = 128
# Places of a frame that sums are taken over; extremes are taken over all.
_PLACES = 64
# What rounding may move: extremes closer than this share of the largest number are equal.
ROUNDING = 1e-6
# Channels whose variance is at most this share of the mean channel's are quiet.
QUIET = 0.1
# Shares of variance lost above which a first look is enough: twice what is ever of use.
_HOPELESS = 0.8


@dataclass(frozen=True)
class Straightness:
    """What an activation did on the frames, per channel.

    `slope` and `offset` are its own where all inputs lie on one straight piece, else the best
    affine fit; `lost` is the mean square that the fit leaves, `power` the variance of the outputs.
    """

    activation: Activation
    slope: Float64
    offset: Float64
    lost: Float64
    power: Float64

    @property
    def damage(self) -> float:
        """The share of the outputs' variance, over all channels, that the affine map loses."""
        total = float(self.power.sum())
        return float(self.lost.sum()) / total if total > 0 else 0.0


@dataclass(frozen=True)
class Range:
    """Extremes, mean and variance of a value per channel."""

    low: Float64
    high: Float64
    mean: Float64
    variance: Float64

    def constant(self) -> NDArray[np.bool_]:
        """Which channels had one number on all frames and places, but for rounding."""
        scale = np.maximum(np.abs(self.low), np.abs(self.high)).max(initial=0)
        return self.high - self.low <= ROUNDING * scale


@dataclass
class Statistics:
    """What was measured on `frames` frames; by value name.

    `constants` holds values that were the same on every frame: their mean, [1, ...]. `attention`
    holds, by (earlier map, later map) of adjacent layers, the R2 of the one as the other.
    """

    frames: int = 0
    activations: dict[str, Straightness] = field(default_factory=dict[str, Straightness])
    ranges: dict[str, Range] = field(default_factory=dict[str, Range])
    constants: dict[str, Array] = field(default_factory=dict[str, Array])
    attention: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])


class StatisticsObserver:
    """Statistics of the values that the measures are about, on the first `limit` frames (all).

    Values of unknown layout or whose first axis is not that of the frames are left out. Unless
    `settles` is False, what cannot be of use is looked at on a few frames only.
    """

    def __init__(
        self, measures: Sequence[ValueMeasure], limit: int | None = None, settles: bool = True
    ) -> None:
        self.limit = limit
        self.found = Statistics()
        self._settles = settles
        self._measures = list(measures)
        self._open = list(measures)

    @property
    def values(self) -> Sequence[str]:
        """The values of all measures that are not settled."""
        return list(dict.fromkeys(name for one in self._open for name in one.values))

    def begin(self, frames: int) -> None:
        """Nothing depends on how many frames follow."""

    def take(self, batch: slice, arrays: Mapping[str, Array]) -> None:
        """ValueMeasure one batch."""
        count = batch.stop - batch.start
        self.found.frames += count
        still_open: list[ValueMeasure] = []
        for one in self._open:
            if not _taken(one, [arrays[name] for name in one.values], count):
                self._measures.remove(one)
            elif not (self._settles and one.settled(self.found.frames)):
                still_open.append(one)
        self._open = still_open

    def finish(self) -> None:
        """Fill `found`."""
        for one in self._measures if self.found.frames else ():
            one.finish(self.found)


def measured(program: Program, measures: Sequence[ValueMeasure], frames: FrameSet) -> Statistics:
    """What the measures give on all of the frames, in one pass; nothing is settled early."""
    known = program.values()
    there = [one for one in measures if all(name in known for name in one.values)]
    observer = StatisticsObserver(there, settles=False)
    observe(program, lambda limit: frames, [observer])
    return observer.found


def measure_activation(
    program: Program, activation: Activation, frames: FrameSet
) -> Straightness | None:
    """How straight one activation is on the frames; None where that cannot be told."""
    found = measured(program, [StraightMeasure(activation)], frames)
    return found.activations.get(activation.value)


def measure_ranges(
    program: Program, values: Mapping[str, int], frames: FrameSet
) -> dict[str, Range]:
    """The ranges of the values on the frames; `values` gives each the axis of its channels."""
    measures = [RangeMeasure(name, axis) for name, axis in values.items()]
    return measured(program, measures, frames).ranges


def mean_of(program: Program, value: str, frames: FrameSet) -> Array | None:
    """The mean over frames of a value, [1, ...] float64; None where its frames differ in shape."""
    segment = Executable(program, None, [value])
    total, count = None, 0
    for frame_count, feeds in zip(frames.counts, frames.batches(segment.inputs)):
        (array,) = segment(feeds)
        if array.ndim < 1 or len(array) != frame_count:
            return None
        part = array.sum(axis=0, dtype=np.float64)
        if total is not None and total.shape != part.shape:
            return None
        total = part if total is None else total + part
        count += len(array)
    return None if total is None or not np.isfinite(total).all() else (total / count)[None]


def smallest_constant(array: Array) -> Array:
    """The smallest array that broadcasts to the same [1, ...]: axes of equal numbers shrink."""
    scale = float(np.abs(array).max(initial=0))
    for axis in range(array.ndim):
        if array.shape[axis] > 1 and float(np.ptp(array, axis=axis).max()) <= 1e-6 * scale:
            array = array.mean(axis=axis, keepdims=True, dtype=np.float64).astype(array.dtype)
    while array.ndim and array.shape[0] == 1:
        array = array[0]
    return np.ascontiguousarray(array)


def fits_any_size(constant: Array, value: gs.Variable) -> bool:
    """Whether the constant broadcasts to the value whatever its free sizes will be."""
    shape = value.shape
    if shape is None or constant.ndim > len(shape):
        return not constant.ndim
    sizes = zip(constant.shape[::-1], reversed(list(shape)))
    return all(size == 1 or isinstance(dimension, int) for size, dimension in sizes)


# -- keeping ----------------------------------------------------------------------------------


def _taken(measure: ValueMeasure, arrays: Sequence[Array], count: int) -> bool:
    """Whether the arrays of so many frames were of a kind that can be measured, and of use."""
    return all(
        a.ndim >= 2 and len(a) == count and a.dtype.kind == "f" and a.size for a in arrays
    ) and measure.take(*arrays)


def _extremes(array: Array, axis: int) -> tuple[Array, Array]:
    """Lowest and highest number per channel. Along contiguous memory: several times as fast."""
    if axis == array.ndim - 1:
        rows = array.reshape(-1, array.shape[-1])
        return rows.min(axis=0), rows.max(axis=0)
    places = np.moveaxis(array, axis, 1).reshape(len(array), array.shape[axis], -1)
    return places.min(axis=2).min(axis=0), places.max(axis=2).max(axis=0)


def _some_rows(array: Array, axis: int) -> Array:
    """Rows [n, channels] at evenly spaced places, at most `_PLACES` of every frame."""
    if axis == array.ndim - 1:
        places = array.reshape(len(array), -1, array.shape[-1])
        step = -(-places.shape[1] // _PLACES)
        return places[:, ::step].reshape(-1, array.shape[-1])
    places = np.moveaxis(array, axis, 1).reshape(len(array), array.shape[axis], -1)
    step = -(-places.shape[2] // _PLACES) | 1  # odd, so that it does not stay in one column
    return np.ascontiguousarray(places[:, :, ::step].swapaxes(1, 2)).reshape(-1, places.shape[1])


class _ChannelMeasure:
    """Extremes of the first value per channel, and sums of all values and of their products.

    `take` says whether arrays could be used: finite, and of the shapes that came before.
    """

    def __init__(self, values: tuple[str, ...], axis: int) -> None:
        self.values, self.axis, self._rows = values, axis, 0

    def take(self, *arrays: Array) -> bool:
        """Add arrays of one batch."""
        if any(array.shape != arrays[0].shape for array in arrays):
            return False
        low, high = _extremes(arrays[0], self.axis)
        rows = [_some_rows(array, self.axis) for array in arrays]
        if not all(np.isfinite(part).all() for part in (low, high, *rows[1:])):
            return False
        if not self._rows:
            # Sums of squares are taken about the first piece's means: less is lost to rounding.
            self._means = [part.mean(axis=0) for part in rows]
            self._low, self._high, self._sums = low, high, np.zeros(1)
        if rows[0].shape[1] != len(self._low):
            return False
        self._rows += len(rows[0])
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        apart = [part - mean for part, mean in zip(rows, self._means)]
        parts = [*apart, *(a * b for a, b in combinations_with_replacement(apart, 2))]
        self._sums = self._sums + np.stack([part.sum(axis=0, dtype=np.float64) for part in parts])
        return True

    def had_first_look(self, frames: int) -> bool:
        """Whether so many frames gave enough rows to tell what is hopeless."""
        return frames >= _FIRST_FRAMES and self._rows >= _FIRST_ROWS


class StraightMeasure(_ChannelMeasure):
    """How straight an activation function is."""

    def __init__(self, activation: Activation) -> None:
        super().__init__((activation.given, activation.value), activation.axis)
        self.activation = activation

    def settled(self, frames: int) -> bool:
        """Whether it bends too much, or bends in every channel and is known well enough."""
        if not self.had_first_look(frames):
            return False
        found, exact = self._straightness()
        return found.damage > _HOPELESS or (frames >= _RANKING_FRAMES and not exact)

    def finish(self, found: Statistics) -> None:
        """Note the straightness."""
        found.activations[self.activation.value] = self._straightness()[0]

    def _straightness(self) -> tuple[Straightness, bool]:
        """The straightness so far, and whether any channel was on one straight piece."""
        x, y, xx, xy, yy = self._sums / max(self._rows, 1)
        sxx, syy, sxy = xx - x * x, yy - y * y, xy - x * y
        varies = sxx > 1e-12 * np.maximum(xx, 1e-30)
        slope = np.where(varies, sxy / np.maximum(sxx, 1e-300), 0.0)
        offset = (self._means[1] + y) - slope * (self._means[0] + x)
        lost = np.maximum(syy - np.where(varies, sxy**2 / np.maximum(sxx, 1e-300), 0), 0)
        straight_pieces = False
        if len(self.activation.nodes) == 1:
            low, high = self._low.astype(np.float64), self._high.astype(np.float64)
            own = straight(self.activation.nodes[0], low, high, self.axis)
            exact = ~np.isnan(own[0])
            straight_pieces = bool(exact.any())
            slope, offset = np.where(exact, own[0], slope), np.where(exact, own[1], offset)
            lost = np.where(exact, 0.0, lost)
        power = np.maximum(syy, 0)
        return Straightness(self.activation, slope, offset, lost, power), straight_pieces


class RangeMeasure(_ChannelMeasure):
    """Extremes, mean and variance of a value per channel.

    It is of use where at least so many of the channels are quiet, or constant.
    """

    def __init__(self, name: str, axis: int, fewest: int = 1) -> None:
        super().__init__((name,), axis)
        self._fewest = fewest

    def settled(self, frames: int) -> bool:
        """Whether too few channels are quiet, or constant once variances are known."""
        if not self.had_first_look(frames):
            return False
        found = self._range()
        still = found.constant()
        quiet = still | (found.variance <= 2 * QUIET * found.variance.mean())
        if quiet.sum() < self._fewest:
            return True
        return frames >= _RANKING_FRAMES and bool(still.sum() < self._fewest)

    def finish(self, found: Statistics) -> None:
        """Note the range."""
        found.ranges[self.values[0]] = self._range()

    def _range(self) -> Range:
        mean, square = self._sums / max(self._rows, 1)
        variance = np.maximum(square - mean * mean, 0)
        low, high = self._low.astype(np.float64), self._high.astype(np.float64)
        mean = np.clip(self._means[0] + mean, low, high)  # a constant's mean is the constant
        return Range(low, high, mean, variance)


class ConstantMeasure:
    """Extremes of every element over the frames; given up at the first piece that varies."""

    def __init__(self, name: str) -> None:
        self.values = (name,)
        self._low: Array | None = None
        self._high: Array | None = None

    def take(self, *arrays: Array) -> bool:
        """Look at one batch."""
        (array,) = arrays
        # Most values differ between any two frames: no need to look at all.
        if len(array) > 2 and not _equal(array[0], array[1]):
            return False
        low, high = array.min(axis=0), array.max(axis=0)
        if self._low is not None and self._high is not None:
            if low.shape != self._low.shape:
                return False
            low, high = np.minimum(low, self._low), np.maximum(high, self._high)
        self._low, self._high = low, high
        return _equal(low, high)

    def settled(self, frames: int) -> bool:
        """Never: one more frame may differ."""
        return False

    def finish(self, found: Statistics) -> None:
        """Note the constant."""
        if self._low is not None and self._high is not None:
            found.constants[self.values[0]] = ((self._low + self._high) / 2)[None]


def _equal(one: Array, other: Array) -> bool:
    """Whether two arrays are the same but for rounding, and finite."""
    scale = float(np.maximum(np.abs(one), np.abs(other)).max(initial=0))
    return bool(float(np.abs(one - other).max(initial=0)) <= ROUNDING * scale < np.inf)


class AttentionMeasure:
    """How alike two attention maps are."""

    def __init__(self, earlier: str, later: str) -> None:
        self.values = (earlier, later)
        self._sums = np.zeros(4)

    def take(self, *arrays: Array) -> bool:
        """Add the maps of one batch."""
        earlier, later = arrays
        if earlier.shape != later.shape:
            return False
        apart = np.square(later - earlier)
        sums = (later, np.square(later), apart)
        self._sums += (later.size, *(float(part.sum(dtype=np.float64)) for part in sums))
        return bool(np.isfinite(self._sums).all())

    def settled(self, frames: int) -> bool:
        """Whether enough frames were seen: an R2 needs no more."""
        return frames >= _RANKING_FRAMES

    def finish(self, found: Statistics) -> None:
        """Note the R2."""
        count, total, square, error = self._sums
        variance = square - total * total / max(count, 1)
        if variance > 0:
            earlier, later = self.values
            found.attention[earlier, later] = float(1 - error / variance)


ValueMeasure = StraightMeasure | RangeMeasure | ConstantMeasure | AttentionMeasure
