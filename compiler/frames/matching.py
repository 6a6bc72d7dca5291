"""Which array feeds which input, whether it fits, and the rows it gives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .array_files import Array, StoredArray
from .images import ImageArray, ImageFolder, ImageSource
from .preprocessing import Preprocessing, ask_for
from .sets import NAMELESS, ImageFiles, InputSpec, Rows, Table, described

_CHUNK_NBYTES = 1 << 24


@dataclass(frozen=True)
class ArraySource:
    """A source whose rows are those of arrays, piece after piece, cast to the input's dtype."""

    where: str
    pieces: tuple[StoredArray, ...]
    spec: InputSpec

    @property
    def description(self) -> str:
        """Where the arrays come from, and what they are."""
        return f"{self.where} ({described(self.pieces[0].dtype, (len(self), *self.frame_shape))})"

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The pieces with frames on axis 0 (a piece without that axis is one frame)."""
        rank = len(self.spec.shape)
        return tuple(
            piece.array if piece.array.ndim == rank else piece.array[None] for piece in self.pieces
        )

    @cached_property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.arrays[0].shape[1:]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(array) for array in self.arrays)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, indices: Rows) -> Array:
        """Rows [n, ...] in the input's dtype."""
        if len(self.arrays) == 1:
            return np.ascontiguousarray(self.arrays[0][indices], dtype=self.spec.dtype)
        made = np.empty((len(indices), *self.frame_shape), dtype=self.spec.dtype)
        piece_of = np.searchsorted(self._starts, indices, side="right") - 1
        for piece in np.unique(piece_of):
            here = piece_of == piece
            made[here] = self.arrays[piece][indices[here] - self._starts[piece]]
        return made

    @cached_property
    def digest(self) -> str:
        """sha256 of the rows as the input takes them."""
        spec = described(self.spec.dtype, (len(self), *self.frame_shape))
        state = hashlib.sha256(f"rows {spec}".encode())
        for _, _, chunk in self._chunks():
            state.update(np.ascontiguousarray(chunk, dtype=self.spec.dtype).tobytes())
        return state.hexdigest()

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


FrameSource = ArraySource | ImageSource
"""The frames of one input of one model, row by row; equal digests, equal rows."""


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
    return _shape_fits(array.shape, spec) and _dtype_fits(array.dtype, spec.dtype)


def _shape_fits(shape: Sequence[int], spec: InputSpec) -> bool:
    frame = spec.shape[1:]
    offset = len(shape) - len(frame)
    return offset in (0, 1) and all(
        not isinstance(wanted, int) or wanted < 1 or wanted == extent
        for wanted, extent in zip(frame, shape[offset:], strict=True)
    )


