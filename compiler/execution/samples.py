"""Rows of many values at the same places of the same frames, sampled while frames stream by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..graph.arrays import Float32, Float64, Int64
from ..graph.layout import Layout, layout_of
from ..graph.program import Program
from .executable import Executable
from .feeds import FrameSet, run_on
from .rows import value_rows

# Positions sampled per frame: with 512 frames this gives 4 096 rows, 20 per unknown up to 200
# channels; wider values are projected (see Samples).
POSITIONS = 8
# Channels above this are mixed down by a seeded random projection (Johnson-Lindenstrauss), so
# that ranking sites costs the same on a ResNet-50 as on a ResNet-20.
MAX_CHANNELS = 256


@dataclass(frozen=True)
class Samples:
    """Rows [frames * POSITIONS, channels] of many values at the same relative positions.

    Positions are relative (0..1 along each spatial axis), so row k of two values is the same
    place of the same frame even where their sizes differ. `spatial` holds each value's sizes
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
    known = program.values()
    wanted = [name for name in dict.fromkeys(values) if name in known]
    if not wanted:
        return Samples({}, {}, {})
    segment = Executable(program, None, wanted)
    generator = np.random.default_rng((seed, 17))
    places = generator.random((frames.count, POSITIONS, 3))
    parts: dict[str, list[Float32]] = {name: [] for name in wanted}
    spatial: dict[str, list[tuple[int, ...]]] = {}
    channels: dict[str, int] = {}
    projections: dict[int, Float32] = {}
    last = {name: layout_of(known[name]) is Layout.CHANNELS_LAST for name in wanted}
    for batch, arrays in run_on(frames, segment):
        for name, array in arrays.items():
            if array.ndim < 2 or array.shape[0] != batch.stop - batch.start:
                parts.pop(name, None)
                continue
            if name not in parts:
                continue
            sizes = array.shape[1:-1] if last[name] else array.shape[2:]
            spatial.setdefault(name, []).append(tuple(sizes))
            width = array.shape[-1] if last[name] else array.shape[1]
            channels[name] = int(width)
            picked = value_rows(array, _flat(places[batch], sizes), last[name])
            if width > MAX_CHANNELS:
                if width not in projections:
                    mixer = np.random.default_rng((seed, width))
                    projections[width] = mixer.standard_normal(
                        (width, MAX_CHANNELS), dtype=np.float32
                    ) / np.float32(np.sqrt(MAX_CHANNELS))
                picked = picked @ projections[width]
            parts[name].append(picked)
    rows = {name: np.concatenate(pieces) for name, pieces in parts.items() if pieces}
    kinds = list(dict.fromkeys(zip(*(spatial[name] for name in rows))))
    every = {name: tuple(kind[place] for kind in kinds) for place, name in enumerate(rows)}
    first = {name: spatial[name][0] for name in rows}
    return Samples(rows, first, channels, every if len(kinds) > 1 else {})


def _flat(places: Float64, sizes: tuple[int, ...]) -> Int64:
    flat = np.zeros(places.shape[:2], dtype=np.int64)
    for axis, size in enumerate(sizes):
        flat = flat * size + np.minimum((places[:, :, axis] * size).astype(np.int64), size - 1)
    return flat
