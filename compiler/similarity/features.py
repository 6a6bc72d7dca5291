"""What is kept of every layer from the one pass over the frames, in a few megabytes per layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..graph.arrays import Float32
from .layers import Layer, Skipped

# Frames per Gram matrix of whole maps (exact mode) and per batch of the minibatch estimates.
BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """What is kept: equal recipes on equal models and frames give equal features.

    Without `maps`, whole maps are not looked at, which saves a third of the time.
    """

    sketched: bool = False
    seed: int = 0
    batch: int = BATCH
    maps: bool = True


@dataclass(frozen=True)
class LayerStatistics:
    """Annotations of one layer; nan where undefined.

    `entropy` of on and off and `sign_entropy` of three states in bits (mean over channels),
    `positive` and `negative` the shares of its numbers, `dimension` the intrinsic one (TwoNN),
    `influence` 1 - mean cosine to the nearest layer before it of equal shape, `influence_of` its
    name ('' if there is none), `finite` and `constant` over the frames.
    """

    entropy: float
    sign_entropy: float
    positive: float
    negative: float
    dimension: float
    influence: float
    influence_of: str
    finite: bool
    constant: bool


@dataclass(frozen=True)
class LayerFeatures:
    """One layer over n frames.

    `pooled` [n, c]: each frame's mean over places. `maps`: a sketch [n, 254], or in exact mode the
    Gram matrices of batches stacked, [n - remainder, batch]; None where they were not asked for,
    and for features (no places), for which `pooled` stands. `rows` [frames * places, <= 256]:
    sampled places. `halves` says whether `pooled` is a sketch of two halves.
    """

    layer: Layer
    pooled: Float32
    maps: Float32 | None
    rows: Float32
    halves: bool
    statistics: LayerStatistics


@dataclass(frozen=True)
class ModelFeatures:
    """All layers of one model over the same frames, which `frames` counts.

    `skipped` holds layers that turned out to give something else than the graph says.
    """

    model: str
    frames: int
    recipe: Recipe
    layers: tuple[LayerFeatures, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(
            layer.pooled.nbytes
            + layer.rows.nbytes
            + (0 if layer.maps is None else layer.maps.nbytes)
            for layer in self.layers
        )

    def renamed(self, name: str) -> ModelFeatures:
        """The same of a model called `name`: what was kept of it may have had another name."""
        if self.model == name:
            return self
        layers = tuple(
            replace(each, layer=replace(each.layer, value=f"{name}/{each.layer.name}"))
            for each in self.layers
        )
        skipped = tuple(replace(each, model=name) for each in self.skipped)
        return replace(self, model=name, layers=layers, skipped=skipped)

    def described(self, skipped: Sequence[Skipped]) -> ModelFeatures:
        """Layers and statistics without arrays; layers `skipped` before it ran come first."""
        nothing = np.zeros((0, 0), np.float32)
        return replace(
            self,
            layers=tuple(
                replace(each, pooled=nothing, maps=None, rows=nothing) for each in self.layers
            ),
            skipped=(*skipped, *self.skipped),
        )
