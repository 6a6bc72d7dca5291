"""The frames a compilation looks at: one row of frames per model input, split into two parts.

Frames come from files, folders, a script or arrays in memory. Models whose row k is the same
frame form a stream; only those can share a representation. Each stream is split by seed into
frames that adapters are fitted on and frames that only measure what the fit is worth.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, UsageError
from .array_files import Allowance, Array, StoredArray
from .images import ImageArray, ImageFolder, ImageSource
from .matching import ArraySource, FrameSource, Matcher, opened
from .preprocessing import Preprocessing
from .scenes import SmallFrames
from .sets import NAMELESS, ImageFiles, InputRef, InputSpec, Rows, Table, read_set
from .splits import Split, split

# Frames looked at together: whole images, before they are made small.
_LOOKED_AT = 16

Calibration = (
    str | Path | Array | Mapping[str, str | Path] | Mapping[str, Array | Mapping[str, Array]]
)


@dataclass(frozen=True)
class Frames:
    """Frames for every input of every model, and which of them may be fitted on.

    `sources` gives the rows of each input. `streams` groups the models for which row k is the
    same frame; they share one split. Rows are counted per stream, from 0.
    """

    sources: Mapping[InputRef, FrameSource]
    streams: tuple[tuple[str, ...], ...]
    inputs: Mapping[str, tuple[InputSpec, ...]]
    splits: tuple[Split, ...]  # per stream

    def aligned(self, a: str, b: str) -> bool:
        """Whether row k is the same frame for both models."""
        return self._stream(a) == self._stream(b)

    def count(self, model: str) -> int:
        """The number of frames in use for the model, both parts together."""
        return len(self.rows(model))

    def fit_rows(self, model: str) -> Rows:
        """Rows to fit on, in random order (a prefix is a fair sample), in whole batches."""
        return self.splits[self._stream(model)].fit

    def held_out_rows(self, model: str) -> Rows:
        """Rows that no fit may see, in whole batches; all rows in order when for verification."""
        return self.splits[self._stream(model)].held_out

    def rows(self, model: str) -> Rows:
        """All rows in use for the model, in order."""
        return np.sort(np.concatenate([self.fit_rows(model), self.held_out_rows(model)]))

    def scenes_of(self, model: str, rows: Rows) -> Rows | None:
        """A number for each of the rows, equal for those that show nearly the same; None where no
        one looked: all are held out."""
        known = self.splits[self._stream(model)].scenes
        if not len(known):
            return None
        return known[np.searchsorted(known[:, 0], rows), 1]

    def scenes_held_out(self, model: str) -> Rows:
        """The scenes of the held-out rows, each once: so many rows tell something new."""
        held_out = self.held_out_rows(model)
        scenes = self.scenes_of(model, held_out)
        return np.unique(held_out if scenes is None else scenes)

    def feed(self, model: str, rows: Rows) -> dict[str, Array]:
        """What the model is fed for these rows: arrays [n, ...] by its own input names.

        With a fixed batch the rows have to fill whole batches (ValueError). Raises DataError for
        an image that can't be decoded.
        """
        batch = self.batch(model)
        if batch is not None and len(rows) % batch:
            raise ValueError(f"model '{model}' runs {batch} rows at a time, given {len(rows)}")
        return {spec.name: self.sources[model, spec.name].rows(rows) for spec in self.inputs[model]}

    def batch(self, model: str) -> int | None:
        """The fixed number of rows per run of the model, None when any number will do."""
        return _batch(model, self.inputs[model])

    def tied_groups(self) -> list[list[InputRef]]:
        """Inputs of different models that are always fed the same array.

        Same stream, equal rows (by content, after preprocessing), agreeing shapes. Within a
        model two such inputs stay apart.
        """
        groups: list[list[InputRef]] = []
        for stream in self.streams:
            alike: dict[object, list[InputRef]] = {}
            for model in stream:
                for spec in self.inputs[model]:
                    source = self.sources[model, spec.name]
                    kind = (spec.dtype.str, spec.batch, _frame_shape(source), len(source))
                    alike.setdefault(kind, []).append((model, spec.name))
            for members in alike.values():
                groups += self._equal(members)
        return [group for group in groups if len(group) > 1]

    def fingerprint(self) -> str:
        """sha256 (hex) of all rows, the streams and the split: equal frames, equal fingerprint."""
        state = hashlib.sha256(repr((self.streams, sorted(self.sources))).encode())
        for ref in sorted(self.sources):
            state.update(self.sources[ref].digest.encode())
        for part in (part for parts in self.splits for part in (parts.fit, parts.held_out)):
            state.update(len(part).to_bytes(8, "little") + part.astype("<i8").tobytes())
        return state.hexdigest()

    def _equal(self, members: Sequence[InputRef]) -> list[list[InputRef]]:
        """`members` in groups of equal rows, at most one input per model in each."""
        identities = {ref: _identity(self.sources[ref]) for ref in members}
        # Hashing the content is only needed where the same object does not answer it.
        by_content = len(set(identities.values())) > 1 and len({m for m, _ in members}) > 1
        groups: list[tuple[object, list[InputRef]]] = []
        for ref in members:
            key = self.sources[ref].digest if by_content else identities[ref]
            for known, group in groups:
                if known == key and all(model != ref[0] for model, _ in group):
                    group.append(ref)
                    break
            else:
                groups.append((key, [ref]))
        return [group for _, group in groups]

    def _stream(self, model: str) -> int:
        for index, stream in enumerate(self.streams):
            if model in stream:
                return index
        raise KeyError(model)


@dataclass(frozen=True)
class FrameOptions:
    """How frames are read and divided.

    `preprocessing` for images goes by 'model/input', 'model', or '' for every model. `same_frames`
    says that row k of every model's set is the same frame; `allow_script` that a script may run.
    Of each stream at most `limit` frames are used, drawn by `seed`, of which the share `held_out`
    (at least one batch, leaving MIN_FIT_FRAMES to fit on) is held out; all are where it is None.

    Raises UsageError for a value that makes no sense.
    """

    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict[str, Preprocessing])
    same_frames: bool = False
    allow_script: bool = False
    seed: int = 0
    limit: int | None = None
    held_out: float | None = 0.25

    def __post_init__(self) -> None:
        if self.held_out is not None and not 0 < self.held_out < 1:
            raise UsageError(f"{self.held_out} of the frames can't be held out", "give e.g. 0.25")
        if self.seed < 0:
            raise UsageError(f"a seed of {self.seed} is negative", "give 0 or more")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"a limit of {self.limit} frames leaves none", "give at least 17")


def load_frames(
    calibration: Calibration,
    inputs: Mapping[str, Sequence[InputSpec]],
    options: FrameOptions | None = None,
) -> Frames:
    """Frames for the models of `inputs` from a path, a path per model, or arrays.

    One path or array feeds every model: one stream. A path per model gives a stream per model,
    unless the paths are the same or `options` say that row k is the same frame. In a mapping of
    arrays a key is an input's name (one stream), or 'model' or 'model/input' (a stream per model,
    unless the arrays are the same or row k is the same frame); {model: {input: array}} is the
    latter. With models of fixed batch, frames are cut to whole batches, which stay together.

    Raises DataError (files, arrays, images that can't be used, too few frames) and UsageError.
    """
    options = options or FrameOptions()
    specs = {model: tuple(given) for model, given in inputs.items()}
    matcher = Matcher(specs, options.preprocessing)
    _refuse_unknown(matcher.preprocessing, specs, "preprocessing")
    sets, shared = _sets(calibration, specs, options)
    if options.same_frames:
        shared = dict.fromkeys(specs, "all")
    sources: dict[InputRef, FrameSource] = {}
    streams: dict[object, list[str]] = {}
    for model in specs:
        found = matcher.sources(model, sets[model])
        sources |= {(model, name): source for name, (_, source) in found.items()}
        stream = shared.get(model) or _own_stream(model, found, specs)
        streams.setdefault(stream, []).append(model)
    splits: list[Split] = []
    for models in streams.values():
        count = _common_count(models, sources)
        unit = math.lcm(*(_batch(model, specs[model]) or 1 for model in models))
        where = sources[models[0], specs[models[0]][0].name].description
        scenes = _scenes_by(sources, models, specs, unit)
        splits.append(
            split(count, unit, options.seed, options.held_out, options.limit, where, scenes)
        )
    return Frames(
        sources, tuple(tuple(models) for models in streams.values()), specs, tuple(splits)
    )


def load_labels(path: Path, name: str, rows: Rows | None = None) -> NDArray[np.int64]:
    """Labels [frames] from array `name` of an .npz, or of a folder of them in the frames' order.

    Class indices: integers, shape [n] or [n, 1]. Raises DataError saying what the file holds, or
    that it has too few labels for the `rows` in use.
    """
    given = read_set(path, Allowance())
    if isinstance(given, ImageFiles) or NAMELESS in given.columns:
        raise DataError(f"{path} has no named arrays to take labels from", "give an .npz")
    pieces = given.columns.get(name)
    if pieces is None:
        raise DataError(
            f"{path} has no array '{name}' for labels; it holds {given.listing()}",
            "name the array that holds one class index per frame",
        )
    if name in given.missing:
        raise DataError(f"{given.missing[name]} has no array '{name}' for labels", "add it there")
    for piece in pieces:
        flat = len(piece.shape) == 1 or (len(piece.shape) == 2 and piece.shape[1] == 1)
        if not flat or piece.dtype.kind not in "iu":
            raise DataError(
                f"{piece.where} is {piece.dtype} {list(piece.shape)}, and labels are one integer "
                "per frame",
                "save class indices: np.savez(path, labels=scores.argmax(-1))",
            )
    labels = np.concatenate([piece.array.reshape(-1).astype(np.int64) for piece in pieces])
    if rows is not None and len(labels) <= (last := int(rows.max(initial=-1))):
        raise DataError(
            f"{path} has {len(labels)} labels '{name}' for {last + 1} frames",
            "give one label per frame, in the frames' order",
        )
    return labels


def _scenes_by(
    sources: Mapping[InputRef, FrameSource],
    models: Sequence[str],
    specs: Mapping[str, Sequence[InputSpec]],
    unit: int,
) -> Callable[[Rows, int, int], Rows]:
    """Finds the scenes of rows by what the first of the models is fed: the others are fed the
    same, or what was seen at the same time."""

    def scenes(rows: Rows, most: int, run: int) -> Rows:
        small = SmallFrames()
        step = unit * max(_LOOKED_AT // unit, 1)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            small.add([sources[models[0], spec.name].rows(some) for spec in specs[models[0]]])
        return small.scenes(most, run)

    return scenes


def _sets(
    calibration: Calibration,
    specs: Mapping[str, Sequence[InputSpec]],
    options: FrameOptions,
) -> tuple[dict[str, Table | ImageFolder], dict[str, object]]:
    """Each model's set of frames, and what names its stream where that is known already."""
    allowance = Allowance()

    def read(path: Path) -> Table | ImageFolder:
        return opened(
            read_set(path, allowance, allow_script=options.allow_script, limit=options.limit)
        )

    if isinstance(calibration, str | Path):
        one = read(Path(calibration))
        return dict.fromkeys(specs, one), dict.fromkeys(specs, "all")
    if isinstance(calibration, np.ndarray):
        array = StoredArray.of(calibration, "the calibration array")
        one = Table("the calibration array", {NAMELESS: (array,)})
        return dict.fromkeys(specs, one), dict.fromkeys(specs, "all")
    if not isinstance(cast("object", calibration), Mapping):
        raise UsageError(
            f"calibration is a {type(calibration).__name__}",
            "give a path, a path per model, an array, or arrays by input name",
        )
    if not calibration:
        raise UsageError("calibration is empty", "give frames, or leave it out")
    given = cast("Mapping[str, object]", calibration)
    paths = {key: Path(v) for key, v in given.items() if isinstance(v, str | Path)}
    if not paths:
        return dict.fromkeys(specs, _table_of(given)), {}
    if len(paths) < len(given):
        raise UsageError(
            "calibration mixes paths and arrays", "give a path for every model, or arrays only"
        )
    _refuse_unknown(paths, specs, "calibration")
    for model in specs:
        if model not in paths:
            raise DataError(
                f"there are no frames for model '{model}'",
                f"add --calib {model}=PATH, or give one set for all models",
            )
    by_place: dict[Path, Table | ImageFolder] = {}
    places: dict[str, object] = {}
    for model in specs:
        try:
            place = paths[model].resolve()
        except (OSError, RuntimeError):  # a loop of links; reading it says so
            place = paths[model]
        if place not in by_place:
            by_place[place] = read(paths[model])
        places[model] = place
    return {model: by_place[cast("Path", place)] for model, place in places.items()}, places


def _table_of(given: Mapping[str, object]) -> Table:
    columns: dict[str, tuple[StoredArray, ...]] = {}
    for key, value in given.items():
        entries = {key: value}
        if isinstance(value, Mapping):
            nested = cast("Mapping[str, object]", value)
            entries = {f"{key}/{name}": array for name, array in nested.items()}
        for name, entry in entries.items():
            if not isinstance(entry, np.ndarray):
                raise UsageError(
                    f"calibration '{name}' is a {type(entry).__name__}, not an array",
                    "give numpy arrays: frames on axis 0, then the shape the model takes",
                )
            array = cast("Array", entry)
            columns[name] = (StoredArray.of(array, f"calibration array '{name}'"),)
    return Table("calibration", columns)


def _own_stream(
    model: str,
    found: Mapping[str, tuple[str, FrameSource]],
    specs: Mapping[str, Sequence[InputSpec]],
) -> object:
    """What names the stream of a model that is fed from arrays in memory."""
    keys = [key for key, _ in found.values()]
    if any(key == m or key.startswith(f"{m}/") for key in keys for m in specs):
        return tuple(_held(source) for _, source in found.values())
    return "all"


def _held(source: FrameSource) -> tuple[int, ...]:
    """The objects in memory that a source takes its rows from."""
    if isinstance(source, ArraySource):
        return tuple(id(piece.array) for piece in source.pieces)
    images = source.images
    return (id(images.array if isinstance(images, ImageArray) else images),)


def _identity(source: FrameSource) -> object:
    """Equal for two sources that give equal rows because they are made from the same object."""
    recipe = source.preprocessing if isinstance(source, ImageSource) else None
    return (recipe, _held(source))


def _frame_shape(source: FrameSource) -> object:
    if isinstance(source, ArraySource):
        return source.frame_shape
    return source.preprocessing


def _batch(model: str, specs: Sequence[InputSpec]) -> int | None:
    fixed = {spec.batch: spec for spec in specs if spec.batch is not None}
    if len(fixed) > 1:
        listed = ", ".join(f"'{spec.name}' {spec}" for spec in fixed.values())
        raise DataError(
            f"the inputs of model '{model}' do not take equally many rows per run: {listed}",
            "frames are counted on axis 0 of every input; make the odd input a constant",
        )
    return next(iter(fixed), None)


def _common_count(models: Sequence[str], sources: Mapping[InputRef, FrameSource]) -> int:
    counted = {ref: len(source) for ref, source in sources.items() if ref[0] in models}
    (first, count), *others = counted.items()
    for ref, other in others:
        if other != count:
            raise DataError(
                f"row k is meant to be the same frame for input '{first[1]}' of model "
                f"'{first[0]}' and input '{ref[1]}' of model '{ref[0]}', but they have {count} "
                f"and {other} frames: {sources[first].description}; {sources[ref].description}",
                "give equally many frames for both"
                + (", or leave out --same-frames" if ref[0] != first[0] else ""),
            )
    return count


def _refuse_unknown(given: Mapping[str, Any], specs: Mapping[str, Any], what: str) -> None:
    for key in given:
        model = key.split("/", 1)[0]
        if model and model not in specs:
            raise UsageError(
                f"{what} names '{key}', but no model is called '{model}'",
                f"the models are called {', '.join(specs)}",
            )
