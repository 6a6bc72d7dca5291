"""One plan for sharing and depth: which prefixes to share and which regions to take out.

Sharing and depth save the same bytes and multiply-accumulates by different means. A few sharing
plans (none, what the limits ask for, milder ones, all models on one trunk) are each continued by
taking regions and folds out of what is left, as far as the limits ask for it. In the program that
comes out regions go first and adapters are fitted to what is left of their donors, so that a
region of a shared trunk is paid for once and saves for all models on it.

Regions are looked at one by one before any sharing, and these looks predict which of the sharing
plans is worth being continued by measurement. Combinations are compared by the output that suffers
most; the best are fitted on all frames and compared again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..actions.bill import Bill
from ..actions.fold_sites import FoldSite
from ..execution.outputs import OutputComparison
from ..graph.program import Program
from ..graph.regions import find_regions
from ..options import CompileOptions
from ..progress import Progress
from .damage import (
    Limits,
    Output,
    Way,
    as_promised,
    errors_of,
    fits,
    predicted,
    spread,
    unexplained,
    worst,
)
from .descent import Candidate, Descent, find_candidates
from .free import FoldPlanner
from .plan import Action, CollapseAction, PlannedAction, SharePrefixAction
from .trials import GLANCE, Trials
from .workbench import Planned, Workbench

# Sharing plans for budgets this many times the limit are continued by depth.
_RELAXED = (1.5, 2.5)
# A sharing plan that leaves less than this share of any output's variance unexplained is not put
# in question. Agreement would not do: on frames that the nets were trained on resnet20 agrees with
# resnet44 on 99.6 %, and on others it loses 2.1 points of accuracy.
_CONTENT = 0.03
# Trials are fitted on few frames: the full fit has won back this much fidelity and more.
_SLACK = 0.05
# A start is not continued where looks predict so many times the error of what is known: together
# removals do more than apart, and a look on few frames overstates them by less than this.
_HOPELESS = 2.0
# Other sites that are tried for each shared prefix when bytes are left.
_RICHER = 4
# Ways that are fitted on all frames: the best of the trials, and those as good but for so much.
_CARRIED, _NEAR = 3, 1.15


@dataclass(frozen=True, eq=False)
class _Start:
    """A sharing plan to continue: its actions, its errors and damage, its cost."""

    shared: tuple[PlannedAction, ...]
    errors: Mapping[Output, float]
    damage: float
    bill: Bill

    @property
    def held(self) -> tuple[Action, ...]:
        return tuple(planned.action for planned in self.shared)


class JointPlanner:
    """Plans with regions in them, for a workbench's program."""

    def __init__(
        self,
        bench: Workbench,
        trials: Trials,
        folding: FoldPlanner,
        options: CompileOptions,
        progress: Progress,
    ) -> None:
        self._bench = bench
        self._trials = trials
        self._folding = folding
        self._options = options
        self._progress = progress
        self._regions = find_regions(bench.program)
        self._outputs = sum(len(model.outputs) for model in bench.program.models.values())
        self._looks: dict[Action, dict[Output, float] | None] = {}
        self.smallest: Way | None = None  # the least that was tried within the floors
        self.missed: list[OutputComparison] = []  # by the best that missed a floor in the end

    def within(
        self, limits: Limits, excess: Callable[[Program], int], planned: Planned | None
    ) -> Planned | None:
        """The least damage within the limits and floors; None where nothing is.

        `planned` is what sharing alone made of the limits, if anything. `excess` says by how many
        bytes a program is over a memory budget after all.
        """
        enough = planned is not None and fits(planned[0], limits, excess)
        if planned is not None and enough and self._content(planned):
            return planned
        starts = self._starts(limits, planned)
        # Without folds only where no way with them holds once it is fitted on all frames.
        for folds in (True, False):
            ways = self._ways(starts, limits, folds)
            found = self._best_of(ways, limits, excess, planned if enough else None)
            if found is not None or not any(way.folded for way in ways):
                return found
        return None

    def most(self) -> Planned:
        """The most regions out within the floors; the unchanged program where none can go."""
        limits = Limits(macs=0)
        start = self._start(self._bench.folds)
        ways = [] if start is None else self._descended(start, limits, math.inf)
        for way in sorted(ways, key=lambda way: way.bill.macs):
            found = self._carried_out(way)
            if found is not None:
                return found
        return self._bench.least()

    def _content(self, planned: Planned) -> bool:
        return all(unexplained(output) <= _CONTENT for output in planned[2])

    # -- sharing plans to continue -----------------------------------------------------------

    def _starts(self, limits: Limits, planned: Planned | None) -> list[_Start]:
        """None, what the limits ask for, milder ones, all on one trunk; the cheapest way first."""
        plans = [] if planned is None else [planned[1].actions]
        if self._options.only != "share":
            plans.append(self._bench.folds)
        plans += self._sketches(limits, planned)
        found: list[_Start] = []
        seen: list[frozenset[Action]] = []
        for plan in plans:
            actions = frozenset(planned.action for planned in plan)
            start = None if actions in seen else self._start(plan)
            seen.append(actions)
            if start is not None:
                found.append(start)
        return found

    def _sketches(self, limits: Limits, planned: Planned | None) -> list[tuple[PlannedAction, ...]]:
        bench, only = self._bench, self._options.only
        if only == "depth" or len(bench.program.models) < 2:
            return []
        plans: list[tuple[PlannedAction, ...]] = []
        whole = bench.skeleton.bill([])
        if limits.weights_nbytes is not None and whole is not None:
            factors = () if only == "share" else _RELAXED
            for factor in (*(() if planned is not None else (1.0,)), *factors):
                limit = int(limits.weights_nbytes * factor)
                relaxed = bench.sketched(limit) if limit < whole.weights_nbytes else None
                plans += [] if relaxed is None else [relaxed]
        if only == "share":
            return plans
        plans.append(bench.smallest()[1].actions)
        return [*plans, *(bench.on_trunk(name) for name in bench.program.models)]

    def _start(self, shared: tuple[PlannedAction, ...]) -> _Start | None:
        held = tuple(planned.action for planned in shared)
        bill = self._bench.skeleton.bill(held)
        if bill is None:
            return None
        compared = self._trials.run(held).compared
        return _Start(shared, errors_of(compared), worst(compared), bill)

    # -- continuing them ---------------------------------------------------------------------

    def _ways(self, starts: Sequence[_Start], limits: Limits, folds: bool) -> list[Way]:
        """Every start taken as far as the limits ask for, the best first, the best polished."""
        ways = [
            Way(start.shared, (), start.damage, self._spread(start.errors), start.bill)
            for start in starts
            if limits.excess(start.bill) <= 0
        ]
        known = min((way.damage for way in ways), default=math.inf)
        left = [s for s in starts if limits.excess(s.bill) > 0 and s.damage <= known]
        if self._options.only == "share":
            left = []
        guesses = {s: self._guess(s, limits, folds) for s in left} if len(starts) > 1 else {}
        for start in sorted(left, key=lambda s: guesses.get(s, 0.0)):
            best = min(ways, key=lambda way: way.damage, default=None)
            known = math.inf if best is None else best.damage
            hopeless = best is not None and guesses.get(start, 0.0) > _HOPELESS * best.error
            if start.damage <= known and not hopeless:
                ways += self._descended(start, limits, known, folds)
        ways.sort(key=lambda w: (limits.excess(w.bill) > 0, w.damage, w.bill.weights_nbytes))
        if ways and limits.any and limits.excess(ways[0].bill) <= 0:
            polished = self._enriched(self._trimmed(ways[0], limits), limits)
            if polished is not ways[0]:
                ways.insert(0, polished)
        return ways

    def _guess(self, start: _Start, limits: Limits, folds: bool) -> float:
        """The error that looks at single removals predict where the limits are met; else inf."""

        def sum_up(actions: tuple[Action, ...]) -> float:
            looks = [look for action in actions if (look := self._look(action)) is not None]
            return self._spread(predicted(start.errors, looks, start.held))

        for step in self._descent(start, limits.excess, sum_up, folds).steps():
            if limits.excess(step.bill) <= 0:
                return step.error
        return math.inf

    def _descended(
        self, start: _Start, limits: Limits, known: float, folds: bool = True
    ) -> list[Way]:
        """The start with regions out until the limits are met; every step without limits that can
        be met is a way too. A way that does more than the damage `known` ends.
        """
        price = self._bench.skeleton.bill
        endless = limits.macs == 0
        tried: dict[tuple[Action, ...], list[OutputComparison]] = {}

        def measure(actions: tuple[Action, ...]) -> float:
            trial = self._trials.run((*start.held, *actions))
            tried[actions] = list(trial.compared)
            promised = price((*start.held, *actions))
            if promised is None or not as_promised(trial.program, promised):
                return math.inf
            return self._spread(errors_of(trial.compared))

        def worth(bill: Bill) -> float:
            return float(bill.macs) if endless else limits.excess(bill)

        found: list[Way] = []
        gone: list[PlannedAction] = []
        last: Way | None = None
        for step in self._descent(start, worth, measure, folds).steps():
            compared = tried[step.actions]
            least = min((output.value for output in compared), default=1.0)
            chosen = step.chosen
            gone.append(
                PlannedAction(chosen.action, chosen.saved_nbytes, chosen.saved_macs, None, least)
            )
            way = Way(start.shared, tuple(gone), worst(compared), step.error, step.bill)
            self._note(way, compared)
            kept = all(output.value >= output.floor - _SLACK for output in compared)
            if not kept or (not endless and way.damage > known):
                break
            last = way
            if endless:
                found.append(way)
            elif limits.excess(step.bill) <= 0:
                return [way]
        # Regions that go take activations along: the memory budget may be met all the same.
        return found or ([last] if last is not None else [])

    def _descent(
        self,
        start: _Start,
        worth: Callable[[Bill], float],
        measure: Callable[[tuple[Action, ...]], float],
        folds: bool,
    ) -> Descent:
        candidates = self._candidates(start.held)
        influence = self._trials.influence([candidate.region for candidate in candidates])
        sites: Sequence[FoldSite] = self._folding.candidates(start.held, worth) if folds else ()
        self._progress.stage(
            f"trying {len(candidates)} regions beside {len(start.held)} shared prefixes", None
        )
        error = self._spread(start.errors)

        def glance(actions: tuple[Action, ...]) -> float:
            look = self._look(actions[-1])
            if look is None:
                return math.inf
            return self._spread(predicted(start.errors, [look], start.held))

        return Descent(
            candidates,
            self._bench.skeleton.bill,
            measure,
            worth,
            influence,
            start.held,
            sites,
            glance,
            error,
        )

    def _look(self, action: Action) -> dict[Output, float] | None:
        """What one removal does by itself, measured once; None where it cannot be carried out."""
        if action not in self._looks:
            affected = self._bench.skeleton.affected(action)
            trial = self._trials.run((action,), affected, GLANCE)
            promised = self._bench.skeleton.bill((action,))
            kept = promised is not None and as_promised(trial.program, promised)
            self._looks[action] = errors_of(trial.compared) if kept else None
        return self._looks[action]

    def _candidates(self, held: Sequence[Action]) -> list[Candidate]:
        """Regions that may go beside `held`: none that has an end of a shared prefix inside."""
        program, skeleton = self._bench.program, self._bench.skeleton
        ends = self._ends(held)
        return [
            candidate
            for candidate in find_candidates(program, self._regions, skeleton, held=held)
            if not ends & self._inside(candidate.nodes)
        ]

    def _ends(self, actions: Sequence[Action]) -> set[str]:
        """The values that adapters read or replace."""
        ends: set[str] = set()
        for action in actions:
            for link in action.links:
                ends |= {link.receiver_value, *link.donor_values}
                ends.add(self._bench.skeleton.replaced(link.receiver_value, action.kernel))
        return ends

    def _inside(self, nodes: Sequence[str]) -> set[str]:
        """What some nodes of the program make."""
        program = self._bench.program
        return {tensor.name for name in nodes for tensor in program.node(name).outputs}

    # -- polishing ---------------------------------------------------------------------------

    def _trimmed(self, way: Way, limits: Limits) -> Way:
        """Without removals that the limits do not ask for any more: the last one saved more."""
        for planned in sorted(way.gone, key=lambda one: (one.weights_saved_nbytes, one.macs_saved)):
            gone = tuple(one for one in way.gone if one is not planned)
            other = self._tried(way.shared, gone, limits)
            if other is not None and other.damage <= way.damage:
                way = other
        return way

    def _enriched(self, way: Way, limits: Limits) -> Way:
        """With what the limits leave spent on shared prefixes: more donors, other cuts."""
        removed: set[str] = set()
        for action in way.actions:
            if isinstance(action, CollapseAction):
                region = next(
                    r
                    for r in self._regions.found
                    if (r.entry, r.exit) == (action.entry, action.exit)
                )
                removed |= self._inside(region.nodes) - {action.exit}
        for shared in way.shared:
            if not isinstance(shared.action, SharePrefixAction):
                continue
            best, tries = way, 0
            for other in self._bench.instead_of(shared.action):
                plan = tuple(other if one is shared else one for one in way.shared)
                bill = self._bench.skeleton.bill([p.action for p in (*plan, *way.gone)])
                richer = bill is not None and bill.weights_nbytes >= way.bill.weights_nbytes
                if not richer or self._ends([other.action]) & removed or tries == _RICHER:
                    continue
                found = self._tried(plan, way.gone, limits)
                tries += found is not None
                if found is not None and found.damage < best.damage:
                    best = found
            way = best
        return way

    def _tried(
        self,
        shared: tuple[PlannedAction, ...],
        gone: tuple[PlannedAction, ...],
        limits: Limits,
    ) -> Way | None:
        """A combination measured; None where it is not within the limits."""
        actions = [planned.action for planned in (*shared, *gone)]
        bill = self._bench.skeleton.bill(actions)
        if bill is None or limits.excess(bill) > 0:
            return None
        compared = self._trials.run(actions).compared
        return Way(shared, gone, worst(compared), self._spread(errors_of(compared)), bill)

    def _spread(self, errors: Mapping[Output, float]) -> float:
        return spread(errors, self._outputs)

    # -- carrying out ------------------------------------------------------------------------

    def _best_of(
        self,
        ways: Sequence[Way],
        limits: Limits,
        excess: Callable[[Program], int],
        planned: Planned | None,
    ) -> Planned | None:
        """The least damaging of what the best trials become on all frames, and of `planned`."""
        best, count = planned, 0
        done = set[Action]() if planned is None else {one.action for one in planned[1].actions}
        for way in ways:
            far = way.damage > _NEAR * ways[0].damage or count >= _CARRIED
            if best is not None and far:
                break
            if best is planned is not None and set(way.actions) == done:
                count += 1
                continue
            found = self._carried_out(way)
            if found is None or not fits(found[0], limits, excess):
                continue
            count += 1
            if best is None or worst(found[2]) < worst(best[2]):
                best = found
        return best

    def _note(self, way: Way, compared: Sequence[OutputComparison]) -> None:
        met = all(output.met for output in compared)
        least = self.smallest
        if met and (least is None or way.bill.weights_nbytes < least.bill.weights_nbytes):
            self.smallest = way

    def _carried_out(self, way: Way) -> Planned | None:
        """The way fitted on all frames; None where it misses a floor."""
        actions = self._bench.skeleton.without_idle(way.actions)
        program, compared = self._bench.apply(actions)
        if not all(output.met for output in compared):
            if not self.missed or worst(compared) < worst(self.missed):
                self.missed = list(compared)
            return None
        busy = {name for action in actions for name in (action.donor, action.receiver)}
        left = {
            name: "nothing of it had to go"
            for name in self._bench.program.models
            if name not in busy
        }
        planned = [one for one in way.planned if one.action in actions]
        return program, replace(self._bench.plan_with(planned), left_alone=left), compared
