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

from ..errors import DataError, UsageError
from .array_files import Allowance, Array, StoredArray
from .axes import with_axes
from .images import ImageFolder
from .matching import Fed, Matcher, opened
from .preprocessing import Preprocessing
from .scenes import SmallFrames
from .sets import NAMELESS, InputRef, InputSpec, Rows, Table, read_set
from .sources import FrameSource, SameArray, held
from .splits import Split, split

# Frames looked at together: whole images, before they are made small.
_LOOKED_AT = 16

Arrays = Array | Sequence[Array]
Calibration = (
    str | Path | Arrays | Mapping[str, str | Path] | Mapping[str, Arrays | Mapping[str, Arrays]]
)


@dataclass(frozen=True)
class Frames:
    """Frames for every input of every model, and which of them may be fitted on.

    `sources` gives the rows of each input, `inputs` what each is fed as. `streams` groups the
    models for which row k is the same frame; they share one split. Rows are counted per stream,
    from 0. Rows may differ in size: only those of one size run together, see `alike`.
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

    def alike(self, models: Sequence[str], rows: Rows) -> list[Rows]:
        """`rows` by which of them these models of one stream can run together: those of one size.

        In order of the first row of each part, and in each part in the order given. A scalar or
        constant that changes from frame to frame divides them too.
        """
        kinds = [
            kinds
            for model in models
            for spec in self.inputs[model]
            if (kinds := self.sources[model, spec.name].kinds) is not None
        ]
        if not kinds or not len(rows):
            return [rows]
        of_row = np.unique(np.stack([each[rows] for each in kinds]), axis=1, return_inverse=True)[1]
        numbers = dict.fromkeys(of_row.reshape(-1).tolist())
        return [rows[of_row.reshape(-1) == number] for number in numbers]

    def feed(self, model: str, rows: Rows) -> dict[str, Array]:
        """What the model is fed for these rows, all of one size: arrays by its own input names.

        Frames are counted on each input's own axis of frames. With a fixed batch the rows have to
        fill whole batches (ValueError). Raises DataError for an image that can't be decoded.
        """
        batch = self.batch(model)
        if batch is not None and len(rows) % batch:
            raise ValueError(f"model '{model}' runs {batch} rows at a time, given {len(rows)}")
        found: dict[str, Array] = {}
        for spec in self.inputs[model]:
            source = self.sources[model, spec.name]
            if spec.frame_axis is None:
                found[spec.name] = np.asarray(source.rows(rows[:1])[0])
                continue
            array = np.moveaxis(source.rows(rows), 0, spec.frame_axis)
            found[spec.name] = np.ascontiguousarray(array)
        return found

    def seen(self, model: str, rows: Rows) -> list[Array]:
        """What changes from frame to frame of these rows of one size: arrays [n, ...]."""
        sources = (self.sources[model, spec.name] for spec in self.inputs[model])
        return [source.rows(rows) for source in sources if not isinstance(source, SameArray)]

    def batch(self, model: str) -> int | None:
        """The fixed number of rows per run of the model, None when any number will do."""
        return _batch(model, self.inputs[model])

    def constants(self) -> list[InputRef]:
        """The inputs that are fed one array whatever the frame."""
        return [ref for ref, source in self.sources.items() if isinstance(source, SameArray)]

    def still_states(self) -> list[InputRef]:
        """The states among them: of those the frames say nothing."""
        states = {(model, s.name) for model, specs in self.inputs.items() for s in specs if s.state}
        return [ref for ref in self.constants() if ref in states]

    def left_out(self) -> list[InputRef]:
        """The states that the frames leave out: they are zeros."""
        return [
            ref
            for ref, source in self.sources.items()
            if isinstance(source, SameArray) and source.made_up
        ]

    def fingerprint(self) -> str:
        """sha256 (hex) of all rows, the streams and the split: equal frames, equal fingerprint."""
        state = hashlib.sha256(repr((self.streams, sorted(self.sources))).encode())
        for ref in sorted(self.sources):
            state.update(self.sources[ref].digest.encode())
        for part in (part for parts in self.splits for part in (parts.fit, parts.held_out)):
            state.update(len(part).to_bytes(8, "little") + part.astype("<i8").tobytes())
        return state.hexdigest()

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
    `axes` are axes of frames that the user names: 'model.input=1', or '=none'.
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
    axes: tuple[str, ...] = ()

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
    latter. A list of arrays holds frames of several sizes. With models of fixed batch, frames are
    cut to whole batches, which stay together. States may be left out and are zeros then.

    Raises DataError (files, arrays, images that can't be used, too few frames) and UsageError.
    """
    options = options or FrameOptions()
    specs = with_axes(inputs, options.axes)
    matcher = Matcher(specs, options.preprocessing)
    _refuse_unknown(matcher.preprocessing, specs, "preprocessing")
    sets, shared = _sets(calibration, specs, options)
    if options.same_frames:
        shared = dict.fromkeys(specs, "all")
    sources: dict[InputRef, FrameSource] = {}
    streams: dict[object, list[str]] = {}
    for model in specs:
        found = matcher.sources(model, sets[model])
        sources |= {(model, name): match.source for name, match in found.items()}
        specs[model] = tuple(match.spec for match in found.values())
        stream = shared.get(model) or _own_stream(model, found, specs)
        streams.setdefault(stream, []).append(model)
    splits: list[Split] = []
    for models in streams.values():
        first, count = _common_count(models, sources)
        unit = math.lcm(*(_batch(model, specs[model]) or 1 for model in models))
        where = sources[first].description
        scenes = _scenes_by([s for ref, s in sources.items() if ref[0] == first[0]], unit)
        splits.append(
            split(count, unit, options.seed, options.held_out, options.limit, where, scenes)
        )
        for model in models:
            _require_whole_batches(model, specs[model], sources, count)
    return Frames(
        sources, tuple(tuple(models) for models in streams.values()), specs, tuple(splits)
    )


