"""Which array feeds which input, whether it fits, and the rows it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from .array_files import StoredArray
from .images import ImageArray, ImageFolder, ImageSource
from .preprocessing import Preprocessing, ask_for
from .sets import NAMELESS, ImageFiles, InputSpec, Table, described
from .sources import ArraySource, FrameSource, SameArray, fits, frames_place


class Fed(NamedTuple):
    """What feeds an input: the key of the arrays, the source, and the input as it is then fed."""

    key: str
    source: FrameSource
    spec: InputSpec


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

    def sources(self, model: str, given: Table | ImageFolder) -> dict[str, Fed]:
        """For each input of the model what feeds it. Raises DataError."""
        specs = self.models[model]
        if isinstance(given, ImageFolder):
            found = {spec.name: self._images(model, spec, given) for spec in self._needed(model)}
        else:
            keys = {spec.name: self._named(model, spec, given) for spec in specs}
            for spec in self._needed(model):
                if keys[spec.name] is None:
                    keys[spec.name] = self._only_fitting(model, spec, given)
            found = {
                spec.name: Fed(key, self._source(model, spec, given, key), spec)
                for spec in specs
                if (key := keys[spec.name]) is not None
            }
        found |= _repeated(found)
        states = {
            spec.name: Fed(NAMELESS, _zeros(model, spec, found), spec)
            for spec in specs
            if spec.name not in found
        }
        return {spec.name: (found | states)[spec.name] for spec in specs}

    def _needed(self, model: str) -> list[InputSpec]:
        """The inputs that frames have to feed: states may be left out."""
        return [spec for spec in self.models[model] if not spec.state]

    def _images(self, model: str, spec: InputSpec, given: ImageFolder) -> Fed:
        needed = self._needed(model)
        if len(needed) != 1:
            raise DataError(
                f"{given.where} holds images, and model '{model}' has {len(needed)} inputs "
                f"({', '.join(each.name for each in needed)})",
                "give frames as .npz keyed by input name",
            )
        recipe = self._preprocessing(model, spec) or Preprocessing()
        recipe = recipe.resolved(model, spec, given.where)
        source = ImageSource(given, recipe, spec.dtype)
        _require_sizes(model, spec, source)
        return Fed(NAMELESS, source, spec)

    def _preprocessing(self, model: str, spec: InputSpec) -> Preprocessing | None:
        names = (f"{model}/{spec.name}", model, "")
        return next((self.preprocessing[n] for n in names if n in self.preprocessing), None)

    def _named(self, model: str, spec: InputSpec, table: Table) -> str | None:
        """The key that says by its name that it feeds this input."""
        recipe = self._preprocessing(model, spec)
        needed = self._needed(model)
        if NAMELESS in table.columns:
            if len(needed) == 1:
                return None if spec.state else NAMELESS
            inputs = ", ".join(spec.name for spec in needed)
            raise DataError(
                f"{table.where} is one array without a name, and model '{model}' has "
                f"{len(needed)} inputs ({inputs})",
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
        if len(needed) == 1 and not spec.state:
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
        several = len(self._needed(model)) > 1
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
        hint = f"save the frames with np.savez(path, {keyword})"
        if not spec.shape:
            hint = f"save its value beside the frames, once or one per frame: {keyword}"
        raise DataError(f"{asked}, and none that fits; it holds {table.listing()}", hint)

    def _source(
        self, model: str, spec: InputSpec, table: Table, key: str
    ) -> ArraySource | ImageSource:
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
        if not len(source):
            raise DataError(f"{source.description} holds no frames", "save frames in it")
        source.check()
        return source

    def _pixels(
        self, model: str, spec: InputSpec, pieces: Sequence[StoredArray], recipe: Preprocessing
    ) -> ImageSource:
        for piece in pieces:
            if not _are_pixels(piece):
                raise DataError(
                    f"{piece.where} is {described(piece.dtype, piece.shape)}, and images for "
                    "preprocessing are uint8 [n, height, width, 3] or [n, height, width]",
                    f"correct array in [preprocess.{model}], or save the images so",
                )
        where = pieces[0].where
        resolved = recipe.resolved(model, spec, where)
        arrays = tuple(piece.array for piece in pieces)
        if not sum(map(len, arrays)):
            raise DataError(f"{where} holds no images", "save images in it")
        source = ImageSource(ImageArray(where, arrays), resolved, spec.dtype)
        _require_sizes(model, spec, source)
        return source

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
        if frames_place(piece.shape, spec) is None:
            axis = spec.frame_axis
            counts = "no axis of it counts" if axis is None else f"axis {axis} counts"
            raise DataError(
                f"{is_}, but {place} takes {spec}",
                f"{counts} frames; the other axes have to be the model's own",
            )
        raise DataError(
            f"{is_}, but {place} takes {spec}, and {piece.dtype} is not turned into {spec.dtype}",
            "save the frames as the model takes them, scaled as in its training",
        )


def _repeated(found: Mapping[str, Fed]) -> dict[str, Fed]:
    """Inputs that are given one array for all frames of the others."""
    arrays = {name: m for name, m in found.items() if isinstance(m.source, ArraySource)}
    counts = [len(m.source) for m in found.values() if not isinstance(m.source, SameArray)]
    made: dict[str, Fed] = {}
    for name, match in arrays.items():
        source = match.source
        assert isinstance(source, ArraySource)
        whole = match.spec.frame_axis is None
        same = whole and source.kinds is None
        if (source.repeats and (whole or len(source) != max(counts))) or same:
            made[name] = Fed(match.key, *source.repeated())
    return made


def _zeros(model: str, spec: InputSpec, found: Mapping[str, Fed]) -> SameArray:
    """Zeros for a state that the frames leave out: what a model begins with."""
    sizes: dict[str, set[int]] = {}
    for match in found.values():
        if isinstance(match.source, ImageSource):
            continue
        for shape in match.source.shapes:
            for dim, extent in zip(match.spec.frame, shape, strict=True):
                if isinstance(dim, str):
                    sizes.setdefault(dim, set()).add(extent)
    extents: list[int] = []
    for dim in spec.frame:
        known = {dim} if isinstance(dim, int) and dim > 0 else sizes.get(str(dim), set[int]())
        if len(known) != 1:
            raise DataError(
                f"the frames leave out the state '{spec.name}' of model '{model}' ({spec}), and "
                f"nothing says how many zeros it begins with",
                f"give an array '{spec.name}' of one frame",
            )
        extents.extend(known)
    return SameArray(f"zeros for state '{spec.name}'", np.zeros(extents, spec.dtype), made_up=True)


def _require_sizes(model: str, spec: InputSpec, source: ImageSource) -> None:
    """Raise DataError if an image keeps a size that the input does not take."""
    for row, shape in enumerate(source.each_shape()):
        wrong = [
            (wanted, extent)
            for wanted, extent in zip(spec.frame, shape, strict=True)
            if isinstance(wanted, int) and 0 < wanted != extent
        ]
        if wrong:
            raise DataError(
                f"{source.images.name(row)} comes to {list(shape)}, but input '{spec.name}' of "
                f"model '{model}' takes {spec}",
                f"say the size in repsimc.toml: [preprocess.{model}] size = [height, width]",
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