def _dtype_fits(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    # Integers into a float input are refused: they are most likely pixels that the model
    # expects scaled, and the result would be wrong without an error.
    if given.newbyteorder("=") == wanted:
        return True
    return (given.kind == "f" and wanted.kind == "f") or (
        given.kind in "iu" and wanted.kind in "iu"
    )


def _are_pixels(array: StoredArray) -> bool:
    """uint8 [n, height, width] or [n, height, width, 1, 3 or 4 channels]."""
    rank = len(array.shape)
    return array.dtype == np.uint8 and (rank == 3 or (rank == 4 and array.shape[3] in (1, 3, 4)))


@dataclass(frozen=True)
class Matcher:
    """Finds the source of a model's input in a set of frames.

    `models` gives the inputs of every model of the compilation: an array named after one model
    never feeds another. `preprocessing` goes by 'model/input', 'model', or '' for every model.
    """

    models: Mapping[str, Sequence[InputSpec]]
    preprocessing: Mapping[str, Preprocessing]

    def sources(self, model: str, given: Table | ImageFolder) -> dict[str, tuple[str, FrameSource]]:
        """For each input of the model, the key that feeds it and the source. Raises DataError."""
        specs = self.models[model]
        for spec in specs:
            if not spec.shape:
                raise DataError(
                    f"input '{spec.name}' of model '{model}' is a scalar ({spec}): it has no axis "
                    "of frames",
                    "make it a constant of the model",
                )
        if isinstance(given, ImageFolder):
            if len(specs) != 1:
                raise DataError(
                    f"{given.where} holds images, and model '{model}' has {len(specs)} inputs "
                    f"({', '.join(spec.name for spec in specs)})",
                    "give frames as .npz keyed by input name",
                )
            recipe = self._preprocessing(model, specs[0]) or Preprocessing()
            recipe = recipe.resolved(model, specs[0], given.where)
            given.require_one_size(model, recipe)
            return {specs[0].name: (NAMELESS, ImageSource(given, recipe, specs[0].dtype))}
        keys = {spec.name: self._named(model, spec, given) for spec in specs}
        for spec in specs:
            if keys[spec.name] is None:
                keys[spec.name] = self._only_fitting(model, spec, given)
        return {
            spec.name: (key, self._source(model, spec, given, key))
            for spec in specs
            if (key := keys[spec.name]) is not None
        }

    def _preprocessing(self, model: str, spec: InputSpec) -> Preprocessing | None:
        names = (f"{model}/{spec.name}", model, "")
        return next((self.preprocessing[n] for n in names if n in self.preprocessing), None)

    def _named(self, model: str, spec: InputSpec, table: Table) -> str | None:
        """The key that says by its name that it feeds this input."""
        recipe = self._preprocessing(model, spec)
        if NAMELESS in table.columns:
            if len(self.models[model]) == 1:
                return NAMELESS
            inputs = ", ".join(spec.name for spec in self.models[model])
            raise DataError(
                f"{table.where} is one array without a name, and model '{model}' has "
                f"{len(self.models[model])} inputs ({inputs})",
                "give frames as .npz keyed by input name",
            )
        if recipe is not None and recipe.array is not None:
            if recipe.array in table.columns:
                return recipe.array
            if not any(name in table.columns for name in (f"{model}/{spec.name}", spec.name)):
                raise DataError(
                    f"{table.where} has no array '{recipe.array}', which [preprocess.{model}] "
                    f"names; it holds {table.listing()}",
                    "correct array in repsimc.toml",
                )
        names = [f"{model}/{spec.name}", spec.name]
        if len(self.models[model]) == 1:
            names.insert(1, model)
        present = [name for name in names if name in table.columns]
        # 'digit' may as well be the labels of model digit: what names no input has to fit one.
        fitting = [
            name
            for name in present
            if name != model or self._usable(table.columns[name], model, spec)
        ]
        return next(iter(fitting or present), None)

    def _usable(self, pieces: Sequence[StoredArray], model: str, spec: InputSpec) -> bool:
        """Whether frames of that kind can feed the input, if need be through preprocessing."""
        if fits(pieces[0], spec):
            return True
        return self._preprocessing(model, spec) is not None and _are_pixels(pieces[0])

    def _only_fitting(self, model: str, spec: InputSpec, table: Table) -> str:
        """The one array that can feed an input nothing is named after."""
        free = {
            key: pieces
            for key, pieces in table.columns.items()
            if not any(key == m or key.startswith(f"{m}/") for m in self.models)
        }
        usable = [key for key, pieces in free.items() if self._usable(pieces, model, spec)]
        several = len(self.models[model]) > 1
        if len(usable) == 1 and not several:
            return usable[0]
        asked = f"{table.where} has no array '{spec.name}' for model '{model}' ({spec})"
        if usable:
            found = " and ".join(f"'{key}'" for key in usable)
            why = "each input needs its own" if several else "which one is meant is not said"
            raise DataError(
                f"{asked}; {found} would fit, but {why}",
                f"name the array '{spec.name}', or '{model}/{spec.name}' for this model only",
            )
        pixels = next((key for key, pieces in free.items() if _are_pixels(pieces[0])), None)
        if pixels is not None and len(spec.shape) == 4:
            raise DataError(
                f"{asked}; the uint8 images '{pixels}' can only feed it through preprocessing",
                ask_for(model, spec, pixels),
            )
        keyword = f"{spec.name}=x" if spec.name.isidentifier() else f"**{{'{spec.name}': x}}"
        raise DataError(
            f"{asked}, and none that fits; it holds {table.listing()}",
            f"save the frames with np.savez(path, {keyword})",
        )

    def _source(self, model: str, spec: InputSpec, table: Table, key: str) -> FrameSource:
        pieces = table.columns[key]
        if key in table.missing:
            raise DataError(
                f"{table.missing[key]} has no array '{key}', which other files of "
                f"{table.where} have",
                f"every file needs the arrays of all inputs of model '{model}'",
            )
        recipe = self._preprocessing(model, spec)
        # With an input that is no image, uint8 frames are what they are.
        pixels = len(spec.shape) == 4 and _are_pixels(pieces[0])
        if recipe is not None and (recipe.array == key != NAMELESS or pixels):
            return self._pixels(model, spec, pieces, recipe)
        for piece in pieces:
            self._require_fit(model, spec, piece, key)
        source = ArraySource(_where(table, key), pieces, spec)
        for (first, one), (other, two) in pairwise(zip(pieces, source.arrays, strict=True)):
            if one.shape[1:] != two.shape[1:]:
                raise DataError(
                    f"frames differ in size: {first.where} has frames of {list(one.shape[1:])}, "
                    f"{other.where} of {list(two.shape[1:])}",
                    f"bring the frames of input '{spec.name}' of model '{model}' to one size",
                )
        if not len(source):
            raise DataError(f"{source.description} holds no frames", "save frames in it")
        source.check()
        return source

    def _pixels(
        self, model: str, spec: InputSpec, pieces: Sequence[StoredArray], recipe: Preprocessing
    ) -> FrameSource:
        for piece in pieces:
            if not _are_pixels(piece):
                raise DataError(
                    f"{piece.where} is {described(piece.dtype, piece.shape)}, and images for "
                    "preprocessing are uint8 [n, height, width, 3] or [n, height, width]",
                    f"correct array in [preprocess.{model}], or save the images so",
                )
            if piece.shape[1:] != pieces[0].shape[1:]:
                raise DataError(
                    f"images differ in size: {pieces[0].where} has {list(pieces[0].shape[1:])}, "
                    f"{piece.where} has {list(piece.shape[1:])}",
                    "bring them to one size, or give them as an image folder",
                )
        where = pieces[0].where
        resolved = recipe.resolved(model, spec, where)
        arrays = [piece.array for piece in pieces]
        # Rare: a folder of uint8 arrays. Joined in memory, once.
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if not len(joined):
            raise DataError(f"{where} holds no images", "save images in it")
        return ImageSource(ImageArray(where, joined), resolved, spec.dtype)

    def _require_fit(self, model: str, spec: InputSpec, piece: StoredArray, key: str) -> None:
        if fits(piece, spec):
            return
        place = f"input '{spec.name}' of model '{model}'"
        is_ = f"{piece.where} is {described(piece.dtype, piece.shape)}"
        if piece.dtype.kind in "USOMmVc":
            raise DataError(
                f"{is_}, which are no frames; {place} takes {spec}",
                "save plain numeric arrays with np.savez",
            )
        if _are_pixels(piece) and spec.dtype.kind == "f" and len(spec.shape) == 4:
            raise DataError(
                f"{is_}; pixels can only feed {place} ({spec}) through preprocessing",
                ask_for(model, spec, key or None),
            )
        if not _shape_fits(piece.shape, spec):
            raise DataError(
                f"{is_}, but {place} takes {spec}",
                "axis 0 counts frames; the other axes have to be the model's own",
            )
        raise DataError(
            f"{is_}, but {place} takes {spec}, and {piece.dtype} is not turned into {spec.dtype}",
            "save the frames as the model takes them, scaled as in its training",
        )


def _where(table: Table, key: str) -> str:
    pieces = table.columns[key]
    if len(pieces) == 1:
        return pieces[0].where
    named = f"array '{key}'" if key else "the arrays"
    return f"{named} of {len(pieces)} files of {table.where}"


def opened(given: Table | ImageFiles) -> Table | ImageFolder:
    """The set, with the headers of its images read. Raises DataError for a damaged image."""
    return ImageFolder(given.where, given.paths) if isinstance(given, ImageFiles) else given