def _scenes_by(sources: Sequence[FrameSource], unit: int) -> Callable[[Rows, int, int], Rows]:
    """Finds the scenes of rows by what one model is fed: the others of its stream are fed the
    same, or what was seen at the same time."""
    counted = [source for source in sources if not isinstance(source, SameArray)]
    kinds = [source.kinds for source in counted if source.kinds is not None]

    def scenes(rows: Rows, most: int, run: int) -> Rows:
        small = SmallFrames()
        step = unit * max(_LOOKED_AT // unit, 1)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            # Rows of other sizes do not go into one array.
            changes = {int(at) + 1 for kind in kinds for at in np.flatnonzero(np.diff(kind[some]))}
            for part in np.split(some, sorted(changes)):
                small.add([source.rows(part) for source in counted])
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
    if isinstance(calibration, np.ndarray | list | tuple):
        one = Table("the calibration array", {NAMELESS: _stored(calibration, "")})
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
        columns |= {name: _stored(entry, name) for name, entry in entries.items()}
    return Table("calibration", columns)


def _stored(given: object, name: str) -> tuple[StoredArray, ...]:
    """The arrays that a caller gives under a name: one, a number, or a list of arrays."""
    several = isinstance(given, list | tuple)
    entries = list(cast("Sequence[object]", given)) if several else [given]
    called = f"calibration array '{name}'" if name else "the calibration array"
    found: list[StoredArray] = []
    for index, entry in enumerate(entries):
        kind = type(entry).__name__
        number = isinstance(entry, bool | int | float | np.number | np.bool_) and not several
        if not isinstance(entry, np.ndarray) and not number:
            what = f"calibration '{name}'" if name else "calibration"
            raise UsageError(
                f"{what} is a {f'list that holds a {kind}' if several else kind}, not an array",
                "give a path, a path per model, or numpy arrays: frames on axis 0, then the shape "
                "the model takes; a list of them where frames differ in size",
            )
        where = f"{called}, entry {index}" if several else called
        array: Array = np.asarray(entry)
        found.append(StoredArray.of(array, where))
    if not found:
        raise UsageError(f"{called} is an empty list", "give frames, or leave it out")
    return tuple(found)


def _own_stream(
    model: str, found: Mapping[str, Fed], specs: Mapping[str, Sequence[InputSpec]]
) -> object:
    """What names the stream of a model that is fed from arrays in memory."""
    keys = [match.key for match in found.values()]
    if any(key == m or key.startswith(f"{m}/") for key in keys for m in specs):
        return tuple(held(m.source) for m in found.values() if not isinstance(m.source, SameArray))
    return "all"


def _batch(model: str, specs: Sequence[InputSpec]) -> int | None:
    fixed = {spec.batch: spec for spec in specs if spec.batch is not None}
    if len(fixed) > 1:
        listed = ", ".join(f"'{spec.name}' {spec}" for spec in fixed.values())
        raise DataError(
            f"the inputs of model '{model}' do not take equally many rows per run: {listed}",
            "frames are counted on axis 0 of every input; make the odd input a constant",
        )
    return next(iter(fixed), None)


def _require_whole_batches(
    model: str,
    specs: Sequence[InputSpec],
    sources: Mapping[InputRef, FrameSource],
    count: int,
) -> None:
    """Raise DataError where frames that a fixed batch takes together differ in size."""
    batch = _batch(model, specs) or 1
    for spec in specs:
        source = sources[model, spec.name]
        if batch == 1 or source.kinds is None:
            continue
        blocks = source.kinds[: count // batch * batch].reshape(-1, batch)
        mixed = np.flatnonzero((blocks != blocks[:, :1]).any(axis=1))
        if len(mixed):
            raise DataError(
                f"model '{model}' takes {batch} frames at a time, and frames {mixed[0] * batch} to "
                f"{mixed[0] * batch + batch - 1} (counted from 0) of {source.description} differ "
                "in size",
                f"sort the frames, so that each {batch} of them are of one size",
            )


def _common_count(
    models: Sequence[str], sources: Mapping[InputRef, FrameSource]
) -> tuple[InputRef, int]:
    """An input that frames are counted by, and how many there are."""
    counted = {
        ref: len(source)
        for ref, source in sources.items()
        if ref[0] in models and not isinstance(source, SameArray)
    }
    if not counted:
        raise DataError(
            f"no input of model '{models[0]}' is given more than one array, so there are no frames",
            "give frames on axis 0 of the inputs that change",
        )
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
    return first, count


def _refuse_unknown(given: Mapping[str, Any], specs: Mapping[str, Any], what: str) -> None:
    for key in given:
        model = key.split("/", 1)[0]
        if model and model not in specs:
            raise UsageError(
                f"{what} names '{key}', but no model is called '{model}'",
                f"the models are called {', '.join(specs)}",
            )
