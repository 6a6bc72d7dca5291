"""Trying collapses: rewrite, refit and compare on few frames, and carry the chosen ones out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...passes.base import Pass
from ...passes.collapse import Collapse
from ...passes.drop_dead import DropDead
from ...passes.pipeline import passes_of
from ...passes.refit import Refit, refit_operators
from ...passes.refit_around import RefitAround
from ..actions.fold_actions import NarrowLayerAction
from ..actions.fold_passes import widths_of
from ..execution.executable import Executable
from ..execution.feeds import StreamFeeds, fit_feeds, held_out_feeds, run_groups
from ..execution.outputs import OriginalOutputs, OutputComparison
from ..fitting.gaps import stand_ins
from ..fitting.operators import linear_operator
from ..fitting.reference import FitSize, Reference
from ..frames.calibration import Frames
from ..graph.adapters import adapter_name
from ..graph.program import Program
from ..graph.regions import Region
from ..progress import Progress
from .plan import Action, CollapseAction

# Frames a collapse is compared on in the search.
JUDGING_FRAMES = 256


@dataclass(frozen=True)
class Effort:
    """How much a fit in the search is given: see Reference."""

    frames: int
    rows_per_unknown: int
    min_rows: int
    ridge: float


# Frames matter more than rows: on resnet44 the choice by fits on 256 frames with 16 rows per
# unknown lost 1.2 points with 7 blocks out, by 512 frames with 8 rows 0.9 (10 out: 3.5 and 2.7).
# The plan that is carried out is fitted on all frames and does better than the search expects.
TRIAL = Effort(512, 8, 2048, 3e-3)
# For a curve alone: it says where to look closer, and costs less than a compiled pick. One
# measurement makes a step (of two or three, the curve's errors are a tenth less, its time a third
# to a half more).
CURVE_LOOKS = 1
CURVE = Effort(144, 6, 1024, 3e-3)
# For the first look, where every region is tried: enough to tell the third that is worth a trial.
GLANCE = Effort(128, 4, 512, 0.3)


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

    `original` is the program as read, `program` the one after the exact passes. `effort` is what
    a fit is given.
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
        effort: Effort = TRIAL,
    ) -> None:
        self.program = program
        self.effort = effort
        self.count = 0
        self._frames = frames
        self._seed = seed
        self._progress = progress
        self._references: dict[tuple[str, Effort], Reference] = {}
        # Programs of this and the last round, by what they were made of.
        self._fitted: dict[tuple[Action, ...], Program] = {}
        held_out: dict[str, StreamFeeds] = {}
        for group in run_groups(frames):
            feeds = held_out_feeds(original, frames, group[0])
            unit = feeds.batch if feeds.fixed else 1
            rows = feeds.rows[: max(JUDGING_FRAMES // unit, 1) * unit]
            few = StreamFeeds(original, frames, feeds.models, rows)
            held_out |= dict.fromkeys(group, few)
        self._outputs = OriginalOutputs(original, held_out, floor, metric)

    def run(
        self,
        actions: Sequence[Action],
        models: Sequence[str] | None = None,
        effort: Effort | None = None,
    ) -> Trial:
        """The program after `actions`, and the outputs of `models` (default: all).

        Where all but the last action were tried just before, only what the last one changes is
        fitted again.
        """
        program = self._rewritten(tuple(actions), effort or self.effort)
        self.count += 1
        self._progress.advance()
        compared = self._outputs.compare(program, list(models or program.models))
        return Trial(program, tuple(compared))

    def glance(self, actions: Sequence[Action]) -> float:
        """The error after `actions`, overestimated, at a third of the cost."""
        return self.run(actions, effort=GLANCE).error

    def reference(self, model: str, effort: Effort | None = None) -> Reference:
        """The exact program on the few frames that the fits of a search may see."""
        effort = effort or self.effort
        group = next(group for group in run_groups(self._frames) if model in group)
        key = (group[0], effort)
        if key not in self._references:
            feeds = fit_feeds(self.program, self._frames, group[0], effort.frames)
            size = FitSize(effort.rows_per_unknown, effort.min_rows, effort.ridge, False)
            self._references[key] = Reference(self.program, feeds, self._seed, size)
        return self._references[key]

    def _rewritten(self, actions: tuple[Action, ...], effort: Effort) -> Program:
        program = self.program.copy()
        known = self._fitted.get(actions[:-1]) if effort == self.effort else None
        gone = [action for action in actions if isinstance(action, CollapseAction)]
        narrow = [action for action in actions if isinstance(action, NarrowLayerAction)]
        if known is not None and narrow and len(gone) + len(narrow) == len(actions):
            # Constants of another width cannot be adopted: on from what was fitted, W0 included.
            program = known.copy()
            steps = self._last_step(program, actions[-1], effort)
        elif known is None or not actions or len(gone) < len(actions):
            steps = passes_of(actions, lambda action: self.reference(action.receiver, effort))
        else:
            for action in gone:
                Collapse(action).run(program)
            DropDead().run(program)
            refit = self._refit_behind(program, gone[-1], effort)
            fitted = refit_operators(program, self.program, refit.values)
            adopt_constants(program, known, {operator.node.name for operator, _ in fitted})
            steps = [refit]
        for step in steps:
            step.run(program)
        if effort != self.effort:
            return program  # a glance, which nothing goes on from
        near = (len(actions) - 1, len(actions))
        self._fitted = {key: kept for key, kept in self._fitted.items() if len(key) in near}
        self._fitted[actions] = program
        return program

    def _last_step(self, program: Program, last: Action, effort: Effort) -> list[Pass]:
        """Carry out a removal after others, and the refit of what it changes."""
        reference = self.reference(last.receiver, effort)
        if isinstance(last, NarrowLayerAction):
            return [RefitAround((), reference, widths=widths_of([last]))]
        assert isinstance(last, CollapseAction)
        Collapse(last).run(program)
        DropDead().run(program)
        return [RefitAround(self._refit_behind(program, last, effort).values, reference)]

    def _refit_behind(self, program: Program, last: CollapseAction, effort: Effort) -> Refit:
        """The refit of what a region's going changes; of a longer gap that it lies in, too."""
        makers = stand_ins(program, self.program).makers.values()
        values = {maker.adapter for maker in makers if last.exit in maker.ends}
        values |= {adapter_name(link.receiver_value) for link in last.links}
        return Refit(tuple(sorted(values)), self.reference(last.receiver, effort))

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
            segment = Executable(self.program, None, [name for name in names if name not in inputs])
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


def adopt_constants(program: Program, other: Program, but: Collection[str]) -> None:
    """Give every node the constants that the node of its name has in another program.

    `but` names linear operators that keep their own, biases included.
    """
    theirs = {node.name: node for node in other.graph.nodes}
    kept = set(but)
    for node in program.graph.nodes:
        linear = linear_operator(node) if node.name in but else None
        if linear is not None and linear.bias_node is not None:
            kept.add(linear.bias_node.name)
    # A tensor belongs to one graph, which it has only once: it lists its readers.
    copies: dict[str, gs.Constant] = dict(program.weights())
    for node in program.graph.nodes:
        if node.name in kept or node.name not in theirs:
            continue
        for index, tensor in enumerate(theirs[node.name].inputs):
            mine = node.inputs[index] if index < len(node.inputs) else None
            # Both are copies of one program: what has kept its name has kept its numbers.
            if not isinstance(tensor, gs.Constant) or (
                mine is not None and mine.name == tensor.name
            ):
                continue
            copy = copies.setdefault(tensor.name, gs.Constant(tensor.name, tensor.values))
            if mine is not None:
                node.inputs[index] = copy
            else:
                node.inputs.append(copy)
