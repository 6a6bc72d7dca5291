"""Trying collapses: rewrite, refit and compare on few frames, and carry the chosen ones out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..passes.pipeline import passes_of
from .analysis.calibration import Frames
from .analysis.execution import Segment
from .analysis.feeds import StreamFeeds, fit_feeds, held_out_feeds, run_groups
from .analysis.reconstruction import SEARCH_ROWS_PER_UNKNOWN, Reference
from .graph.program import Program
from .graph.regions import Region
from .planning.comparison import OriginalOutputs, OutputComparison
from .planning.plan import Action
from .reports.progress import Progress

# Frames a collapse is fitted on and compared on in the search. With 256 and 256 the order in which
# resnet44's blocks go is nearly that of 1 024, at a quarter of the time; the plan that is carried
# out is fitted on all of them and does better than the search expects.
SEARCH_FRAMES = 256


@dataclass(frozen=True)
class Trial:
    """A program with some regions out, fitted on few frames, and its outputs on few others.

    `error` is the unexplained share of the outputs' variance, averaged over the outputs that
    were compared: finer than agreement, which moves in steps of one frame.
    """

    program: Program
    compared: tuple[OutputComparison, ...]

    @property
    def error(self) -> float:
        """0 for equal outputs; 1 for outputs that tell nothing of the original's."""
        errors = [min(1.0, max(0.0, 1.0 - output.explained)) for output in self.compared]
        return float(np.mean([1.0 if np.isnan(e) else e for e in errors])) if errors else 0.0


class Trials:
    """Measures what actions do to the outputs of `models`, on few frames.

    `original` is the program as read, `program` the one after the exact passes.
    """

    def __init__(
        self,
        original: Program,
        program: Program,
        frames: Frames,
        floor: Callable[[str, str], float],
        metric: Callable[[str, str], str | None],
        seed: int,
        progress: Progress,
    ) -> None:
        self.program = program
        self.count = 0
        self._frames = frames
        self._seed = seed
        self._progress = progress
        self._references: dict[str, Reference] = {}
        held_out: dict[str, StreamFeeds] = {}
        for group in run_groups(frames):
            feeds = held_out_feeds(original, frames, group[0])
            unit = feeds.batch if feeds.fixed else 1
            rows = feeds.rows[: max(SEARCH_FRAMES // unit, 1) * unit]
            few = StreamFeeds(original, frames, feeds.models, rows)
            held_out |= dict.fromkeys(group, few)
        self._outputs = OriginalOutputs(original, held_out, floor, metric)

    def run(self, actions: Sequence[Action], models: Sequence[str] | None = None) -> Trial:
        """The program after `actions`, and the outputs of `models` (default: all)."""
        program = self.program.copy()
        for step in passes_of(actions, lambda action: self.reference(action.receiver)):
            step.run(program)
        self.count += 1
        self._progress.advance()
        compared = self._outputs.compare(program, list(models or program.models))
        return Trial(program, tuple(compared))

    def reference(self, model: str) -> Reference:
        """The exact program on the few frames that the fits of a search may see."""
        group = next(group for group in run_groups(self._frames) if model in group)
        if group[0] not in self._references:
            feeds = fit_feeds(self.program, self._frames, group[0], SEARCH_FRAMES)
            self._references[group[0]] = Reference(
                self.program, feeds, self._seed, SEARCH_ROWS_PER_UNKNOWN
            )
        return self._references[group[0]]

    def influence(self, regions: Sequence[Region]) -> dict[str, float]:
        """How much each region changes what goes through it, by its exit: |exit - entry| / |entry|.

        Block influence; infinite where the ends differ in shape.
        """
        found = {region.exit: float("inf") for region in regions}
        for group in run_groups(self._frames):
            mine = [r for r in regions if r.same_shape and r.model in group]
            if not mine:
                continue
            feeds = self.reference(group[0]).frames
            names = sorted({name for region in mine for name in (region.entry, region.exit)})
            inputs = {value.name for value in self.program.graph.inputs}
            segment = Segment(self.program, None, [name for name in names if name not in inputs])
            sums = {region.exit: np.zeros(2) for region in mine}
            for batch in feeds.batches(segment.inputs):
                values = dict(batch) | dict(zip(segment.outputs, segment(batch)))
                for region in mine:
                    before, after = values[region.entry], values[region.exit]
                    change = np.square(after - before, dtype=np.float64).sum()
                    size = np.square(before, dtype=np.float64).sum()
                    sums[region.exit] += (change, size)
            found |= {name: float(c / s) if s > 0 else 0.0 for name, (c, s) in sums.items()}
        return found
