"""One plan for sharing and depth: which prefixes to share and which regions to take out.

Sharing and depth save the same bytes and multiply-accumulates by different means. A few sharing
plans, from none to all that the limits ask for, are each continued by taking regions out of what
is left; the combination with the least error at the outputs is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .analysis.cost import program_cost
from .collapsing import Trial, Trials
from .graph.program import Program
from .graph.regions import find_regions
from .options import CompileOptions
from .planning.plan import Action, CollapseAction, Plan, PlannedAction
from .planning.region_search import Candidate, Descent, find_candidates
from .planning.skeleton import Bill, Skeleton
from .reports.progress import Progress
from .rewriting import Planned, Workbench

# Sharing plans for budgets this many times the limit are continued by depth.
_RELAXED = (1.0, 1.5, 2.5)
# A sharing plan that leaves less than this share of any output's variance unexplained is not put
# in question. Agreement would not do: on frames that the nets were trained on resnet20 agrees with
# resnet44 on 99.6 %, and on others it loses 2.1 points of accuracy.
_CONTENT = 0.03
# Trials are fitted on few frames: the full fit has won back this much fidelity and more.
_SLACK = 0.05


@dataclass(frozen=True)
class Limits:
    """What the program may need: weight bytes and multiply-accumulates per frame; None is any."""

    weights_nbytes: int | None = None
    macs: int | None = None

    def excess(self, bill: Bill) -> float:
        """By how much a bill is over, as shares of the limits added up; 0 within."""
        over = 0.0
        for limit, used in ((self.weights_nbytes, bill.weights_nbytes), (self.macs, bill.macs)):
            if limit is not None:
                over += max(0.0, used / max(limit, 1) - 1.0)
        return over

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.weights_nbytes is not None or self.macs is not None


def fits(program: Program, limits: Limits, excess: Callable[[Program], int]) -> bool:
    """Whether a program is within the limits; `excess` is the last word on memory."""
    macs = limits.macs is None or program_cost(program).macs <= limits.macs
    return macs and excess(program) <= 0


@dataclass(frozen=True)
class _Option:
    """A combination as tried: what is shared, what is out, and the error it made."""

    shared: tuple[PlannedAction, ...]
    gone: tuple[PlannedAction, ...]
    error: float
    bill: Bill

    @property
    def actions(self) -> tuple[Action, ...]:
        return tuple(planned.action for planned in (*self.shared, *self.gone))


class JointPlanner:
    """Plans with regions in them, for a workbench's program."""

    def __init__(
        self, bench: Workbench, trials: Trials, options: CompileOptions, progress: Progress
    ) -> None:
        self._bench = bench
        self._trials = trials
        self._options = options
        self._progress = progress
        self._regions = find_regions(bench.program)
        self.smallest: Bill | None = None  # the least that was tried within the floors

    def within(
        self, limits: Limits, excess: Callable[[Program], int], planned: Planned | None
    ) -> Planned | None:
        """The least error within the limits and floors; None where nothing is.

        `planned` is what sharing alone made of the limits, if anything. `excess` says by how many
        bytes a program is over a memory budget after all.
        """
        enough = planned is not None and fits(planned[0], limits, excess)
        if planned is not None and enough and self._content(planned):
            return planned
        options: list[_Option] = []
        for shared in self._sharings(limits, planned):
            options += self._descended(shared, limits, min((o.error for o in options), default=1.0))
        for option in sorted(options, key=lambda o: (o.error, o.bill.weights_nbytes)):
            found = self._carried_out(option)
            if found is not None and fits(found[0], limits, excess):
                return found
        return planned if enough else None

    def most(self) -> Planned:
        """The most regions out within the floors; the unchanged program where none can go."""
        options = self._descended((), Limits(macs=0), 1.0)
        for option in sorted(options, key=lambda o: o.bill.macs):
            found = self._carried_out(option)
            if found is not None:
                return found
        program = self._bench.program
        return program, self._bench.exact_plan(), self._bench.compare(program)

    def _content(self, planned: Planned) -> bool:
        return all(1.0 - output.explained <= _CONTENT for output in planned[2])

    def _sharings(self, limits: Limits, planned: Planned | None) -> list[tuple[PlannedAction, ...]]:
        """Sharing plans to continue: none, what the limits ask for, and some that are milder."""
        found: list[tuple[PlannedAction, ...]] = [()]
        if self._options.only == "depth" or len(self._bench.program.models) < 2:
            return found
        plans = [planned[1]] if planned is not None else []
        if limits.weights_nbytes is not None:
            exact = program_cost(self._bench.program).weights_nbytes
            for factor in _RELAXED:
                limit = int(limits.weights_nbytes * factor)
                if limit < exact and not (factor == 1.0 and planned is not None):
                    relaxed = self._bench.plan(limit, lambda program: 0)
                    plans += [] if relaxed is None else [relaxed[1]]
        plans.append(self._bench.smallest()[1])
        for plan in plans:
            if plan.actions not in found:
                found.append(plan.actions)
        return found

    def _descended(
        self, shared: tuple[PlannedAction, ...], limits: Limits, error: float
    ) -> list[_Option]:
        """The sharing plan with regions out until the limits are met; every step without limits
        that can be met is an option too. `error` ends a way that is worse than one known."""
        held = tuple(planned.action for planned in shared)
        start = self._bench.skeleton.bill(held)
        if start is None:
            return []
        found: list[_Option] = []
        endless = limits.macs == 0
        if not endless and limits.excess(start) <= 0:
            trial = self._trials.run(held)
            self._note(trial, start)
            return [_Option(shared, (), trial.error, start)]
        candidates = self._candidates(held)
        self._progress.stage(
            f"trying {len(candidates)} regions beside {len(held)} shared prefixes", None
        )
        tried: dict[tuple[CollapseAction, ...], Trial] = {}

        def measure(actions: tuple[CollapseAction, ...]) -> float:
            tried[actions] = self._trials.run((*held, *actions))
            return tried[actions].error

        def worth(bill: Bill) -> float:
            return float(bill.macs) if endless else limits.excess(bill)

        influence = self._trials.influence([candidate.region for candidate in candidates])
        descent = Descent(candidates, self._bench.skeleton.bill, measure, worth, influence, held)
        gone: list[PlannedAction] = []
        last: _Option | None = None
        for step in descent.steps():
            trial = tried[step.actions]
            least = min((output.value for output in trial.compared), default=1.0)
            chosen = step.chosen
            gone.append(
                PlannedAction(chosen.action, chosen.saved_nbytes, chosen.saved_macs, None, least)
            )
            self._note(trial, step.bill)
            kept = all(output.value >= output.floor - _SLACK for output in trial.compared)
            if not kept or (not endless and step.error > error):
                break
            last = _Option(shared, tuple(gone), step.error, step.bill)
            if endless:
                found.append(last)
            elif limits.excess(step.bill) <= 0:
                return [last]
        # Regions that go take activations along: the memory budget may be met all the same.
        return found or ([last] if last is not None else [])

    def _candidates(self, held: Sequence[Action]) -> list[Candidate]:
        """Regions that may go beside `held`: none that has an end of a shared prefix inside."""
        skeleton: Skeleton = self._bench.skeleton
        ends: set[str] = set()
        for action in held:
            for link in action.links:
                ends |= {link.receiver_value, *link.donor_values}
                ends.add(skeleton.replaced(link.receiver_value, action.kernel))
        found: list[Candidate] = []
        program = self._bench.program
        for candidate in find_candidates(program, self._regions, skeleton, held=held):
            inside = {
                tensor.name
                for name in candidate.region.nodes
                for tensor in program.node(name).outputs
            }
            if not ends & inside:
                found.append(candidate)
        return found

    def _note(self, trial: Trial, bill: Bill) -> None:
        met = all(output.met for output in trial.compared)
        if met and (self.smallest is None or bill.weights_nbytes < self.smallest.weights_nbytes):
            self.smallest = bill

    def _carried_out(self, option: _Option) -> Planned | None:
        """The option fitted on all frames; None where it misses a floor."""
        program, compared = self._bench.apply(option.actions)
        if not all(output.met for output in compared):
            return None
        exact = self._bench.exact_plan()
        busy = {n for a in option.actions for n in (a.donor, a.receiver)}
        left = {
            name: "nothing of it had to go"
            for name in self._bench.program.models
            if name not in busy
        }
        plan = Plan(exact.models, (*option.gone, *option.shared), exact.seed, left)
        return program, plan, compared
