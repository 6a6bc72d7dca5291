"""Rows of activations: one row is one place of a frame (a pixel, a token or the frame itself)."""

from __future__ import annotations

import math

import numpy as np

from ..graph.arrays import Array, Float32, Int64
from ..structure.windows import Window

Rows = Int64


def value_rows(value: Array, positions: Rows, channels_last: bool) -> Float32:
    """Rows [frames * p, channels] of an activation at flat positions [frames, p].

    The first axis may hold several items per frame (windows, tokens folded into the batch): they
    count as positions too.
    """
    frames = len(positions)
    if channels_last:
        flat = value.reshape(frames, -1, value.shape[-1])
    else:
        items = np.moveaxis(value.reshape(value.shape[0], value.shape[1], -1), 1, -1)
        flat = items.reshape(frames, -1, value.shape[1])
    size = flat.shape[1]
    if positions.shape[1] == size and (positions == np.arange(size)).all():
        picked = flat
    else:
        picked = flat[np.arange(frames)[:, None], positions]
    return np.ascontiguousarray(picked.reshape(-1, flat.shape[-1]), dtype=np.float32)


def window_rows(
    x: Array, positions: Rows, window: Window, groups: int, out: Float32 | None = None
) -> Float32:
    """Patches [frames * p, groups, channels / groups * kernel] at output positions [frames, p].

    Only the sampled patches are gathered, never the whole im2col matrix. Taps that an output does
    not read are zero. They are written into `out` if that is given.
    """
    spatial = tuple(x.shape[2:])
    rank = len(spatial)
    sizes = window.output_size(spatial)
    items = len(x) // len(positions)  # several per frame where frames are folded into windows
    item, place = np.divmod(positions, math.prod(sizes))
    item = np.arange(len(positions))[:, None] * items + item
    index: list[Array] = [item.reshape(-1, *([1] * rank))]
    reads = window.reads(spatial)
    for axis, corner in enumerate(np.unravel_index(place.reshape(-1), sizes)):
        shape = [len(corner)] + [1] * rank
        shape[axis + 1] = -1
        index.append(reads[axis][corner].reshape(shape))
    last = np.moveaxis(x, 1, -1)
    if any((taps == size).any() for taps, size in zip(reads, spatial)):
        padded = np.zeros([len(x), *(size + 1 for size in spatial), x.shape[1]], np.float32)
        padded[(slice(None), *(slice(size) for size in spatial))] = last
        last = padded
    patches = np.moveaxis(last[tuple(index)], -1, 1)  # [rows, channels, *kernel]
    if out is None:
        fan_in = math.prod(patches.shape[1:]) // groups
        out = np.empty((len(patches), groups, fan_in), np.float32)
    out.reshape(patches.shape)[...] = patches
    return out


def positions_per_frame(value: Array, frames: int, channels_last: bool) -> int | None:
    """How many rows each frame has in an activation; None when they are not evenly divided."""
    if value.ndim < 2 or not frames or not value.size:
        return None
    channels = value.shape[-1] if channels_last else value.shape[1]
    per_frame, rest = divmod(value.size, frames * channels)
    uneven = not channels_last and value.shape[0] % frames
    return None if rest or uneven else per_frame


def sample_positions(frames: int, size: int, rows: int, seed: int | tuple[int, ...]) -> Rows:
    """Flat positions [frames, p], p = ceil(rows / frames) at most `size`, none twice in a frame.

    Every frame draws its own, so all positions are covered over the frames.
    """
    per_frame = min(size, max(1, -(-rows // frames)))
    if per_frame == size:
        return np.broadcast_to(np.arange(size), (frames, size))
    seeds = (seed,) if isinstance(seed, int) else seed
    generator = np.random.default_rng((*seeds, size))
    keys = generator.random((frames, size), dtype=np.float32)
    return np.sort(np.argpartition(keys, per_frame, axis=1)[:, :per_frame], axis=1)


class RowMemory:
    """Memory for the rows of one problem after another.

    What the system hands out anew it has to make zeros of, page by page: for rows of 100 MB that
    takes longer than their products do.
    """

    def __init__(self) -> None:
        self._held: Float32 = np.empty(0, np.float32)

    def rows(self, *shape: int) -> Float32:
        """An array of that shape, its numbers left over; the one before it is no longer valid."""
        size = math.prod(shape)
        if self._held.size < size:
            self._held = np.empty(0, np.float32)  # never both at a time
            self._held = np.empty(size, np.float32)
        return self._held[:size].reshape(shape)
