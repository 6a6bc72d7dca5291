"""The front: plans for a set of models of which none is better than another in every way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..actions.bill import Bill
from ..actions.kinds import chosen
from ..actions.site import Site
from ..fitting.effort import GLANCE, TRIAL
from ..progress import Progress
from .damage import Output
from .limits import bill_of
from .plan import Plan, PlannedAction, plan_of
from .trial import Trial
from .workbench import Workbench

# Sites that are looked at, those that save most first.
_LOOKED_AT = 16


@dataclass(frozen=True)
class FrontPoint:
    """A plan with what it costs and what it does to the outputs.

    `bill` is weight bytes and MACs per frame, those of the fitted program where there is a trial.
    `predicted` is the share of each output's variance that is predicted to be lost, 0 where an
    output is missing. `trial` is what was measured: fitted on all frames, compared on held-out
    ones; None where the point is a prediction only.
    """

    plan: Plan
    bill: Bill
    predicted: Mapping[Output, float]
    trial: Trial | None = None

    @property
    def lost(self) -> float:
        """The share of its variance that the worst output loses: as measured, else as predicted."""
        errors = self.predicted if self.trial is None else self.trial.errors
        return max(errors.values(), default=0.0)

    def dominates(self, other: FrontPoint) -> bool:
        """Whether it is no worse than the other in bytes, MACs and loss, and better in one."""
        mine = (self.bill.weights_nbytes, self.bill.macs, self.lost)
        theirs = (other.bill.weights_nbytes, other.bill.macs, other.lost)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs))


@dataclass(frozen=True)
class Front:
    """The points: first the exact program, then by falling size, none of those dominated.

    `notes` say what the front does not show: models without sites, points left out.
    """

    points: tuple[FrontPoint, ...]
    notes: tuple[str, ...] = ()


def front_of(exact: FrontPoint, others: Iterable[FrontPoint]) -> tuple[FrontPoint, ...]:
    """The exact program and those of the others that no other dominates, by falling size.

    Of points that are equal in all three the first stays.
    """
    kept: list[FrontPoint] = []
    for point in others:
        known = any(_figures(point) == _figures(one) for one in kept)
        if known or any(one.dominates(point) for one in kept):
            continue
        kept = [one for one in kept if not point.dominates(one)] + [point]
    return exact, *sorted(kept, key=lambda one: (-one.bill.weights_nbytes, -one.bill.macs))


def _figures(point: FrontPoint) -> tuple[Bill, float]:
    return point.bill, point.lost


def _unseen(trial: Trial) -> None:
    """What nobody looks at."""


class Explorer:
    """Finds the front of a case's models.

    `seen` is called with every trial that a point may keep, while the trial has its program: the
    points themselves keep none, since a program is as large as the models.
    """

    def __init__(
        self,
        bench: Workbench,
        progress: Progress,
        seen: Callable[[Trial], None] = _unseen,
    ) -> None:
        self._bench = bench
        self._progress = progress
        self._seen = seen

    def front(self, points: int, measured: int) -> Front:
        """At most `points` points, of which `measured` beside the exact program are measured."""
        bench, bills = self._bench, self._bench.bills
        options = bench.case.options
        self._progress.stage("measuring the exact program", None)
        start = bench.measure(())
        self._seen(start)
        exact = FrontPoint(plan_of(bench.case), bill_of(start.program), {}, start.remembered())
        self._progress.stage("looking for what could be rewritten", None)
        whole = bills.bill(())
        assert whole is not None
        sites: list[Site] = []
        refused: dict[str, str] = {}
        for kind in chosen(options.only, options.without):
            for group in bench.evidence.groups:
                found = kind.sites(bench.evidence, group)
                refused |= found.refused
                sites += [
                    s for s in found.found if s.saved.matters(whole) and math.isfinite(s.damage)
                ]
        if not sites:
            reasons = [f"{name}: {why}" for name, why in list(refused.items())[:3]]
            told = f" ({'; '.join(reasons)})" if reasons else ""
            note = f"nothing was found that could be rewritten inexactly{told}: one point is all"
            return Front((exact,), (note,))

        def share(bill: Bill) -> float:
            return bill.weights_nbytes / max(whole.weights_nbytes, 1) + bill.macs / max(
                whole.macs, 1
            )

        sites = sorted(sites, key=lambda s: (-share(s.saved), str(s.action)))[:_LOOKED_AT]
        self._progress.stage("looking at them one by one", len(sites))
        alone = {site: bench.measure((site.action,), GLANCE).errors for site in sites}
        sites.sort(key=lambda s: max(alone[s].values(), default=0.0) / max(share(s.saved), 1e-9))
        taken: list[Site] = []
        prefixes: list[tuple[tuple[Site, ...], Bill]] = []
        last = whole
        for site in sites:
            bill = bills.bill([*(one.action for one in taken), site.action])
            nodes = {name for one in taken for name in one.nodes}
            if bill is None or nodes & set(site.nodes) or not (last - bill).matters(whole):
                continue
            taken.append(site)
            last = bill
            prefixes.append((tuple(taken), bill))
        count = min(points - 1, len(prefixes))
        picked = [prefixes[index] for index in _spread(len(prefixes), count)]
        looked = _spread(count, min(measured, count))
        self._progress.stage("measuring points of the front", len(looked))
        others: list[FrontPoint] = []
        for index, (prefix, bill) in enumerate(picked):
            plan = plan_of(bench.case, [_planned(site) for site in prefix])
            predicted = _added_up([alone[site] for site in prefix])
            trial = None
            if index in looked:
                trial = bench.measure([site.action for site in prefix], TRIAL)
                self._seen(trial)
                bill, trial = bill_of(trial.program), trial.remembered()
            others.append(FrontPoint(plan, bill, predicted, trial))
        return Front(front_of(exact, others))


def _added_up(errors: Sequence[Mapping[Output, float]]) -> dict[Output, float]:
    """The errors of several actions together: they add up."""
    found: dict[Output, float] = {}
    for each in errors:
        for output, error in each.items():
            found[output] = found.get(output, 0.0) + error
    return found


def _spread(length: int, count: int) -> list[int]:
    """So many of the indices of a list, from its first to its last."""
    return [round((length - 1) * part / max(count - 1, 1)) for part in range(count)]


def _planned(site: Site) -> PlannedAction:
    return PlannedAction(site.action, site.saved.weights_nbytes, site.saved.macs)
