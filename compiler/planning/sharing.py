"""Sharing between models: which prefixes to take from whom, alone or as the start of more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..actions.action import Action
from ..actions.carry_out import in_order
from ..actions.kinds import Kind
from ..actions.site import Site
from ..progress import Progress
from .limits import Excess
from .plan import Plan, PlannedAction, plan_of
from .prefix_search import TRIES, Combination, Search
from .swaps import Swaps
from .trial import Trial
from .workbench import Workbench

# What a fit on all frames wins back, at most: resnet20 for resnet44 agrees on 98.8 % after a fit on
# 512 frames, on 99.6 % after one on 1 500.
SLACK = 0.02
# Swaps measured per receiver when all are to hang on one trunk.
TRUNK_TRIES = 2

Planned = tuple[Plan, Trial]
"""A plan, and the program that came of it when it was fitted on all frames."""


class SharingPlanner:
    """Plans by which models take from each other, beside `free` actions that are in every plan."""

    def __init__(
        self,
        bench: Workbench,
        kinds: Sequence[Kind],
        free: Sequence[PlannedAction],
        progress: Progress,
    ) -> None:
        self._bench = bench
        self._swaps = Swaps(bench, kinds, progress)
        self._free = tuple(free)
        self._smallest: Planned | None = None

    def plan(self, limit: int | None, excess: Excess) -> Planned | None:
        """The least damage within `limit` weight bytes, or the fewest bytes when None.

        None when nothing fits; never when `smallest` does.
        """
        if limit is None:
            return self.smallest()
        found = self._searched(limit, excess)
        if found is None and excess(self.smallest()[1].program) <= 0:
            found = self.smallest()
        return found

    def smallest(self) -> Planned:
        """The fewest weight bytes within the floors; the same whatever was tried before."""
        if self._smallest is None:
            self._smallest = self._searched(None, lambda program: 0)
            assert self._smallest is not None
        return self._smallest

    def sketched(self, limit: int) -> tuple[PlannedAction, ...] | None:
        """The sharing within `limit` weight bytes by what its swaps do one by one.

        None where nothing fits. Not carried out: a plan to be continued, whose swaps may miss
        their floors by a little as long as they are fitted on few frames.
        """
        search = self._search(self._swaps.ladders(), self._nearly, probe=self._swaps.predicted)
        choice = search.within(limit)
        return None if choice is None else self._sketch_of(choice, search)

    def on_trunk(self, donor: str) -> tuple[PlannedAction, ...]:
        """The sharing by which all others take as much from `donor` as their floors allow.

        By what the swaps do one by one, as `sketched`.
        """
        ladders = {
            receiver: [site for site in ladder if donor in site.action.models[:-1]]
            for receiver, ladder in self._swaps.ladders().items()
            if receiver != donor
        }
        search = self._search(ladders, self._nearly, tries=TRUNK_TRIES)
        return self._sketch_of(search.smallest(), search)

    def instead_of(self, action: Action) -> list[PlannedAction]:
        """Other ways for the action's receiver to take from its donor, in order of their cuts."""
        sites = self._swaps.sites
        known = [*sites.found, *sites.spare]
        others = [s for s in known if s.action.models == action.models and s.action != action]
        others.sort(key=lambda s: (-s.evidence["depth"], -s.evidence["r2"], str(s.action)))
        return [_planned(site) for site in others]

    def explanation(self) -> str:
        """What stands against saving more, a line per model; empty before any search."""
        return self._swaps.explanation()

    # -- searching -----------------------------------------------------------------------------

    def _searched(self, limit: int | None, excess: Excess) -> Planned | None:
        """Backs off where a combination misses a floor that its actions kept one by one."""
        free = [planned.action for planned in self._free]
        swaps = self._swaps
        search = self._search(swaps.ladders(), swaps.measured, probe=swaps.predicted)
        allowed = limit
        while True:
            choice = search.smallest() if allowed is None else search.within(allowed)
            if choice is None:
                return None
            idle = self._worthless(choice) if allowed is None else None
            if idle is not None:
                search.reject(idle)
                continue
            trial = self._bench.measure(self._bench.bills.without_idle([*choice.actions, *free]))
            missed = {output.model for output in trial.outputs if not output.met}
            if missed and choice.sites:
                search.reject(self._culprit(choice, missed, search))
                continue
            over = excess(trial.program)
            if over > 0:
                assert allowed is not None
                allowed -= over
                continue
            return self._plan_of(choice, search, trial.actions), trial

    def _search(
        self,
        ladders: dict[str, list[Site]],
        measure: Callable[[Site], Trial],
        tries: int = TRIES,
        probe: Callable[[Site], float] | None = None,
    ) -> Search:
        free = [planned.action for planned in self._free]
        return Search(
            ladders,
            lambda actions: self._bench.bills.bill([*actions, *free]),
            measure,
            tries,
            self._allowance(),
            probe,
        )

    def _nearly(self, site: Site) -> Trial:
        """What a swap does; met where a fit on all frames may keep the floor."""
        known = self._swaps.measured(site)
        floor = 1 - self._allowance() - SLACK
        return known if known.met or known.least < floor else _forgiven(known)

    def _sketch_of(self, choice: Combination, search: Search) -> tuple[PlannedAction, ...]:
        free = [planned.action for planned in self._free]
        actions = self._bench.bills.without_idle([*choice.actions, *free])
        return self._plan_of(choice, search, actions).actions

    def _allowance(self) -> float:
        """The most loss that the floor of any output allows."""
        options = self._bench.case.options
        floors = [
            options.floor(name, output)
            for name, model in self._bench.program.models.items()
            for output in model.outputs
        ]
        return max(1 - min(floors), 1e-3)

    def _worthless(self, choice: Combination) -> Site | None:
        """A site of the choice that saves too little beside the others, the most damaging first.

        Under a budget every site is needed: the choice with least damage does without others.
        """
        bills = self._bench.bills
        free = [planned.action for planned in self._free]
        whole, bill = bills.bill(()), bills.bill([*choice.actions, *free])
        for site in sorted(choice.sites, key=lambda one: (-one.damage, str(one.action))):
            rest = [action for action in choice.actions if action is not site.action]
            less = bills.bill([*rest, *free])
            assert whole is not None and bill is not None
            # Without it nothing may stand: others take through it.
            if less is not None and not (less - bill).matters(whole):
                return site
        return None

    def _culprit(self, choice: Combination, missed: set[str], search: Search) -> Site:
        """The site to give up: of those that touch a missed output, the most damaging one."""
        touching = [
            site for site in choice.sites if missed & set(self._bench.bills.affected(site.action))
        ]
        return max(
            touching or choice.sites,
            key=lambda site: (search.measured[site].loss, str(site.action)),
        )

    # -- plans ---------------------------------------------------------------------------------

    def _plan_of(self, choice: Combination, search: Search, actions: Sequence[Action]) -> Plan:
        known = {planned.action: planned for planned in self._free}
        for site in choice.sites:
            known[site.action] = _planned(site, search.measured[site].least)
        planned = [known[action] for action in in_order(actions)]
        tried = {
            name: [search.measured[rung] for rung in rungs if rung in search.measured]
            for name, rungs in search.ladders.items()
        }
        return plan_of(self._bench.case, planned, self._swaps.left_alone(actions, tried))


def _planned(site: Site, fidelity: float | None = None) -> PlannedAction:
    saved, similarity = site.saved, site.evidence["r2"]
    return PlannedAction(site.action, saved.weights_nbytes, saved.macs, similarity, fidelity)


def _forgiven(trial: Trial) -> Trial:
    """The trial as if its outputs kept their floors."""
    outputs = (replace(out, floor=min(out.floor, out.judged)) for out in trial.outputs)
    return replace(trial, outputs=tuple(outputs))
