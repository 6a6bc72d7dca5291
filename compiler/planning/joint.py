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
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..actions.action import Action, Stage
from ..actions.kinds import Kind, sharing
from ..execution.outputs import OutputComparison
from .damage import unexplained, worst
from .limits import Excess, Limits, fits
from .plan import PlannedAction, plan_of
from .sharing import Planned, SharingPlanner
from .ways import Continued, Continuing, Way
from .workbench import Workbench

# Sharing plans for budgets this many times the limit are continued by depth.
_RELAXED = (1.5, 2.5)
# A sharing plan that leaves less than this share of any output's variance unexplained is not put
# in question. Agreement would not do: on frames that the nets were trained on resnet20 agrees with
# resnet44 on 99.6 %, and on others it loses 2.1 points of accuracy.
_CONTENT = 0.03
# A start is not continued where looks predict so many times the error of what is known: together
# removals do more than apart, and a look on few frames overstates them by less than this.
_HOPELESS = 2.0
# Other sites that are tried for each shared prefix when bytes are left.
_RICHER = 4
# Ways that are fitted on all frames: the best of the trials, and those as good but for so much.
_CARRIED, _NEAR = 3, 1.15


@dataclass(frozen=True)
class Found:
    """What a search came to: the best plan, and what to say of it where there is none.

    `smallest` is the least that was tried within the floors, `missed` the outputs of the best that
    missed a floor once it was fitted on all frames.
    """

    best: Planned | None = None
    smallest: Way | None = None
    missed: tuple[OutputComparison, ...] = ()

    def after(self, steps: Sequence[Way] = (), carried: Sequence[Planned] = ()) -> Found:
        """The same with what else was tried, or was fitted on all frames."""
        tried = [] if self.smallest is None else [self.smallest]
        tried += [way for way in steps if way.trial.met]
        missed = [self.missed] if self.missed else []
        missed += [trial.outputs for _, trial in carried if not trial.met]
        return replace(
            self,
            smallest=min(tried, key=lambda way: way.bill.weights_nbytes, default=None),
            missed=min(missed, key=worst, default=()),
        )


