"""Rows of many values at the same places of the same frames, sampled while frames stream by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.arrays import Array, Float32, Float64, Int64
from ..graph.free_size import size_of
from ..graph.layout import Layout, layout_of
from ..graph.program import Program
from .feeds import FrameSet
from .observing import observe
from .rows import value_rows

# Positions sampled per frame: with 256 frames this gives 4 096 rows, 20 per unknown up to 200
# channels; wider values are projected (see Samples).
POSITIONS = 16
# Frames for ranking. Values of one place per frame need more of them for as many rows.
FRAMES, FRAMES_OF_FEATURES = 256, 1024
# Bytes that the rows of all values together may take: fewer positions where it would be more.
_ROWS_NBYTES = 512 << 20
# Channels above this are mixed down by a seeded sparse projection (each channel with a random sign
# into one sum, as in a count sketch), so that ranking sites costs the same on a ResNet-50 as on a
# ResNet-20, and the projection itself next to nothing.
MAX_CHANNELS = 256


@dataclass(frozen=True)
class Samples:
    """Rows [frames * POSITIONS, channels] of many values at the same relative positions.

    Positions are relative (0..1 along each spatial axis), so row k of two values is the same
    place of the same frame even where their sizes differ. Values without places have a row per
    frame. `spatial` holds each value's sizes
    beyond batch and channels, `channels` its true width (rows may be projected). Where frames
    differ in size, `spatial` is of the first, and `every` holds the sizes on each kind of frame, in
    an order that is the same for all values.
    """

    rows: Mapping[str, Float32]
    spatial: Mapping[str, tuple[int, ...]]
    channels: Mapping[str, int]
    every: Mapping[str, tuple[tuple[int, ...], ...]] = field(
        default_factory=dict[str, tuple[tuple[int, ...], ...]]
    )

    def comparable(self, donor: str, receiver: str) -> bool:
        """Whether an adapter can stand between: same rank, sizes equal or whole multiples.

        With frames of several sizes: the same multiples on all.
        """
        if len(self.rows[donor]) != len(self.rows[receiver]):
            return False
        pairs = list(zip(self._sizes(donor), self._sizes(receiver), strict=True))
        return all(_reached(a, b) for a, b in pairs) and (
            len({tuple(x / y for x, y in zip(a, b)) for a, b in pairs}) == 1
        )

    def same_size(self, one: str, other: str) -> bool:
        """Whether two values have the same sizes beyond batch and channels, on all frames."""
        return self._sizes(one) == self._sizes(other)

    def _sizes(self, value: str) -> tuple[tuple[int, ...], ...]:
        return self.every.get(value, (self.spatial[value],))


def _reached(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    if len(a) != len(b):
        return False
    if len(a) == 1:
        return a == b  # tokens: one to one
    return all(max(x, y) % max(min(x, y), 1) == 0 < min(x, y) for x, y in zip(a, b)) and (
        all(x >= y for x, y in zip(a, b)) or all(x <= y for x, y in zip(a, b))
    )


def sample_values(
    program: Program, values: Sequence[str], frames: FrameSet, seed: int = 0
) -> Samples:
    """Sampled rows of `values` in one forward pass. Values that carry no rows are left out."""
    observer = SampleObserver(program, values, seed)
    observe(program, lambda limit: frames, [observer])
    return observer.samples


class SampleObserver:
    """Sampled rows of a program's values, at most `_ROWS_NBYTES` of them.

    Values that carry no rows are left out.
    """

    def __init__(self, program: Program, values: Sequence[str], seed: int = 0) -> None:
        known = program.values()
        wanted = [known[name] for name in dict.fromkeys(values) if name in known]
        self.samples = Samples({}, {}, {})
        self.limit = FRAMES if any(_places(value) for value in wanted) else FRAMES_OF_FEATURES
        self._seed = seed
        self._last = {v.name: layout_of(v) is Layout.CHANNELS_LAST for v in wanted}
        self._parts: dict[str, list[Float32]] = {value.name: [] for value in wanted}
        self._spatial: dict[str, list[tuple[int, ...]]] = {}
        self._channels: dict[str, int] = {}
        self._mixers: dict[int, tuple[Int64, Float32]] = {}
        self._positions: Float64 = np.zeros((0, POSITIONS, 3))
        self._nbytes_per_row = 4 * sum(
            min(_width(value, self._last[value.name]), MAX_CHANNELS)
            for value in wanted
            if _places(value)
        )

    @property
    def values(self) -> Sequence[str]:
        """The values that have had rows so far."""
        return list(self._parts)

    def begin(self, frames: int) -> None:
        """Draw the positions [frames, positions, 3]."""
        most = _ROWS_NBYTES // max(1, frames * self._nbytes_per_row)
        generator = np.random.default_rng((self._seed, 17))
        self._positions = generator.random((frames, max(1, min(POSITIONS, most)), 3))

    def take(self, batch: slice, arrays: Mapping[str, Array]) -> None:
        """Keep the rows of one batch."""
        for name, array in arrays.items():
            if array.ndim < 2 or array.shape[0] != batch.stop - batch.start:
                self._parts.pop(name, None)
                continue
            last = self._last[name]
            sizes = array.shape[1:-1] if last else array.shape[2:]
            self._spatial.setdefault(name, []).append(tuple(sizes))
            self._channels[name] = int(array.shape[-1] if last else array.shape[1])
            places = self._positions[batch] if sizes else self._positions[batch, :1]
            self._parts[name].append(self._mixed(value_rows(array, _flat(places, sizes), last)))

    def finish(self) -> None:
        """Put the rows together."""
        rows = {name: np.concatenate(parts) for name, parts in self._parts.items() if parts}
        self._parts = {}
        kinds = list(dict.fromkeys(zip(*(self._spatial[name] for name in rows))))
        every = {name: tuple(kind[place] for kind in kinds) for place, name in enumerate(rows)}
        first = {name: self._spatial[name][0] for name in rows}
        several = every if len(kinds) > 1 else {}
        self.samples = Samples(rows, first, self._channels, several)

    def _mixed(self, rows: Float32) -> Float32:
        """Rows of at most MAX_CHANNELS channels; of equal width mixed alike."""
        width = rows.shape[1]
        if width <= MAX_CHANNELS:
            return rows
        if width not in self._mixers:
            random = np.random.default_rng((self._seed, width))
            signs = random.choice(np.array([-1, 1], np.float32), width)
            self._mixers[width] = random.permutation(width), signs
        order, signs = self._mixers[width]
        starts = np.arange(MAX_CHANNELS) * width // MAX_CHANNELS
        return np.add.reduceat(rows[:, order] * signs, starts, axis=1)


def _places(value: gs.Variable) -> bool:
    return len(value.shape or ()) > 2


def _width(value: gs.Variable, last: bool) -> int:
    return size_of(value.shape[-1 if last else 1]) or MAX_CHANNELS if value.shape else MAX_CHANNELS


def _flat(places: Float64, sizes: tuple[int, ...]) -> Int64:
    flat = np.zeros(places.shape[:2], dtype=np.int64)
    for axis, size in enumerate(sizes):
        flat = flat * size + np.minimum((places[:, :, axis] * size).astype(np.int64), size - 1)
    return flat
