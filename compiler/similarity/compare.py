"""Similarity of models' layers: read, run once over the frames, compare, tell.

Every model runs once over the frames, however many layers and pairs there are; what is kept of a
layer is a few megabytes, in memory while it fits and in files beyond that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ...runtime import arguments
from ...runtime.placing import cache_folder
from ..errors import DataError, UsageError
from ..frames.calibration import FrameOptions
from ..graph.arrays import Array
from ..isolation.allowance import ParseLimits
from ..naming import model_names
from ..options import calibration_of
from ..progress import NoProgress, Progress
from .extraction import features_of_arrays
from .features import LayerFeatures, ModelFeatures, Recipe
from .measures import CATALOG
from .model_runs import DEFAULT_FRAMES, MIN_FRAMES, ModelRuns, Stores
from .pair_matrix import PairMatrix
from .pairs import compare
from .report import LayerReport, Match, PairReport, SimilarityResult, SiteMark, best_rows
from .row_pairs import affine_r2_of
from .store import Store

if TYPE_CHECKING:
    from ..frames.preprocessing import Preprocessing
    from ..options import Calibration

Arrays = Mapping[str, Array | Mapping[str, Array]]

DEFAULT_MEASURES = ("cka",)


def similarity(
    models: Sequence[str | Path] | Arrays,
    calibration: Calibration | str | None = None,
    *,
    measures: Sequence[str] = DEFAULT_MEASURES,
    within: Sequence[str] = (),
    names: Mapping[str, str | Path] | None = None,
    frames: int | None = None,
    seed: int = 0,
    sketch: bool = False,
    sites: bool = False,
    cache: bool = True,
    preprocessing: Mapping[str, Preprocessing] | None = None,
    same_frames: bool = False,
    allow_script: bool = False,
    parse_limits: ParseLimits | None = None,
    frame_axis: Sequence[str] = (),
    progress: Progress | None = None,
) -> SimilarityResult:
    """How alike the layers of models are: every layer of one with every layer of the others.

    `models` are ONNX files, with frames in `calibration` (as for `repsimc.compile`), or
    activations: {model: array} or {model: {layer: array}}, arrays [frames, ...] of equal length.
    `within` names models whose own layers are compared, too; one model alone always is.
    `measures` are names of the catalog (`repsimc.compiler.similarity.measures.CATALOG`); the first
    decides the best matches. At most `frames` frames are used (default 1024), drawn by `seed`.
    `sketch` bounds memory and time for large models, at the error the result states. `sites` also
    marks where the planner would try a swap. `frame_axis` names axes of frames ('model.input=1')
    where the models do not tell. `cache` keeps what was computed, by content, for the next call.
    `parse_limits` is what opening a model may take.

    Raises UsageError (unknown measures, models), ModelError and DataError.
    """
    progress = progress or NoProgress()
    measures = arguments.several("measures", measures, arguments.text)
    within = arguments.several("within", within, arguments.text)
    frames = None if frames is None else arguments.whole("frames", frames)
    seed = arguments.whole("seed", seed)
    for name, value in (("sketch", sketch), ("sites", sites), ("cache", cache)):
        arguments.flag(name, value)
    for name, value in (("same_frames", same_frames), ("allow_script", allow_script)):
        arguments.flag(name, value)
    if seed < 0 or (frames is not None and frames < 2):
        raise UsageError(
            f"seed={seed}, frames={frames} draws nothing", "give a seed of 0 or more, 2 frames"
        )
    _check_measures(measures)
    maps = any(CATALOG[name].on == "maps" for name in measures)
    recipe = Recipe(sketch, seed, maps=maps)
    try:
        with ExitStack() as stack:
            if isinstance(models, Mapping):
                source: FeatureSource = ArrayLayers(models, recipe)
            else:
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="repsimc-"))
                source = ModelRuns(
                    model_names(
                        arguments.several("models", models, arguments.path),
                        arguments.table("names", names or {}, arguments.path),
                    ),
                    calibration_of(calibration),
                    FrameOptions(
                        preprocessing or {},
                        same_frames=same_frames,
                        allow_script=allow_script,
                        seed=seed,
                        limit=DEFAULT_FRAMES if frames is None else frames,
                        held_out=None,
                        axes=tuple(frame_axis),
                    ),
                    recipe,
                    Stores(
                        Store(cache_folder() / "similarity") if cache else None,
                        Store(Path(scratch)),
                    ),
                    progress,
                    parse_limits,
                )
            return _analysed(source, measures, within, sites, progress)
    finally:
        progress.done()


class ArrayLayers:
    """Activations that the caller has: features of arrays, all in memory."""

    def __init__(self, given: Arrays, recipe: Recipe) -> None:
        if not given:
            raise UsageError("no arrays were given", "give {model: array} or {model: {layer: ...}}")
        self.recipe = recipe
        self._features: dict[str, ModelFeatures] = {}
        for model, value in given.items():
            layers = dict(value) if isinstance(value, Mapping) else {model: value}
            for name, array in layers.items():
                if not isinstance(cast("object", array), np.ndarray):
                    raise UsageError(
                        f"layer '{name}' of '{model}' is a {type(array).__name__}, not an array",
                        "give numpy arrays [frames, ...]",
                    )
            self._features[model] = features_of_arrays(model, layers, recipe)
        counts = {model: known.frames for model, known in self._features.items()}
        if len(set(counts.values())) > 1:
            raise DataError(
                f"the models have different numbers of frames: {counts}",
                "row k of every array has to be the same frame",
            )
        if min(counts.values()) < MIN_FRAMES:
            raise DataError(
                f"{min(counts.values())} frames tell nothing, at least {MIN_FRAMES} are needed"
            )

    @property
    def models(self) -> tuple[str, ...]:
        """The models' names."""
        return tuple(self._features)

    def aligned(self, a: str, b: str) -> bool:
        """Always: row k is the same frame."""
        return True

    def run(self) -> dict[str, ModelFeatures]:
        """The features, without arrays to be read later."""
        return dict(self._features)

    def features(self, model: str, kinds: Sequence[str]) -> ModelFeatures:
        """The features of a model."""
        return self._features[model]

    def warnings(self) -> list[str]:
        """None."""
        return []

    def marks(self) -> dict[tuple[str, str], list[tuple[str, str, float]]]:
        """No sites: there is nothing to plan with."""
        return {}


