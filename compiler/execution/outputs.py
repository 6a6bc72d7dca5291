"""Comparing a rewritten program's outputs with the originals' on frames that no fit has seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph.program import Program
from .executable import Activations, Executable
from .feeds import FrameSet
from .fidelity import TOP1, VARIANCE, FidelityMeter, LossMeter, metric_for


@dataclass(frozen=True)
class OutputComparison:
    """One output's fidelity: the value of its metric, its floor, the frames it rests on.

    `explained` is the explained variance, kept beside whatever the metric is; `loss` the expected
    loss of accuracy for class scores (see LossMeter), the unexplained variance otherwise.
    """

    model: str
    output: str
    metric: str
    value: float
    floor: float
    frames: int
    explained: float
    loss: float

    @property
    def met(self) -> bool:
        """Whether the floor is kept."""
        return self.value >= self.floor


class OriginalOutputs:
    """The original models' outputs on held-out frames, computed once, compared often.

    `feeds` gives each model's held-out frames; `floor(model, output)` and `metric(model, output)`
    (None: by shape) are the user's wishes.
    """

    def __init__(
        self,
        original: Program,
        feeds: Mapping[str, FrameSet],
        floor: Callable[[str, str], float],
        metric: Callable[[str, str], str | None],
    ) -> None:
        self._original = original
        self._feeds = feeds
        self._floor = floor
        self._metric = metric
        self._held: dict[str, Activations] = {}

    def compare(self, program: Program, models: Sequence[str]) -> list[OutputComparison]:
        """Every output of `models` in `program` beside the original's, in program order."""
        found: list[OutputComparison] = []
        for stream in self._streams(models):
            found += self._compare_stream(program, stream)
        order = list(program.models)
        return sorted(found, key=lambda c: order.index(c.model))

    def _streams(self, models: Sequence[str]) -> list[list[str]]:
        # Models on the same frames run in one session, so what they share runs once.
        groups: dict[int, list[str]] = {}
        for name in models:
            groups.setdefault(id(self._feeds[name]), []).append(name)
        return list(groups.values())

    def _compare_stream(self, program: Program, models: list[str]) -> list[OutputComparison]:
        refs = [
            (name, own, value)
            for name in models
            for own, value in program.models[name].outputs.items()
        ]
        values = program.values()
        meters: dict[tuple[str, str], tuple[FidelityMeter, FidelityMeter]] = {}
        losses: dict[tuple[str, str], LossMeter] = {}
        for name, own, value in refs:
            wish = self._metric(name, own)
            shape = program.models[name].told_shape(own, values[value].shape)
            metric = metric_for(shape, wish, _dtype(values[value].dtype))
            meters[name, own] = (FidelityMeter(metric), FidelityMeter(VARIANCE))
            if metric == TOP1:
                losses[name, own] = LossMeter()
        for name in models:
            self._remember(name)
        segment = Executable(program, None, [value for _, _, value in refs])
        feeds = self._feeds[models[0]]
        for index, batch in enumerate(feeds.batches(segment.inputs)):
            for (name, own, _), array in zip(refs, segment(batch)):
                original = self._held[name].batches(own)[index]
                for meter in meters[name, own]:
                    meter.update(original, array)
                if (name, own) in losses:
                    losses[name, own].update(original, array)
        return [
            OutputComparison(
                name,
                own,
                meter.metric,
                meter.value,
                self._floor(name, own),
                feeds.count,
                fine.value,
                losses[name, own].value if (name, own) in losses else 1.0 - fine.value,
            )
            for (name, own), (meter, fine) in meters.items()
        ]

    def _remember(self, model: str) -> None:
        if model in self._held:
            return
        held = Activations()
        outputs = self._original.models[model].outputs
        segment = Executable(self._original, None, list(outputs.values()))
        for batch in self._feeds[model].batches(segment.inputs):
            for own, array in zip(outputs, segment(batch)):
                held.append(own, array)
        self._held[model] = held


def _dtype(dtype: Any) -> Any:
    try:
        return np.dtype(dtype)
    except TypeError:
        return np.dtype(np.float32)
