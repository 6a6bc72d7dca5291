"""Where the rows of an input come from: arrays piece after piece, one array, or images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .array_files import Array, StoredArray
from .images import ImageArray, ImageSource
from .sets import InputSpec, Rows, described

_CHUNK_NBYTES = 1 << 24


@dataclass(frozen=True)
class ArraySource:
    """A source whose rows are those of arrays, piece after piece, cast to the input's dtype.

    Pieces may differ in size where the input's is free. Of an input without an axis of frames a
    row is a whole array.
    """

    where: str
    pieces: tuple[StoredArray, ...]
    spec: InputSpec

    @property
    def description(self) -> str:
        """Where the arrays come from, and what they are."""
        return f"{self.where} ({described(self.pieces[0].dtype, (len(self), *self.shapes[0]))})"

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The pieces with frames on axis 0 (a piece without an axis of frames is one frame)."""
        return tuple(_frames_first(piece.array, self.spec) for piece in self.pieces)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that rows have, each once, in order."""
        return tuple(dict.fromkeys(array.shape[1:] for array in self.arrays))

    @cached_property
    def kinds(self) -> Rows | None:
        """Which rows may run together, by a number per row; None where all may.

        Rows of another size may not, nor other arrays for an input without an axis of frames.
        """
        if self.spec.frame_axis is None:
            known: dict[object, int] = {}
            flat = (np.ascontiguousarray(row) for array in self.arrays for row in array)
            marks = [known.setdefault((row.shape, row.tobytes()), len(known)) for row in flat]
            return np.array(marks, np.int64) if len(known) > 1 else None
        if len(self.shapes) == 1:
            return None
        numbers = [self.shapes.index(array.shape[1:]) for array in self.arrays]
        return np.repeat(np.array(numbers, np.int64), [len(array) for array in self.arrays])

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(array) for array in self.arrays)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, indices: Rows) -> Array:
        """Rows [n, ...] of one size in the input's dtype."""
        if len(self.arrays) == 1:
            return np.ascontiguousarray(self.arrays[0][indices], dtype=self.spec.dtype)
        piece_of = np.searchsorted(self._starts, indices, side="right") - 1
        shape = self.arrays[int(piece_of[0])].shape[1:] if len(piece_of) else self.shapes[0]
        made = np.empty((len(indices), *shape), dtype=self.spec.dtype)
        for piece in np.unique(piece_of):
            here = piece_of == piece
            made[here] = self.arrays[piece][indices[here] - self._starts[piece]]
        return made

    @cached_property
    def digest(self) -> str:
        """sha256 of the rows as the input takes them."""
        shapes = " ".join(described(self.spec.dtype, (len(self), *each)) for each in self.shapes)
        state = hashlib.sha256(f"rows {shapes}".encode())
        if self.kinds is not None and self.spec.frame_axis is not None:
            state.update(self.kinds.astype("<i8").tobytes())
        for _, _, chunk in self._chunks():
            state.update(np.ascontiguousarray(chunk, dtype=self.spec.dtype).tobytes())
        return state.hexdigest()

    @property
    def repeats(self) -> bool:
        """Whether it is one array that may stand for every frame.

        An array without an axis of frames, of exactly the size that a run takes, or a state.
        """
        if len(self.pieces) != 1:
            return False
        shape = self.pieces[0].shape
        if shape == self.spec.shape:
            return True
        return len(self) == 1 and (self.spec.state or len(shape) == len(self.spec.frame))

    def repeated(self) -> tuple[SameArray, InputSpec]:
        """The one array as the same for every frame, and the input as it is then fed."""
        spec, array = self.spec, self.pieces[0].array
        if len(self) == 1 or spec.frame_axis is None:
            frame = self.arrays[0][0]
        else:  # as many rows as a run takes: nothing in it counts frames
            spec, frame = replace(spec, frame_axis=None), array
        return SameArray(self.where, np.array(frame, spec.dtype, order="C")), spec

    def check(self) -> None:
        """Raise DataError, naming file, array and first frame, for values the input can't take.

        Those are NaN, infinity, and numbers outside the range of the input's dtype.
        """
        for piece, start, chunk in self._chunks():
            fault = _first_fault(chunk, self.spec.dtype)
            if fault is not None:
                raise DataError(
                    f"frame {start + fault[0]} (counted from 0) of {self.pieces[piece].where} "
                    f"holds {fault[1]}",
                    "repair or remove that frame; frames are never skipped silently",
                )

    def _chunks(self) -> Iterator[tuple[int, int, Array]]:
        """(piece, first row in it, rows), a few MiB at a time."""
        for piece, array in enumerate(self.arrays):
            step = max(1, _CHUNK_NBYTES // max(1, array[:1].nbytes))
            for start in range(0, len(array), step):
                yield piece, start, array[start : start + step]


@dataclass(frozen=True)
class SameArray:
    """A source that gives one array again and again: what the input takes whatever the frames.

    `array` is one frame, without an axis of frames. `made_up` says that nobody gave it.
    """

    where: str
    array: Array
    made_up: bool = False

    kinds: ClassVar[None] = None

    @property
    def description(self) -> str:
        """Where the array comes from, and what it is."""
        return f"{self.where} ({described(self.array.dtype, self.array.shape)})"

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of the array."""
        return (self.array.shape,)

    def rows(self, indices: Rows) -> Array:
        """The array, [n, ...] times."""
        return np.repeat(self.array[None], len(indices), axis=0)

    @cached_property
    def digest(self) -> str:
        """sha256 of the array."""
        kind = described(self.array.dtype, self.array.shape)
        return hashlib.sha256(f"one {kind}".encode() + self.array.tobytes()).hexdigest()


FrameSource = ArraySource | ImageSource | SameArray
"""The frames of one input of one model, row by row; equal digests, equal rows."""


def held(source: FrameSource) -> tuple[int, ...]:
    """The objects in memory that a source takes its rows from: their ids."""
    if isinstance(source, ArraySource):
        return tuple(id(piece.array) for piece in source.pieces)
    if isinstance(source, SameArray):
        return (id(source.array),)
    images = source.images
    return tuple(map(id, images.arrays)) if isinstance(images, ImageArray) else (id(images),)


def _first_fault(chunk: Array, target: np.dtype[Any]) -> tuple[int, str] | None:
    """The first row with a value that the target dtype can't hold, and what it holds."""
    if chunk.dtype.kind == "f":
        wrong, what = ~np.isfinite(chunk), ""
        if chunk.dtype.itemsize > target.itemsize:
            with np.errstate(invalid="ignore"):
                wrong |= np.abs(chunk) > np.finfo(target).max
            what = f"a number too large for {target}"
    elif chunk.dtype.kind in "iu" and not np.can_cast(chunk.dtype, target):
        limits = np.iinfo(target)
        wrong, what = (chunk < limits.min) | (chunk > limits.max), f"a number outside {target}"
    else:
        return None
    if not wrong.any():
        return None
    row = int(np.flatnonzero(wrong.reshape(len(chunk), -1).any(axis=1))[0])
    if chunk.dtype.kind == "f" and not np.isfinite(chunk[row]).all():
        what = "NaN" if np.isnan(chunk[row]).any() else "infinity"
    return row, what


def fits(array: StoredArray, spec: InputSpec) -> bool:
    """Whether the array's shape and dtype are what the input takes."""
    return frames_place(array.shape, spec) is not None and dtype_fits(array.dtype, spec.dtype)


def frames_place(shape: Sequence[int], spec: InputSpec) -> int | None:
    """The axis of frames in an array of that shape, -1 where it is one frame; None: no fit."""
    frame, axis = spec.frame, spec.frame_axis
    if len(shape) == len(frame):
        return -1 if _agree(shape, frame) else None
    if len(shape) != len(frame) + 1:
        return None
    # As a run takes them, and stacked, for an input whose axis of frames is another one.
    for place in dict.fromkeys((axis or 0, 0)):
        if _agree((*shape[:place], *shape[place + 1 :]), frame):
            return place
    return None


def _agree(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    return all(
        not isinstance(dim, int) or dim < 1 or dim == extent
        for extent, dim in zip(shape, wanted, strict=True)
    )


def _frames_first(array: Array, spec: InputSpec) -> Array:
    place = frames_place(array.shape, spec)
    return array[None] if place is None or place < 0 else np.moveaxis(array, place, 0)


def dtype_fits(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether numbers of one dtype may be fed to an input of the other."""
    # Integers into a float input are refused: they are most likely pixels that the model
    # expects scaled, and the result would be wrong without an error.
    if given.newbyteorder("=") == wanted:
        return True
    return (given.kind == "f" and wanted.kind == "f") or (
        given.kind in "iu" and wanted.kind in "iu"
    )
