"""The workbench: carries actions out on copies of the program and says what they did.

A measurement is a question by value, (actions, effort), and the only way to a fit: whoever searches
asks here, and a list of questions can be answered side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from ...passes.base import Pass
from ...passes.drop_dead import DropDead
from ...passes.pipeline import CLEANING, run_passes
from ...passes.refit import Refit, refit_operators
from ...passes.refit_around import RefitAround
from ..actions.action import Action, Effect, Stage, Swap
from ..actions.carry_out import in_order, passes_of
from ..actions.evidence import Evidence
from ..actions.site import Site
from ..case import Case
from ..errors import ModelError, UsageError
from ..execution.executable import Executable
from ..execution.feeds import StreamFeeds, held_out_feeds, judging_feeds
from ..execution.outputs import Certainty, OriginalOutputs, OutputComparison
from ..fitting.effort import FULL, TRIAL, Effort
from ..fitting.gaps import stand_ins
from ..fitting.operators import linear_operator
from ..fitting.reference import Reference
from ..graph.program import Program
from ..progress import Progress
from .deadline import Deadline
from .plan import Plan
from .trial import Trial


class Question(NamedTuple):
    """What to measure: actions, the size of the fit, and whose outputs (None: all models')."""

    actions: Sequence[Action]
    effort: Effort = FULL
    models: Sequence[str] | None = None


class Workbench:
    """Measures what actions do to the outputs of a case's models.

    Without frames only exact rewrites can be carried out and nothing is compared. Searches ask its
    `deadline` whether there is time for another question; it decides no answer.
    """

    def __init__(self, case: Case, progress: Progress, deadline: Deadline | None = None) -> None:
        self.case = case
        self.deadline = deadline or Deadline(None)
        self.program = case.program
        self.evidence = Evidence(case)
        self.bills = self.evidence.bills
        self._progress = progress
        self._outputs: dict[tuple[int | None, int | None, bool], OriginalOutputs] = {}

    def measure(
        self,
        actions: Sequence[Action],
        effort: Effort = FULL,
        models: Sequence[str] | None = None,
        onto: Trial | None = None,
    ) -> Trial:
        """The program after `actions`, fitted at that effort, and the outputs of `models` (all).

        FULL is what is kept: every pass is verified and leftovers go. `onto` is a trial of all but
        the last action at the same effort: only what the last one changes is then fitted again,
        where it is of a stage that allows it.
        """
        planned = tuple(actions)
        assert onto is None or onto.actions == planned[:-1]
        if effort == FULL:
            program = self._finished(planned)
            self._progress.stage("comparing outputs on held-out frames", None)
        else:
            program = self.tried(planned, effort, onto)
            self._progress.advance()
        compared = self.compare(program, effort, models)
        if effort == FULL or self.case.options.strict:
            moved = {name for action in planned for name in self.bills.affected(action)}
            compared = [c if c.model in moved else replace(c, lower=None) for c in compared]
        return Trial(planned, program, self.bills.bill(planned), tuple(compared))

    def measure_all(self, questions: Iterable[Question]) -> Iterator[Trial]:
        """The answers to several questions, in order, as they come; none depends on another."""
        for question in questions:
            yield self.measure(*question)

    def replay(self, plan: Plan) -> Trial:
        """Carry out a given plan. Raises UsageError when it needs frames and there are none."""
        actions = [planned.action for planned in plan.actions]
        if actions and self.case.frames is None:
            raise UsageError("the plan has actions that are fitted on frames", "give --calib PATH")
        for action in actions:
            if not any(set(action.models) <= set(group) for group in self.evidence.groups):
                raise UsageError(
                    f"the plan lets {action.models[-1]} take from {action.models[0]}, which is not "
                    "fed the same frames",
                    "give one set of frames for both, or --same-frames if row k is the same frame",
                )
        if self.bills.bill(actions) is None:
            raise ModelError(
                "the plan's actions feed each other in a circle, or replace a value twice",
                "take one of them out",
            )
        return self.measure(actions)

    def compare(
        self, program: Program, effort: Effort = FULL, models: Sequence[str] | None = None
    ) -> list[OutputComparison]:
        """Outputs beside the originals' on the frames of that effort; empty without frames."""
        if self.case.frames is None:
            return []
        names = list(program.models if models is None else models)
        return self._originals(effort).compare(program, names)

    def influence(self, sites: Sequence[Site], effort: Effort = TRIAL) -> dict[Action, float]:
        """How much each region changes what goes through it: |exit - entry| / |entry|.

        Block influence; infinite where the ends differ in shape.
        """
        found: dict[Action, float] = {}
        for group in self.evidence.groups:
            ends: dict[Action, tuple[str, str]] = {}
            for site in sites:
                swap = self._swap(site.action)
                if site.receiver in group and not swap.kernel:
                    ends[site.action] = swap.sources[0], swap.value
            if not ends:
                continue
            feeds = self.evidence.reference(group[0], effort).frames
            names = sorted({name for pair in ends.values() for name in pair})
            inputs = {value.name for value in self.program.graph.inputs}
            part = Executable(self.program, None, [name for name in names if name not in inputs])
            sums = {action: np.zeros(2) for action in ends}
            for batch in feeds.batches(part.inputs):
                values = dict(batch) | dict(zip(part.outputs, part(batch)))
                for action, (entry, end) in ends.items():
                    before, after = values[entry], values[end]
                    change = np.square(after - before, dtype=np.float64).sum()
                    size = np.square(before, dtype=np.float64).sum()
                    sums[action] += (change, size)
            found |= {one: float(c / s) if s > 0 else 0.0 for one, (c, s) in sums.items()}
        return {site.action: found.get(site.action, float("inf")) for site in sites}

    def _finished(self, actions: tuple[Action, ...]) -> Program:
        """The program that is kept."""
        program = self.program.copy()
        if actions:
            self._progress.stage("fitting adapters and refitting", 2 * len(actions))
            passes = passes_of(in_order(actions), self._reference_at(FULL))
            run_passes(program, passes, lambda _step, _changes, _time: self._progress.advance())
            run_passes(program, CLEANING)
        return program

    def tried(self, actions: tuple[Action, ...], effort: Effort, onto: Trial | None) -> Program:
        stages = {action.stage for action in actions}
        anew = not actions or not stages <= {Stage.REGIONS, Stage.WIDTHS}
        if onto is None or anew or self._splits(actions):
            program = self.program.copy()
            steps = passes_of(actions, self._reference_at(effort))
        elif Stage.WIDTHS in stages:
            # Constants of another width cannot be adopted: on from what was fitted, W0 included.
            program = onto.program.copy()
            steps = self._last_step(program, actions[-1], effort)
        else:
            program = self.program.copy()
            self._take_out(program, actions, effort)
            refit = self._refit_behind(program, actions[-1], effort)
            fitted = refit_operators(program, self.program, refit.values)
            adopt_constants(program, onto.program, {operator.node.name for operator, _ in fitted})
            steps = [refit]
        for step in steps:
            step.run(program)
        return program

    def _splits(self, actions: tuple[Action, ...]) -> bool:
        """Whether the last action's region begins or ends in channels that one before it took out.

        On from there its ends would not fit each other: carried out together the region goes first,
        and its ends keep their channels.
        """
        ends = self.bills.ends(actions[-1:])
        effects = [self.bills.effect(action) for action in actions[:-1]]
        return any(
            isinstance(effect, Effect) and effect.shrunk and ends & effect.owns
            for effect in effects
        )

    def _last_step(self, program: Program, last: Action, effort: Effort) -> list[Pass]:
        """Carry out a removal after others, and the refit of what it changes."""
        reference = self._reference_at(effort)(last)
        if last.stage is Stage.WIDTHS:
            return [RefitAround((), reference, widths=last.disturbed(self.program).widths)]
        self._take_out(program, (last,), effort)
        return [RefitAround(self._refit_behind(program, last, effort).values, reference)]

    def _take_out(self, program: Program, actions: Sequence[Action], effort: Effort) -> None:
        reference = self._reference_at(effort)
        for step in [step for action in actions for step in action.rewrites(reference(action))]:
            step.run(program)
        DropDead().run(program)

    def _refit_behind(self, program: Program, last: Action, effort: Effort) -> Refit:
        """The refit of what a region's going changes; of a longer gap that it lies in, too."""
        end = self._swap(last).value
        makers = stand_ins(program, self.program).makers.values()
        values = {maker.adapter for maker in makers if end in maker.ends}
        values |= set(last.disturbed(self.program).values)
        return Refit(tuple(sorted(values)), self._reference_at(effort)(last))

    def _swap(self, region: Action) -> Swap:
        effect = self.bills.effect(region)
        assert isinstance(effect, Effect)
        (swap,) = effect.swaps
        return swap

    def _reference_at(self, effort: Effort) -> Callable[[Action], Reference]:
        return lambda action: self.evidence.reference(action.models[-1], effort)

    def _originals(self, effort: Effort) -> OriginalOutputs:
        """The originals' outputs on the frames that a fit of that effort is judged by."""
        key = (effort.judged, None if effort.held_out else effort.frames, effort.held_out)
        if key not in self._outputs:
            options = self.case.options
            feeds: dict[str, StreamFeeds] = {}
            for group in self.evidence.groups:
                feeds |= dict.fromkeys(group, self._judges(group, effort))
            groups: dict[str, int] = {}
            if effort.judged is not None and self.case.frames is not None:
                groups = {name: len(self.case.frames.scenes_held_out(name)) for name in feeds}
            self._outputs[key] = OriginalOutputs(
                self.case.original,
                self.case.given,
                feeds,
                options.floor,
                options.metric,
                Certainty(options.confidence, options.strict, groups),
            )
        return self._outputs[key]

    def _judges(self, group: tuple[str, ...], effort: Effort) -> StreamFeeds:
        original, frames = self.case.original, self.case.frames
        assert frames is not None
        if not effort.held_out:
            assert effort.frames is not None and effort.judged is not None
            return judging_feeds(original, frames, group[0], effort.frames, effort.judged)
        feeds = held_out_feeds(original, frames, group[0])
        if effort.judged is None:
            return feeds
        unit = feeds.batch if feeds.fixed else 1
        rows = feeds.rows[: max(effort.judged // unit, 1) * unit]
        return StreamFeeds(original, frames, feeds.models, rows)


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