# Where features come from: arrays that the caller has, or models that are run.
FeatureSource = ArrayLayers | ModelRuns


def _analysed(
    source: FeatureSource,
    names: tuple[str, ...],
    within: Sequence[str],
    sites: bool,
    progress: Progress,
) -> SimilarityResult:
    for name in within:
        if name not in source.models:
            raise UsageError(
                f"--within {name} names no model of this call",
                f"the models are {', '.join(source.models)}",
            )
    described = source.run()
    asked = list(combinations(source.models, 2))
    pairs = [pair for pair in asked if source.aligned(*pair)]
    notes = [
        f"{a} and {b} are not compared: row k is not the same frame for both"
        for a, b in asked
        if (a, b) not in pairs
    ]
    if asked and not pairs and not within:
        raise DataError(
            "no two models see the same frames, so no layers can be compared",
            "give one set of frames for all, or --same-frames if row k is the same frame",
        )
    own = dict.fromkeys([*within, *(source.models if len(source.models) == 1 else ())])
    pairs += [(name, name) for name in own]
    marks = source.marks() if sites else {}
    progress.stage(f"comparing layers ({len(pairs)} pairs of models)", len(pairs) * len(names))
    reports: list[PairReport] = []
    matches: dict[tuple[str, str], Match] = {}
    for a, b in pairs:
        matrices: dict[str, PairMatrix] = {}
        for kind in dict.fromkeys(CATALOG[name].on for name in names):
            of_kind = [name for name in names if CATALOG[name].on == kind]
            left, right = (source.features(model, (kind,)) for model in (a, b))
            matrices |= compare(left, right, of_kind, source.recipe.seed, progress.advance)
        matrices = {name: matrices[name] for name in names}
        reports.append(PairReport(a, b, matrices, _site_marks(described, a, b, marks)))
        _take_matches(matches, described, a, b, matrices[names[0]])
    _add_r2(matches, source, pairs)
    frames = next((known.frames for known in described.values()), 0)
    return SimilarityResult(
        {
            name: tuple(LayerReport(each.layer, each.statistics) for each in known.layers)
            for name, known in described.items()
        },
        tuple(reports),
        tuple(matches.values()),
        tuple(each for known in described.values() for each in known.skipped),
        tuple(notes),
        tuple(source.warnings()),
        names,
        frames,
        source.recipe.sketched,
        source.recipe.seed,
    )


