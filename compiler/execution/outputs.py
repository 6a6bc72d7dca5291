"""Comparing a rewritten program's outputs with the originals' on frames that no fit has seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..graph.program import Program
from .executable import Activations, Executable
from .feeds import FrameSet
from .fidelity import TOP1, VARIANCE, FidelityMeter, LossMeter, metric_of
from .given import Originals
from .positions import frames_first


@dataclass(frozen=True)
class OutputComparison:
    """One output's fidelity: the value of its metric, its floor, the frames it rests on.

    `explained` is the explained variance, kept beside whatever the metric is; `loss` the expected
    loss of accuracy for class scores (see LossMeter), the unexplained variance otherwise.
    `lower` is what the frames prove of the value at that `confidence` (None: nothing that was done
    moves the output, so it rests on no sample), `max_difference` the largest change of a value,
    `score_change` that of a class's probability. `strict`: the floor is of what is proved.
    `stressed` is what blends of frames prove, if there are any, with a floor of its own.
    """

    model: str
    output: str
    metric: str
    value: float
    floor: float
    frames: int
    explained: float
    loss: float
    lower: float | None = None
    max_difference: float = 0.0
    score_change: float | None = None
    strict: bool = False
    confidence: float = 0.95
    stressed: float | None = None
    stressed_floor: float | None = None

    @property
    def judged(self) -> float:
        """What is held against the floor: the value, or what is proved of it."""
        return self.lower if self.strict and self.lower is not None else self.value

    @property
    def met(self) -> bool:
        """Whether the floors are kept."""
        return self.judged >= self.floor and not self.cracks

    @property
    def cracks(self) -> bool:
        """Whether what blends prove misses its floor."""
        if self.stressed is None or self.stressed_floor is None:
            return False
        return not self.stressed >= self.stressed_floor


@dataclass(frozen=True)
class Certainty:
    """How sure bounds are, 0.5 to 1, and whether floors are held against them (`strict`).

    `groups` is the number of frames, alike ones counted once, that a model is judged by in the end:
    on fewer of them floors are held against what as many would prove. Empty: nothing is left out.
    """

    confidence: float = 0.95
    strict: bool = False
    groups: Mapping[str, int] = field(default_factory=dict[str, int])


class OriginalOutputs:
    """The original models' outputs on held-out frames, computed once, compared often.

    They are what `given` makes of the frames: the users' files. `original` says how the models are
    fed. `feeds` gives each model's held-out frames; `floor(model, output)` and
    `metric(model, output)` (None: by shape) are the user's wishes; `certainty` is that of the
    bounds.
    """

    def __init__(
        self,
        original: Program,
        given: Originals,
        feeds: Mapping[str, FrameSet],
        floor: Callable[[str, str], float],
        metric: Callable[[str, str], str | None],
        certainty: Certainty | None = None,
    ) -> None:
        self._original = original
        self._given = given
        self._feeds = feeds
        self._floor = floor
        self._metric = metric
        self._certainty = certainty or Certainty()
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
            metric = metric_of(values[value], wish, shape)
            meter = FidelityMeter(metric)
            fine = meter if metric == VARIANCE else FidelityMeter(VARIANCE, bounded=False)
            meters[name, own] = meter, fine
            if metric == TOP1:
                losses[name, own] = LossMeter()
        for name in models:
            self._remember(name)
        segment = Executable(program, None, [value for _, _, value in refs])
        feeds = self._feeds[models[0]]
        batches = zip(feeds.counts, feeds.batches(segment.inputs))
        for index, (count, batch) in enumerate(batches):
            for (name, own, _), made in zip(refs, segment(batch)):
                original, array = frames_first(count, self._held[name].batches(own)[index], made)
                meter, fine = meters[name, own]
                meter.update(original, array)
                if fine is not meter:
                    fine.update(original, array)
                if (name, own) in losses:
                    losses[name, own].update(original, array)
        found: list[OutputComparison] = []
        for (name, own), (meter, fine) in meters.items():
            of = self._certainty.groups.get(name)
            loss = losses.get((name, own))
            found.append(
                OutputComparison(
                    name,
                    own,
                    meter.metric,
                    meter.value,
                    self._floor(name, own),
                    feeds.count,
                    fine.value,
                    1.0 - fine.value if loss is None else loss.value,
                    meter.bound(self._certainty.confidence, feeds.groups, of),
                    fine.max_difference,
                    None if loss is None else loss.change,
                    self._certainty.strict,
                    self._certainty.confidence,
                )
            )
        return found

    def _remember(self, model: str) -> None:
        if model in self._held:
            return
        held = Activations()
        inputs = self._original.models[model].inputs
        for batch in self._feeds[model].batches(list(inputs.values())):
            own = {name: batch[value] for name, value in inputs.items()}
            for name, array in self._given.run(model, own).items():
                held.append(name, array)
        self._held[model] = held
