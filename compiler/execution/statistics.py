"""How straight activation functions are on the frames, and which values never change there.

One forward pass in pieces of bounded size; per channel only sums, counts and extremes are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..graph.arrays import Array, Float64
from ..graph.program import Program
from ..structure.activation_functions import (
    Activation,
    activations_of,
    addends,
    attention_pairs,
    read_by_operators,
)
from ..structure.straight_pieces import straight
from .executable import Executable, frame_nbytes
from .feeds import FrameSet

# Bytes of values that one piece of a batch may take.
_PIECE_NBYTES = 64 << 20
# Places of a frame that sums are taken over; extremes are taken over all.
_PLACES = 64
# What rounding may move: extremes closer than this share of the largest number are equal.
ROUNDING = 1e-6


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


def measure_statistics(program: Program, frames: FrameSet, models: Sequence[str]) -> Statistics:
    """The statistics of the models' values on the frames, in one pass.

    `models` share the frames. Values of unknown layout or whose first axis is not that of the
    frames are left out. Raises ModelError where ONNX Runtime cannot run the models.
    """
    nodes = {id(node): node for model in models for node in program.nodes_of(model)}
    inside = list(nodes.values())
    measures: list[_Measure] = []
    for activation in activations_of(program, inside):
        measures.append(_StraightMeasure(activation))
    measures += [_RangeMeasure((name,), axis) for name, axis in read_by_operators(inside)]
    measures += [_ConstantMeasure(name) for name in addends(inside)]
    measures += [_AttentionMeasure(*pair) for pair in attention_pairs(program, models)]
    return _measured(program, measures, frames)


def measure_activation(
    program: Program, activation: Activation, frames: FrameSet
) -> Straightness | None:
    """How straight one activation is on the frames; None where that cannot be told."""
    found = _measured(program, [_StraightMeasure(activation)], frames)
    return found.activations.get(activation.value)


def measure_ranges(
    program: Program, values: Mapping[str, int], frames: FrameSet
) -> dict[str, Range]:
    """The ranges of the values on the frames; `values` gives each the axis of its channels."""
    measures = [_RangeMeasure((name,), axis) for name, axis in values.items()]
    return _measured(program, measures, frames).ranges


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


def _measured(program: Program, measures: Sequence[_Measure], frames: FrameSet) -> Statistics:
    found = Statistics()
    known = program.values()
    wanted = sorted({name for one in measures for name in one.values if name in known})
    left = [one for one in measures if all(name in known for name in one.values)]
    if not wanted:
        return found
    segment = Executable(program, None, wanted)
    if not segment.inputs:  # what reads no input is the same on every frame
        return found
    for count, feeds in _pieces(program, frames, segment.inputs, wanted):
        arrays = dict(zip(wanted, segment(feeds)))
        found.frames += count
        left = [one for one in left if _taken(one, [arrays[name] for name in one.values], count)]
    for one in left if found.frames else ():
        one.finish(found)
    return found


def _pieces(
    program: Program, frames: FrameSet, fed: Sequence[str], wanted: Sequence[str]
) -> Iterator[tuple[int, dict[str, Array]]]:
    """The frames' batches, cut where all wanted values together would take too much memory.

    Each with the number of its frames.
    """
    known = program.values()
    per_frame = 0
    for name in wanted:
        per_frame += frame_nbytes(known[name])
    most = max(1, _PIECE_NBYTES // max(per_frame, 1))
    # A batch that the model fixes cannot be cut, nor one that is counted on another axis.
    free = all(known[name].shape and not isinstance(known[name].shape[0], int) for name in fed)
    for count, feeds in zip(frames.counts, frames.batches(fed)):
        if not free or any(len(array) != count for array in feeds.values()):
            yield count, feeds
            continue
        for start in range(0, count, most):
            part = {name: array[start : start + most] for name, array in feeds.items()}
            yield min(most, count - start), part


# -- keeping ----------------------------------------------------------------------------------


def _taken(measure: _Measure, arrays: Sequence[Array], count: int) -> bool:
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


class _StraightMeasure(_ChannelMeasure):
    def __init__(self, activation: Activation) -> None:
        super().__init__((activation.given, activation.value), activation.axis)
        self.activation = activation

    def finish(self, found: Statistics) -> None:
        x, y, xx, xy, yy = self._sums / max(self._rows, 1)
        sxx, syy, sxy = xx - x * x, yy - y * y, xy - x * y
        varies = sxx > 1e-12 * np.maximum(xx, 1e-30)
        slope = np.where(varies, sxy / np.maximum(sxx, 1e-300), 0.0)
        offset = (self._means[1] + y) - slope * (self._means[0] + x)
        lost = np.maximum(syy - np.where(varies, sxy**2 / np.maximum(sxx, 1e-300), 0), 0)
        if len(self.activation.nodes) == 1:
            low, high = self._low.astype(np.float64), self._high.astype(np.float64)
            own = straight(self.activation.nodes[0], low, high, self.axis)
            exact = ~np.isnan(own[0])
            slope, offset = np.where(exact, own[0], slope), np.where(exact, own[1], offset)
            lost = np.where(exact, 0.0, lost)
        found.activations[self.activation.value] = Straightness(
            self.activation, slope, offset, lost, np.maximum(syy, 0)
        )


class _RangeMeasure(_ChannelMeasure):
    def finish(self, found: Statistics) -> None:
        mean, square = self._sums / max(self._rows, 1)
        variance = np.maximum(square - mean * mean, 0)
        low, high = self._low.astype(np.float64), self._high.astype(np.float64)
        mean = np.clip(self._means[0] + mean, low, high)  # a constant's mean is the constant
        found.ranges[self.values[0]] = Range(low, high, mean, variance)


class _ConstantMeasure:
    """Extremes of every element over the frames; given up at the first piece that varies."""

    def __init__(self, name: str) -> None:
        self.values = (name,)
        self._low: Array | None = None
        self._high: Array | None = None

    def take(self, *arrays: Array) -> bool:
        low, high = arrays[0].min(axis=0), arrays[0].max(axis=0)
        if self._low is not None and self._high is not None:
            if low.shape != self._low.shape:
                return False
            low, high = np.minimum(low, self._low), np.maximum(high, self._high)
        self._low, self._high = low, high
        scale = float(np.maximum(np.abs(low), np.abs(high)).max(initial=0))
        return bool(float((high - low).max(initial=0)) <= ROUNDING * scale < np.inf)

    def finish(self, found: Statistics) -> None:
        if self._low is not None and self._high is not None:
            found.constants[self.values[0]] = ((self._low + self._high) / 2)[None]


class _AttentionMeasure:
    def __init__(self, earlier: str, later: str) -> None:
        self.values = (earlier, later)
        self._sums = np.zeros(4)

    def take(self, *arrays: Array) -> bool:
        earlier, later = arrays
        if earlier.shape != later.shape:
            return False
        apart = np.square(later - earlier)
        sums = (later, np.square(later), apart)
        self._sums += (later.size, *(float(part.sum(dtype=np.float64)) for part in sums))
        return bool(np.isfinite(self._sums).all())

    def finish(self, found: Statistics) -> None:
        count, total, square, error = self._sums
        variance = square - total * total / max(count, 1)
        if variance > 0:
            earlier, later = self.values
            found.attention[earlier, later] = float(1 - error / variance)


_Measure = _StraightMeasure | _RangeMeasure | _ConstantMeasure | _AttentionMeasure