def _check_measures(names: Sequence[str]) -> None:
    if not names:
        raise UsageError("no measure was asked for", f"known ones are {', '.join(CATALOG)}")
    for name in names:
        if name not in CATALOG:
            raise UsageError(
                f"there is no measure '{name}'", f"known ones are {', '.join(CATALOG)}"
            )


def _take_matches(
    matches: dict[tuple[str, str], Match],
    described: Mapping[str, ModelFeatures],
    a: str,
    b: str,
    matrix: PairMatrix,
) -> None:
    """Put the pair's best matches in, where they are better than those known."""
    flipped = replace(
        matrix,
        values=matrix.values.T,
        null=matrix.null.T,
        spread=matrix.spread.T,
        applicable=matrix.applicable.T,
    )
    ways = [(a, b, matrix)] if a == b else [(a, b, matrix), (b, a, flipped)]
    for like, model, values in ways:
        for column, row in enumerate(best_rows(values, a == b)):
            layer = described[model].layers[column].layer.name
            found = Match(
                model, layer, *(("", "") if row < 0 else (like, _name(described, like, row))),
                matrix.measure.name,
                *(
                    float("nan") if row < 0 else float(part[row, column])
                    for part in (values.values, values.null, values.spread)
                ),
                r2=float("nan"),
            )  # fmt: skip
            known = matches.get((model, layer))
            if known is None or _better(found, known):
                matches[model, layer] = found


def _name(described: Mapping[str, ModelFeatures], model: str, index: int) -> str:
    return described[model].layers[index].layer.name


def _better(found: Match, known: Match) -> bool:
    if isnan(found.value) or isnan(known.value):
        return isnan(known.value) and not isnan(found.value)
    larger = found.value > known.value
    return larger if CATALOG[found.measure].similarity else found.value < known.value


def _add_r2(
    matches: dict[tuple[str, str], Match],
    source: FeatureSource,
    pairs: Sequence[tuple[str, str]],
) -> None:
    """The affine R2 of every match, a pair of models at a time."""
    for pair in pairs:
        both = {frozenset(pair)}
        wanted = [m for m in matches.values() if frozenset((m.model, m.like_model)) in both]
        if not wanted:
            continue
        layers: dict[tuple[str, str], LayerFeatures] = {}
        frames = 0
        for model in dict.fromkeys(pair):
            known = source.features(model, ("rows",))
            frames = known.frames
            layers |= {(model, each.layer.name): each for each in known.layers}
        values = affine_r2_of(
            [(layers[m.like_model, m.like_layer], layers[m.model, m.layer]) for m in wanted],
            frames,
        )
        for match, r2 in zip(wanted, values):
            matches[match.model, match.layer] = replace(match, r2=r2)


def _site_marks(
    described: Mapping[str, ModelFeatures],
    a: str,
    b: str,
    marks: Mapping[tuple[str, str], Sequence[tuple[str, str, float]]],
) -> tuple[SiteMark, ...]:
    index = {
        model: {each.layer.name: k for k, each in enumerate(described[model].layers)}
        for model in (a, b)
    }
    found: dict[tuple[int, int, bool], float] = {}
    for into_b, (donor, receiver) in ((True, (a, b)), (False, (b, a))):
        for given, taken, r2 in marks.get((donor, receiver), ()):
            if given in index[donor] and taken in index[receiver]:
                ends = (index[donor][given], index[receiver][taken])
                place = (*ends, into_b) if into_b else (ends[1], ends[0], into_b)
                found[place] = max(r2, found.get(place, 0.0))
    return tuple(SiteMark(*place, r2) for place, r2 in sorted(found.items()))
