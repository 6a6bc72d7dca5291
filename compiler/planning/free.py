"""Folds beside sharing and depth: those that cost nothing, and those that are worth measuring.

What is (nearly) linear, dead, constant or alike on the frames is found by one pass over them. As
with sharing and depth, statistics only rank: a fold is taken because the outputs were compared
after it was carried out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

from ...passes.drop_dead import DropDead
from ...passes.merge_linear import MergeLinear
from ..actions.action import Action, Effect, Merging
from ..actions.bill import Bill
from ..actions.kinds import Kind, costly_sites, free_sites
from ..actions.site import Site
from ..execution.latency import best_seconds
from ..execution.outputs import OutputComparison
from ..fitting.effort import TRIAL
from ..progress import Progress
from .plan import PlannedAction, plan_of
from .sharing import Planned
from .workbench import Workbench

# Sites measured one by one beside the regions, those of least expected damage per saving first.
LOOKS = 32
# A site may be free if it is expected to lose at most this share of a value's variance, and is if
# no output then loses more than this share of its own on held-out frames.
_FREE = 1e-4
# Damage that is told apart from none when sites are ranked.
_LEAST_DAMAGE = 1e-3


class Folds:
    """Finds folds for a workbench's program: free ones for every plan, others to try."""

    def __init__(self, bench: Workbench, kinds: Sequence[Kind], progress: Progress) -> None:
        self._bench = bench
        self._kinds = kinds
        self._progress = progress
        self._faster: dict[Action, bool] = {}

    @cached_property
    def free(self) -> Planned | None:
        """The program with all folds that leave its outputs as they are; None where there is none.

        Measured together, one by one only where they are not free together; fitted on all frames
        and compared on all held-out ones in the end.
        """
        bench = self._bench
        chosen: list[Site] = []
        for site in [site for site in self._free_sites if site.damage <= _FREE]:
            if self._saves([*chosen, site], chosen) and self._is_faster(site.action):
                chosen.append(site)
        if chosen and not _is_free(bench.measure(_actions(chosen), TRIAL).outputs):
            single, chosen = chosen[:LOOKS], []
            for site in single:
                if _is_free(bench.measure(_actions([*chosen, site]), TRIAL).outputs):
                    chosen.append(site)
        while chosen:
            needed = bench.bills.without_idle(_actions(chosen))
            chosen = [site for site in chosen if site.action in needed]
            trial = bench.measure(_actions(chosen))
            if _is_free(trial.outputs) and trial.as_promised:
                planned = [
                    PlannedAction(s.action, s.saved.weights_nbytes, s.saved.macs, None, trial.least)
                    for s in chosen
                ]
                return plan_of(bench.case, planned), trial
            chosen = chosen[: len(chosen) // 2]
        return None

    def beside(self, held: Sequence[Action], worth: Callable[[Bill], float]) -> list[Site]:
        """Sites to try beside `held`, the best first: at most `LOOKS` looks, half at one kind.

        Best is the least expected damage per saving; `worth(bill)` turns a cost into the amount
        that is to fall.
        """
        bills = self._bench.bills
        before = bills.bill(held)
        if before is None:
            return []
        ranked: list[tuple[float, int, Site]] = []
        for index, site in enumerate([*self._free_sites, *self._costly_sites]):
            after = bills.bill([*held, site.action])
            saved = 0.0 if after is None else worth(before) - worth(after)
            if saved > 0 and site.action not in held:
                ranked.append((max(site.damage, _LEAST_DAMAGE) / saved, index, site))
        found: list[Site] = []
        looks: set[object] = set()
        kinds: Counter[str] = Counter()
        for _, _, site in sorted(ranked, key=lambda one: one[:2]):
            kind, look = site.action.kind, site.look or site.action
            if look in looks:
                found.append(site)
            # Long runs of layers alike are many sites: they leave room for others.
            elif len(looks) < LOOKS and kinds[kind] < LOOKS // 2 and self._is_faster(site.action):
                kinds[kind] += 1
                looks.add(look)
                found.append(site)
        return found

    # -- finding --------------------------------------------------------------------------------

    @cached_property
    def _free_sites(self) -> list[Site]:
        evidence = self._bench.evidence
        self._progress.stage("looking for what can be folded", len(evidence.groups))
        return self._worthwhile(free_sites(evidence, self._kinds))

    @cached_property
    def _costly_sites(self) -> list[Site]:
        return self._worthwhile(costly_sites(self._bench.evidence, self._kinds))

    def _worthwhile(self, sites: Sequence[Site]) -> list[Site]:
        whole = self._bench.bills.bill(())
        assert whole is not None
        return [site for site in sites if site.saved.matters(whole)]

    # -- judging --------------------------------------------------------------------------------

    def _saves(self, sites: Sequence[Site], already: Sequence[Site]) -> bool:
        """Whether the sites save what matters beside those already there, and cost nothing more."""
        bills = self._bench.bills
        whole, before, after = (bills.bill(_actions(some)) for some in ((), already, sites))
        if whole is None or before is None or after is None:
            return False
        more = after.weights_nbytes > before.weights_nbytes or after.macs > before.macs
        return not more and (before - after).matters(whole)

    def _is_faster(self, action: Action) -> bool:
        """Whether what an action merges is faster on this machine too; others only remove."""
        if action not in self._faster:
            effect = self._bench.bills.effect(action)
            merging = effect.merging if isinstance(effect, Effect) else None
            self._faster[action] = merging is None or self._merge_is_faster(action, merging)
        return self._faster[action]

    def _merge_is_faster(self, action: Action, merging: Merging) -> bool:
        bench = self._bench
        folded = bench.program.copy()
        reference = bench.evidence.reference(action.models[-1])
        for step in (*action.rewrites(reference), DropDead(), MergeLinear()):
            step.run(folded)
        # What is around may merge along: then only the whole model has the same two ends.
        known = folded.values()
        if merging.source in known and merging.result in known:
            source, results = [merging.source], [merging.result]
        else:
            source, results = None, list(bench.program.models[action.models[-1]].outputs.values())
        seed = bench.case.options.seed
        before, after = best_seconds([bench.program, folded], source, results, seed=seed)
        return after <= before


def _is_free(compared: Sequence[OutputComparison]) -> bool:
    return all(output.met and 1.0 - output.explained <= _FREE for output in compared)


def _actions(sites: Sequence[Site]) -> list[Action]:
    return [site.action for site in sites]