class JointPlanner:
    """Plans with regions in them, for a workbench's program.

    `free` actions are in every plan; `kinds` are those that may be used.
    """

    def __init__(
        self,
        bench: Workbench,
        shares: SharingPlanner,
        ways: Continuing,
        kinds: Sequence[Kind],
        free: Planned | None,
    ) -> None:
        self._bench = bench
        self._shares = shares
        self._ways = ways
        self._free = free
        self._may_share = bool(sharing(kinds)) and len(bench.program.models) > 1
        self._may_remove = len(sharing(kinds)) < len(kinds)

    def within(self, limits: Limits, excess: Excess, planned: Planned | None) -> Found:
        """The least damage within the limits and floors.

        `planned` is what sharing alone made of the limits, if anything. `excess` says by how many
        bytes a program is over a memory budget after all.
        """
        enough = planned is not None and fits(planned[1].program, limits, excess)
        outputs = () if planned is None else planned[1].outputs
        if enough and all(unexplained(output) <= _CONTENT for output in outputs):
            return Found(planned)
        starts = self._starts(limits, planned)
        found = Found()
        # Without folds only where no way with them holds once it is fitted on all frames.
        for folds in (True, False):
            led = self._continued(starts, limits, folds)
            best, carried = self._best_of(led.ways, limits, excess, planned if enough else None)
            found = replace(found.after(led.steps, carried), best=best)
            if best is not None or not any(way.folded for way in led.ways):
                break
        return found

    def most(self) -> Found:
        """The most regions out within the floors; the unchanged program where none can go."""
        (start,) = self._ways.starts([() if self._free is None else self._free[0].actions])
        led = self._ways.continued(start, Limits(macs=0), math.inf)
        carried: list[Planned] = []
        for way in sorted(led.ways, key=lambda way: way.bill.macs):
            carried.append(self._carried_out(way))
            if carried[-1][1].met:
                return Found(carried[-1]).after(led.steps, carried)
        least = self._free or (plan_of(self._bench.case), self._bench.measure(()))
        return Found(least).after(led.steps, carried)

    # -- sharing plans to continue -----------------------------------------------------------

    def _starts(self, limits: Limits, planned: Planned | None) -> list[Way]:
        """None, what the limits ask for, milder ones, all on one trunk; the cheapest way first."""
        plans = [] if planned is None else [planned[0].actions]
        if self._may_remove:
            plans.append(() if self._free is None else self._free[0].actions)
        plans += self._sketches(limits, planned)
        return self._ways.starts(plans)

    def _sketches(self, limits: Limits, planned: Planned | None) -> list[tuple[PlannedAction, ...]]:
        shares = self._shares
        if not self._may_share:
            return []
        plans: list[tuple[PlannedAction, ...]] = []
        whole = self._bench.bills.bill(())
        if limits.weights_nbytes is not None and whole is not None:
            factors = _RELAXED if self._may_remove else ()
            for factor in (*(() if planned is not None else (1.0,)), *factors):
                limit = int(limits.weights_nbytes * factor)
                relaxed = shares.sketched(limit) if limit < whole.weights_nbytes else None
                plans += [] if relaxed is None else [relaxed]
        if not self._may_remove:
            return plans
        plans.append(shares.smallest()[0].actions)
        return [*plans, *(shares.on_trunk(name) for name in self._bench.program.models)]

    # -- continuing and polishing them -------------------------------------------------------

    def _continued(self, starts: Sequence[Way], limits: Limits, folds: bool) -> Continued:
        """Every start taken as far as the limits ask for, the best first, the best polished."""
        ways = [start for start in starts if limits.excess(start.bill) <= 0]
        steps: list[Way] = []
        known = min((way.trial.worst for way in ways), default=math.inf)
        left = [s for s in starts if limits.excess(s.bill) > 0 and s.trial.worst <= known]
        if not self._may_remove:
            left = []
        several = len(starts) > 1
        guesses = {s: self._ways.guess(s, limits, folds) for s in left} if several else {}
        for start in sorted(left, key=lambda s: guesses.get(s, 0.0)):
            best = min(ways, key=lambda way: way.trial.worst, default=None)
            known = math.inf if best is None else best.trial.worst
            hopeless = best is not None and guesses.get(start, 0.0) > _HOPELESS * self._ways.error(
                best
            )
            if start.trial.worst <= known and not hopeless:
                led = self._ways.continued(start, limits, known, folds)
                steps += led.steps
                ways += led.ways
        ways.sort(key=lambda w: (limits.excess(w.bill) > 0, w.trial.worst, w.bill.weights_nbytes))
        if ways and limits.any and limits.excess(ways[0].bill) <= 0:
            polished = self._enriched(self._trimmed(ways[0], limits), limits)
            if polished is not ways[0]:
                ways.insert(0, polished)
        return Continued(ways, steps)

    def _trimmed(self, way: Way, limits: Limits) -> Way:
        """Without removals that the limits do not ask for any more: the last one saved more."""
        for planned in sorted(way.gone, key=lambda one: (one.weights_saved_nbytes, one.macs_saved)):
            gone = tuple(one for one in way.gone if one is not planned)
            other = self._ways.tried(way.shared, gone, limits)
            if other is not None and other.trial.worst <= way.trial.worst:
                way = other
        return way

    def _enriched(self, way: Way, limits: Limits) -> Way:
        """With what the limits leave spent on shared prefixes: more donors, other cuts."""
        bills = self._bench.bills
        removed: set[str] = set()
        for action in way.actions:
            removed |= action.takes_out(bills.program)
        for shared in way.shared:
            if shared.action.stage is not Stage.SHARING:
                continue
            best, tries = way, 0
            for other in self._shares.instead_of(shared.action):
                plan = tuple(other if one is shared else one for one in way.shared)
                bill = bills.bill([p.action for p in (*plan, *way.gone)])
                richer = bill is not None and bill.weights_nbytes >= way.bill.weights_nbytes
                if not richer or bills.ends([other.action]) & removed or tries == _RICHER:
                    continue
                found = self._ways.tried(plan, way.gone, limits)
                tries += found is not None
                if found is not None and found.trial.worst < best.trial.worst:
                    best = found
            way = best
        return way

    # -- carrying out ------------------------------------------------------------------------

    def _best_of(
        self, ways: Sequence[Way], limits: Limits, excess: Excess, planned: Planned | None
    ) -> tuple[Planned | None, list[Planned]]:
        """The least damaging of what the best trials become on all frames, and of `planned`.

        Beside it everything that was fitted on all frames.
        """
        best, count = planned, 0
        carried: list[Planned] = []
        done = set[Action]() if planned is None else set(planned[1].actions)
        for way in ways:
            far = way.trial.worst > _NEAR * ways[0].trial.worst or count >= _CARRIED
            if best is not None and far:
                break
            if best is planned is not None and set(way.actions) == done:
                count += 1
                continue
            other = self._carried_out(way)
            carried.append(other)
            if not other[1].met or not fits(other[1].program, limits, excess):
                continue
            count += 1
            if best is None or other[1].worst < best[1].worst:
                best = other
        return best, carried

    def _carried_out(self, way: Way) -> Planned:
        """The way fitted on all frames."""
        trial = self._bench.measure(self._bench.bills.without_idle(way.actions))
        busy = {name for action in trial.actions for name in action.models}
        left = {
            name: "nothing of it had to go"
            for name in self._bench.program.models
            if name not in busy
        }
        planned = [one for one in way.planned if one.action in trial.actions]
        return plan_of(self._bench.case, planned, left), trial
