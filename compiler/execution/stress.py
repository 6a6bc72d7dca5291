"""Fidelity on blends of held-out frames: what frames that nobody was trained on will show.

Networks are surer of frames that they were trained on, and agree on them more than on others: with
resnet20 in the place of resnet32 99.4 % of held-out training images, and 91.2 % of test images. A
fifth of another frame mixed in makes frames that no one was trained on, without labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..frames.calibration import Frames
from ..graph.arrays import Array, Int64
from ..graph.program import Program
from .executable import Executable
from .feeds import StreamFeeds, held_out_feeds
from .fidelity import TOP1, confidence_of, metric_of
from .given import Originals
from .outputs import OriginalOutputs, OutputComparison

# How much of the other frame: as much as makes classifiers as sure of blends as they are of frames
# they were not trained on, or a little less: five of the zoo are 0.957 to 0.978 sure of test
# images. Those that doubt training images as well get 0.2, those that are 0.998 sure of them 0.25.
_WEIGHTS = (0.2, 0.25, 0.3)
_SURE = 0.967
# Blends by which the weight is chosen, and those that fidelity is measured on: each held-out frame
# with up to so many others.
_TRIED = 512
_BLENDS = 2000
_PARTNERS = 4

Metric = Callable[[str, str], str | None]


@dataclass(frozen=True)
class BlendedFrames:
    """A FrameSet: each frame with `weight` of another of its size, `partners` times over."""

    frames: StreamFeeds
    weight: float
    partners: int

    @property
    def count(self) -> int:
        """Number of blends."""
        return self.frames.count * self.partners

    @property
    def groups(self) -> Int64 | None:
        """No two blends are alike."""
        return None

    @property
    def counts(self) -> list[int]:
        """Number of blends in each batch."""
        return list(self.frames.counts) * self.partners

    @property
    def mixed(self) -> bool:
        """Whether blends differ in size; those of a batch never do."""
        return self.frames.mixed

    def batches(self, values: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Arrays [batch, ...] for the graph inputs named in `values`."""
        parts = self.frames.alike
        for partner in range(self.partners):
            moved = [np.roll(rows, -self._shift(len(rows), partner)) for rows in parts]
            others = replace(self.frames, rows=np.concatenate(moved))
            for own, other in zip(self.frames.batches(values), others.batches(values)):
                yield {name: self._blended(array, other[name]) for name, array in own.items()}

    def _shift(self, count: int, partner: int) -> int:
        return max(count * (partner + 1) // (self.partners + 1), 1)

    def _blended(self, array: Array, other: Array) -> Array:
        if array.dtype.kind != "f":  # the same for every frame
            return array
        weight = array.dtype.type(self.weight)
        return np.asarray((1 - weight) * array + weight * other, dtype=array.dtype, order="C")


@dataclass(frozen=True)
class Blended:
    """What blends are made for: the models as one program, their files, and their frames."""

    original: Program
    given: Originals
    frames: Frames


def stressed(
    originals: Blended, program: Program, models: Sequence[str], metric: Metric
) -> dict[tuple[str, str], float]:
    """Fidelity on blends of held-out frames by (model, output), of those whose inputs are floats.

    Integers may be among them where they are the same for every frame (a rate). Frames that are the
    only ones of their size are left out. For class scores the weight of the blend is chosen by how
    sure the original is of them.
    """
    original, frames = originals.original, originals.frames
    found: dict[tuple[str, str], float] = {}
    for name in models:
        feeds = held_out_feeds(original, frames, name)
        several = [rows for rows in feeds.alike if len(rows) > 1]
        if not several or not _floats(feeds):
            continue
        feeds = replace(feeds, rows=np.concatenate(several))
        partners = max(1, min(_PARTNERS, _BLENDS // feeds.count))
        blends = BlendedFrames(feeds, _weight(original, feeds, name, metric), partners)
        compared = OriginalOutputs(
            original, originals.given, {name: blends}, lambda m, o: 0.0, metric
        )
        found |= {(c.model, c.output): c.value for c in compared.compare(program, [name])}
    return found


def with_stress(
    compared: Sequence[OutputComparison],
    values: Mapping[tuple[str, str], float],
    floor: float | None,
) -> list[OutputComparison]:
    """The comparisons, each with its fidelity on blends and the floor of that."""
    return [
        replace(c, stressed=values[c.model, c.output], stressed_floor=floor)
        if (c.model, c.output) in values
        else c
        for c in compared
    ]


def _floats(feeds: StreamFeeds) -> bool:
    still = set(feeds.frames.constants())
    return all(
        spec.dtype.kind == "f" or (name, spec.name) in still
        for name in feeds.models
        for spec in feeds.frames.inputs[name]
    )


def _weight(original: Program, feeds: StreamFeeds, model: str, metric: Metric) -> float:
    values = original.values()
    scores: list[str] = []
    for own, value in original.models[model].outputs.items():
        if metric_of(values[value], metric(model, own)) == TOP1:
            scores.append(value)
    if not scores:
        return _WEIGHTS[0]
    unit = feeds.fixed or 1
    some = replace(feeds, rows=feeds.rows[: max(_TRIED // unit, 1) * unit])
    segment = Executable(original, None, scores)
    before = 1.0
    for index, weight in enumerate(_WEIGHTS):
        sure = _sureness(segment, BlendedFrames(some, weight, 1))
        if sure <= _SURE:
            if not index:
                return weight
            step = weight - _WEIGHTS[index - 1]
            return weight - step * (_SURE - sure) / max(before - sure, 1e-9)
        before = sure
    return _WEIGHTS[-1]


def _sureness(segment: Executable, blends: BlendedFrames) -> float:
    """How sure the outputs are, on average over all of them."""
    total, rows = 0.0, 0
    for batch in blends.batches(segment.inputs):
        for scores in segment(batch):
            count = math.prod(scores.shape[:-1])
            total += count * confidence_of(scores)
            rows += count
    return total / max(rows, 1)
