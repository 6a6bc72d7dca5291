"""Ways to a plan: a start that shares, continued by taking regions and folds out of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..actions.action import Action, Stage
from ..actions.bill import Bill
from ..actions.kinds import Kind, regions
from ..actions.site import Site
from ..fitting.effort import GLANCE, TRIAL, Effort
from ..progress import Progress
from .damage import Output, predicted, spread
from .descent import Descent, Trying, regions_beside
from .free import Folds
from .limits import Limits
from .plan import PlannedAction
from .trial import Trial, outputs_of
from .workbench import Question, Workbench

# Trials are fitted on few frames: the full fit has won back this much fidelity and more.
_SLACK = 0.05


@dataclass(frozen=True, eq=False)
class Way:
    """A combination as it was tried: what it starts from, what is out, and the trial of both."""

    shared: tuple[PlannedAction, ...]
    gone: tuple[PlannedAction, ...]
    trial: Trial

    @property
    def bill(self) -> Bill:
        """What all of it costs."""
        assert self.trial.bill is not None
        return self.trial.bill

    @property
    def held(self) -> tuple[Action, ...]:
        """What it starts from."""
        return _actions(self.shared)

    @property
    def planned(self) -> tuple[PlannedAction, ...]:
        """Everything that it does."""
        return (*self.gone, *self.shared)

    @property
    def actions(self) -> tuple[Action, ...]:
        """Everything that it does, without what was expected of it."""
        return _actions(self.planned)

    @property
    def folded(self) -> bool:
        """Whether folds are among what is out."""
        return any(planned.action.stage > Stage.SHARING for planned in self.gone)


@dataclass
class Continued:
    """Where a start led: the ways worth comparing, and every step that was tried on them."""

    ways: list[Way] = field(default_factory=list[Way])
    steps: list[Way] = field(default_factory=list[Way])


class Continuing:
    """Takes regions and folds out beside what a start shares.

    Removals are looked at one by one before any sharing (`looks`), which predicts them together.
    """

    def __init__(
        self, bench: Workbench, folds: Folds, kinds: Sequence[Kind], progress: Progress
    ) -> None:
        self._bench = bench
        self._folds = folds
        self._progress = progress
        self._kinds = kinds
        self._outputs = outputs_of(bench.program)
        self._regions: list[Site] | None = None
        self._looks: dict[Action, Mapping[Output, float] | None] = {}

    def starts(self, plans: Sequence[tuple[PlannedAction, ...]]) -> list[Way]:
        """Sharing plans to continue, each once, as tried; without those that are impossible."""
        unique: dict[frozenset[Action], tuple[PlannedAction, ...]] = {}
        for plan in plans:
            unique.setdefault(frozenset(_actions(plan)), plan)
        bills = self._bench.bills
        kept = [plan for plan in unique.values() if bills.bill(_actions(plan)) is not None]
        trials = self._bench.measure_all(Question(_actions(plan), TRIAL) for plan in kept)
        return [Way(plan, (), trial.remembered()) for plan, trial in zip(kept, trials)]

    def error(self, way: Way) -> float:
        """The spread of a way's errors."""
        return spread(way.trial.errors, self._outputs)

    def guess(self, start: Way, limits: Limits, folds: bool) -> float:
        """The error that looks at single removals predict where the limits are met; else inf."""

        def sum_up(actions: tuple[Action, ...]) -> float:
            looks = [look for action in actions if (look := self._look(action)) is not None]
            return spread(predicted(start.trial.errors, looks, start.held), self._outputs)

        for step in self._descent(start, limits.excess, sum_up, folds).steps():
            if limits.excess(step.bill) <= 0:
                return step.error
        return math.inf

    def continued(self, start: Way, limits: Limits, known: float, folds: bool = True) -> Continued:
        """The start with regions out until the limits are met.

        Every step without limits that can be met is a way too. A way that does more than the damage
        `known` ends.
        """
        endless = limits.macs == 0
        trying = Trying(self._bench, TRIAL, start.held)

        def measure(actions: tuple[Action, ...]) -> float:
            trial = trying(actions)
            return trial.spread if trial.as_promised else math.inf

        def worth(bill: Bill) -> float:
            return float(bill.macs) if endless else limits.excess(bill)

        found = Continued()
        gone: list[PlannedAction] = []
        last: Way | None = None
        for step in self._descent(start, worth, measure, folds).steps():
            trial, saved = trying.trials[step.actions], step.chosen.saved
            gone.append(
                PlannedAction(
                    step.chosen.action, saved.weights_nbytes, saved.macs, None, trial.least
                )
            )
            way = Way(start.shared, tuple(gone), trial.remembered())
            found.steps.append(way)
            kept = all(output.value >= output.floor - _SLACK for output in trial.outputs)
            if not kept or (not endless and trial.worst > known):
                break
            last = way
            if endless:
                found.ways.append(way)
            elif limits.excess(step.bill) <= 0:
                found.ways = [way]
                return found
        # Regions that go take activations along: the memory budget may be met all the same.
        if not found.ways and last is not None:
            found.ways = [last]
        return found

    def tried(
        self,
        shared: tuple[PlannedAction, ...],
        gone: tuple[PlannedAction, ...],
        limits: Limits,
    ) -> Way | None:
        """A combination measured; None where it is not within the limits."""
        actions = _actions((*shared, *gone))
        bill = self._bench.bills.bill(actions)
        if bill is None or limits.excess(bill) > 0:
            return None
        return Way(shared, gone, self._bench.measure(actions, TRIAL).remembered())

    def _descent(
        self,
        start: Way,
        worth: Callable[[Bill], float],
        measure: Callable[[tuple[Action, ...]], float],
        folds: bool,
    ) -> Descent:
        bench, held = self._bench, start.held
        sites = regions_beside(self._region_sites(), bench.bills, held)
        beside = self._folds.beside(held, worth) if folds else []
        self._progress.stage(
            f"trying {len(sites)} regions beside {len(held)} shared prefixes", None
        )

        def glance(actions: tuple[Action, ...]) -> float:
            look = self._look(actions[-1])
            if look is None:
                return math.inf
            return spread(predicted(start.trial.errors, [look], held), self._outputs)

        return Descent(
            sites, bench.bills.bill, measure, worth, held, beside, glance, self.error(start)
        )

    def _look(self, action: Action) -> Mapping[Output, float] | None:
        """What one removal does by itself, measured once; None where it cannot be carried out."""
        if action not in self._looks:
            affected = self._bench.bills.affected(action)
            trial = self._bench.measure((action,), GLANCE, affected)
            self._looks[action] = trial.errors if trial.as_promised else None
        return self._looks[action]

    def _region_sites(self) -> list[Site]:
        """The regions that could go, with how much each changes what goes through it."""
        if self._regions is None:
            self._regions = region_sites(self._bench, self._kinds)
        return self._regions


def region_sites(bench: Workbench, kinds: Sequence[Kind], effort: Effort = TRIAL) -> list[Site]:
    """The sites of the kinds that take regions out, with their influence as evidence."""
    evidence = bench.evidence
    sites = [
        site
        for kind in regions(kinds)
        for group in evidence.groups
        for site in kind.sites(evidence, group).found
    ]
    influence = bench.influence(sites, effort)
    return [replace(site, evidence={"influence": influence[site.action]}) for site in sites]


def _actions(plan: Sequence[PlannedAction]) -> tuple[Action, ...]:
    return tuple(planned.action for planned in plan)
