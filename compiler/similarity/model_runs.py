"""Features of ONNX models: from the cache where they are known, else from one run over frames."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DataError, UsageError
from ..execution.executable import batches_of
from ..execution.feeds import input_specs
from ..execution.first_frame import run_first_frame
from ..execution.measured_sizes import bind_to_frames
from ..frames.calibration import FrameOptions, Frames, load_frames
from ..frames.warnings import frame_warnings
from ..frontends.read import read_model
from ..graph.arrays import Array, Int64
from ..graph.program import Program
from ..isolation.allowance import ParseLimits
from ..progress import Progress
from .extraction import batch_for, extract
from .features import ModelFeatures, Recipe
from .layers import Layer, layers_of
from .site_marks import Marks, site_marks
from .store import FeaturesKey, SitesKey, Store

if TYPE_CHECKING:
    from ..options import Calibration


# Fewer tell nothing: HSIC_1 divides by n - 3.
MIN_FRAMES = 4
# Used unless told otherwise: CKA of resnet20 x resnet44 is then within 0.012 (root mean square) of
# that of 2 000 frames; with 256 frames it is within 0.022, with 64 within 0.056.
DEFAULT_FRAMES = 1024
# Features of all models together stay in memory up to this, then they are read from files.
HELD_NBYTES = 256 << 20


class Stores(NamedTuple):
    """The cache, if any, and `scratch`, which takes what neither it nor memory will."""

    cache: Store | None
    scratch: Store


class ModelRuns:
    """Models that run over frames once each; what they gave is kept by content.

    Raises as `read_model` and `load_frames` do, and DataError for too few frames.
    """

    def __init__(
        self,
        models: Sequence[tuple[str, Path]],
        calibration: Calibration | None,
        options: FrameOptions,
        recipe: Recipe,
        stores: Stores,
        progress: Progress,
        limits: ParseLimits | None = None,
    ) -> None:
        if not models:
            raise UsageError("no models given", "repsimc similarity a.onnx b.onnx --calib frames/")
        if calibration is None:
            raise UsageError(
                "similarity is measured on frames, and there are none",
                "give --calib PATH: an .npz keyed by input name, a folder of them, or of images",
            )
        self.recipe = recipe
        self._stores, self._progress = stores, progress
        progress.stage("reading models", len(models))
        self.programs: dict[str, Program] = {}
        for name, path in models:
            self.programs[name] = read_model(path, name, limits)
            progress.advance()
        progress.stage("reading frames", None)
        inputs = {name: input_specs(program) for name, program in self.programs.items()}
        self.frames = load_frames(calibration, inputs, options)
        run_first_frame(list(self.programs.values()), self.frames, limits)
        for program in self.programs.values():
            bind_to_frames(program, self.frames, others=False)
        self._rows = {name: _shuffled(self.frames, name, recipe.seed) for name in self.programs}
        self._layers: dict[str, list[Layer]] = {}
        self._held: dict[str, ModelFeatures] = {}
        self._kept: dict[str, tuple[Store, str]] = {}

    @property
    def models(self) -> tuple[str, ...]:
        """The models' names."""
        return tuple(self.programs)

    def aligned(self, a: str, b: str) -> bool:
        """Whether row k is the same frame for both."""
        return self.frames.aligned(a, b)

    def run(self) -> dict[str, ModelFeatures]:
        """Layers and statistics of every model: one pass over its frames, unless it is known."""
        found: dict[str, ModelFeatures] = {}
        for name in self.programs:
            if len(self._rows[name]) < MIN_FRAMES:
                raise DataError(
                    f"{len(self._rows[name])} frames for model '{name}' tell nothing, at least "
                    f"{MIN_FRAMES} are needed",
                    "give a few hundred; no labels are needed",
                )
            found[name] = self._run(name)
        return found

    def features(self, model: str, kinds: Sequence[str]) -> ModelFeatures:
        """A model's features, from memory or from its file."""
        if model in self._held:
            return self._held[model]
        store, key = self._kept[model]
        known = store.features(key, kinds)
        if known is None:
            # Another process emptied the cache meanwhile: compute it again, and hold it.
            known = self._held[model] = self._computed(model)
        return known.renamed(model)

    def warnings(self) -> list[str]:
        """What makes these frames a poor sample."""
        found: list[str] = []
        for stream in self.frames.streams:
            rows = self._rows[stream[0]]
            found += frame_warnings(self.frames, stream[0], rows)
            every = len(self.frames.held_out_rows(stream[0]))
            if len(rows) < every:
                found.append(
                    f"the frames of {', '.join(stream)} differ in size: only the {len(rows)} of "
                    f"{every} that have the most frequent size were compared"
                )
        return found

    def marks(self) -> Marks:
        """The sites that the planner would try, by donor and receiver; kept like features."""
        cache = self._stores.cache
        key = SitesKey(
            tuple((name, p.models[name].source.sha256) for name, p in self.programs.items()),
            self.frames.fingerprint(),
            self.recipe.seed,
        )
        known = None if cache is None else _marks_of(cache.note(str(key)))
        if known is None:
            self._progress.stage("finding sites", None)
            known = site_marks(self.programs, self.frames, self._rows, self.recipe.seed)
            if cache is not None:
                cache.keep_note(str(key), [[*pair, sites] for pair, sites in known.items()])
        return known

    def _run(self, name: str) -> ModelFeatures:
        self._layers[name], skipped = layers_of(self.programs[name], name)
        known = None
        # What was kept with maps serves those who need none.
        for maps in dict.fromkeys((self.recipe.maps, True)):
            if self._stores.cache is not None and known is None:
                self._kept[name] = (self._stores.cache, self._key(name, maps))
                known = self._stores.cache.features(self._kept[name][1])
        if known is None:
            known = self._computed(name)
            self._kept.pop(name, None)
            for store in self._stores:
                # Without a cache only what is too much for memory goes to files.
                if store is self._stores.scratch and self._fits(known):
                    break
                if store is not None and store.keep_features(self._key(name), known):
                    self._kept[name] = (store, self._key(name))
                    break
        known = known.renamed(name)
        if self._fits(known) or name not in self._kept:
            self._held[name] = known
        return known.described(skipped)

    def _fits(self, features: ModelFeatures) -> bool:
        held = sum(known.nbytes for known in self._held.values())
        return held + features.nbytes <= HELD_NBYTES

    def _recipe(self, name: str, maps: bool | None = None) -> Recipe:
        recipe = self.recipe if maps is None else replace(self.recipe, maps=maps)
        # Where no maps are looked at, the batch makes no difference to what is kept.
        return (
            replace(recipe, batch=batch_for(self._layers[name], recipe)) if recipe.maps else recipe
        )

    def _computed(self, name: str) -> ModelFeatures:
        layers, rows = self._layers[name], self._rows[name]
        title = f"running {name} ({len(layers)} layers, {len(rows)} frames)"
        self._progress.stage(title, len(rows))
        recipe = self._recipe(name)
        feeds = self._feeds(name, batch_for(self._layers[name], recipe))
        advance = self._progress.advance
        return extract(self.programs[name], layers, feeds, len(rows), recipe, advance)

    def _feeds(self, name: str, batch: int) -> Iterator[dict[str, Array]]:
        owned = self.programs[name].models[name].inputs
        for rows in batches_of(self._rows[name], self.frames.batch(name) or batch):
            fed = self.frames.feed(name, rows)
            # The first one tells how many frames there are.
            specs = sorted(self.frames.inputs[name], key=lambda spec: spec.frame_axis != 0)
            yield {owned[spec.name]: fed[spec.name] for spec in specs}

    def _key(self, name: str, maps: bool | None = None) -> str:
        recipe = self._recipe(name, maps)
        key = FeaturesKey(
            model=self.programs[name].models[name].source.sha256,
            frames=tuple(
                (spec.name, self.frames.sources[name, spec.name].digest)
                for spec in self.frames.inputs[name]
            ),
            rows=hashlib.sha256(self._rows[name].astype("<i8").tobytes()).hexdigest(),
            recipe=recipe,
            # A sketch's signs are drawn by the model's name.
            name=name if recipe.sketched else "",
        )
        return str(key)


def _shuffled(frames: Frames, model: str, seed: int) -> Int64:
    """The model's rows in random order: blocks of frames are then fair samples of all.

    Of frames that differ in size those of the most frequent one: layers are compared place by
    place. Equal for all models of a stream; frames that run together as a fixed batch stay
    together.
    """
    stream = next(stream for stream in frames.streams if model in stream)
    rows = max(frames.alike(stream, frames.held_out_rows(model)), key=len)
    unit = math.lcm(*(frames.batch(name) or 1 for name in stream))
    blocks = rows.reshape(-1, unit)
    order = np.random.default_rng((seed, 29)).permutation(len(blocks))
    return blocks[order].reshape(-1)


def _marks_of(note: Any) -> Marks | None:
    """Marks as kept in the cache; None for anything else."""
    try:
        return {
            (str(donor), str(receiver)): [(str(d), str(r), float(r2)) for d, r, r2 in sites]
            for donor, receiver, sites in note
        }
    except (TypeError, ValueError):
        return None
