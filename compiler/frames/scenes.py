"""Which frames show nearly the same, seen by their own numbers made small."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sets import Rows

# Each axis of a frame is averaged into at most so many parts.
_PARTS = 8
# Two frames are alike below this share of the mean squared distance of two frames: what a few
# frames of a film are apart. Of 2 000 images of CIFAR-10 no two are, of Fashion-MNIST 1 % are.
_ALIKE = 0.01
# More frames than this are held against those near them in order only.
_ALL_PAIRS = 6000
_NEAR = 64
_BLOCK = 512
# Sets that go round a few pictures, a crop of each at a time, are nearer to themselves a round
# later than at random, and than at any other distance: 0.4 and 0.6 of it in two sets of crops of
# photographs; in sets without rounds the least distance is 0.7 of it, and others are near that.
_ROUND, _BESIDE = 0.7, 0.75
_LEAST_PAIRS = 16
_MOST_ROUNDS = 16

Small = NDArray[np.float64]
# The widths of a frame's inputs made small, and its integers that are no pixels (tokens).
_Kind = tuple[tuple[int, ...], bytes]


@dataclass
class SmallFrames:
    """Frames made small batch by batch, to tell which of them are alike.

    Frames of another size are never alike, nor are those whose integers that are no pixels
    (tokens) differ at all.
    """

    count: int = 0
    _made: dict[_Kind, list[Small]] = field(default_factory=dict[_Kind, list[Small]])
    _places: dict[_Kind, list[int]] = field(default_factory=dict[_Kind, list[int]])

    def add(self, arrays: Iterable[NDArray[Any]]) -> None:
        """Take in one batch: the arrays [n, ...] of every input."""
        given = [array for array in arrays if array.ndim]
        tokens = [a for a in given if a.dtype.kind in "iu" and a.dtype.itemsize > 1]
        small = [_small(a) for a in given if a.dtype.kind in "fb" or a.dtype.itemsize == 1]
        for row in range(len(given[0]) if given else 0):
            state = hashlib.sha256()
            for array in tokens:
                state.update(np.ascontiguousarray(array[row]).tobytes())
            kind = tuple(part.shape[1] for part in small), state.digest() if tokens else b""
            numbers = np.concatenate([np.zeros(0), *(part[row] for part in small)])
            self._made.setdefault(kind, []).append(numbers)
            self._places.setdefault(kind, []).append(self.count)
            self.count += 1

    def scenes(self, most: int, run: int) -> Rows:
        """The scene of each frame [count], each numbered by one of its frames.

        Of more than `most` alike frames only `run` that follow each other are one scene: a film of
        one street is many. Frames that come round again are of one scene.
        """
        found = np.arange(self.count, dtype=np.int64)
        for kind, rows in self._made.items():
            places = np.array(self._places[kind], dtype=np.int64)
            small = np.stack(rows)
            for stop, width in zip(np.cumsum(kind[0]), kind[0]):
                part = small[:, stop - width : stop]
                part -= part.mean(axis=0)  # each input counts as much as any other
                part /= np.sqrt(np.square(part).sum(axis=1).mean()) or 1.0
            first = _joined(small)
            if (length := _round_of(small)) is not None:
                for place in range(length):
                    join(first, np.arange(place, len(small), length, dtype=np.int64))
                first = np.array([_root(first, row) for row in range(len(small))], dtype=np.int64)
            found[places] = places[first]
        return _cut(found, most, run)


def _small(array: NDArray[Any]) -> Small:
    small = array.astype(np.float32)
    for axis in range(1, array.ndim):
        size = small.shape[axis]
        if size > _PARTS:
            starts = np.arange(_PARTS) * size // _PARTS
            widths = np.diff(np.append(starts, size))
            shape = [-1 if index == axis else 1 for index in range(array.ndim)]
            small = np.add.reduceat(small, starts, axis=axis) / widths.reshape(shape)
    return small.reshape(len(array), -1).astype(np.float64)


def _joined(small: Small) -> Rows:
    """For each frame the first of those that it is alike with, over others between them too."""
    count = len(small)
    power = np.square(small).sum(axis=1)
    limit = _ALIKE * 2 * float(power.mean())
    first = np.arange(count, dtype=np.int64)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        low = 0 if count <= _ALL_PAIRS else max(0, start - _NEAR)
        apart = power[start:stop, None] + power[None, low:stop]
        apart -= 2 * small[start:stop] @ small[low:stop].T
        alike = apart <= limit
        for row in np.flatnonzero(alike.sum(axis=1) > 1):
            join(first, low + np.flatnonzero(alike[row]))
    return np.array([_root(first, place) for place in range(count)], dtype=np.int64)


def _round_of(small: Small) -> int | None:
    """After how many frames a set comes round to the same pictures, if it does."""
    count = len(small)
    lags = np.arange(count // 2 + 1)
    if count - lags[-1] < _LEAST_PAIRS:
        return None
    # The mean squared distance of frames that far apart: sums of squares, less a correlation.
    spectrum = np.fft.rfft(small - small.mean(axis=0), n=2 * count, axis=0)
    together = np.fft.irfft(np.square(np.abs(spectrum)).sum(axis=1), n=2 * count)[: len(lags)]
    power = np.cumsum(np.concatenate([[0.0], np.square(small - small.mean(axis=0)).sum(axis=1)]))
    own = power[count - lags] + power[-1] - power[lags]
    apart = (own - 2 * together) / (count - lags) / max(2 * power[-1] / count, 1e-300)
    length = int(apart[2:].argmin()) + 2
    beside = apart[(lags > 0) & (lags % length != 0)]
    comes_round = apart[length] <= min(_ROUND, _BESIDE * float(beside.min()))
    return length if comes_round and count <= _MOST_ROUNDS * length else None


def join(first: Rows, places: Rows) -> None:
    """Make the places one group in `first`, where each place points to one before it or itself."""
    roots = np.unique([_root(first, int(place)) for place in np.unique(first[places])])
    first[roots] = roots[0]
    first[places] = roots[0]


def _root(first: Rows, place: int) -> int:
    while first[place] != place:
        first[place] = first[first[place]]
        place = int(first[place])
    return place


def _cut(scenes: Rows, most: int, run: int) -> Rows:
    """The scenes with each that has more than `most` frames cut, in the order of its frames."""
    cut = scenes.copy()
    for scene, count in zip(*np.unique(scenes, return_counts=True)):
        if count > most:
            members = np.flatnonzero(scenes == scene)
            cut[members] = members[np.arange(count) // run * run]
    return cut


def merged(scenes: Rows, unit: int) -> Rows:
    """The scene of each whole batch of `unit` frames: batches that share a scene have one."""
    batches = np.arange(len(scenes) // unit, dtype=np.int64)
    first = batches.copy()
    batch_of = np.repeat(batches, unit)
    order = np.argsort(scenes, kind="stable")
    for members in np.split(batch_of[order], np.flatnonzero(np.diff(scenes[order])) + 1):
        join(first, np.unique(members))
    return np.array([_root(first, int(batch)) for batch in batches], dtype=np.int64)
