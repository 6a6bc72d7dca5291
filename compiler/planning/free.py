"""Folds beside sharing and depth: those that cost nothing, and those that are worth measuring.

What is (nearly) linear, dead, constant or alike on the frames is found by one pass over them. As
with sharing and depth, statistics only rank: a fold is taken because the outputs were compared
after it was carried out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ...passes.drop_dead import DropDead
from ...passes.fold_activation import FoldActivation
from ...passes.merge_linear import MergeLinear
from ..actions.bill import Bill
from ..actions.fold_actions import FoldAction, FoldActivationAction
from ..actions.fold_effects import Merging
from ..actions.fold_sites import FoldSite, find_fold_sites
from ..actions.narrowing import find_narrow_sites
from ..execution.executable import Executable
from ..execution.feeds import fit_feeds, run_groups
from ..execution.outputs import OutputComparison
from ..execution.statistics import measure_statistics, smallest_constant
from ..fitting.shared_weight import measure_ties
from ..frames.calibration import Frames
from ..graph.program import Program
from ..progress import Progress
from .damage import as_promised
from .plan import Action, PlannedAction
from .trials import Trials
from .workbench import Planned, Workbench

# Sites measured one by one beside the regions, those of least expected damage per saving first.
LOOKS = 32
# Frames that statistics are taken over: "never on" is as good as the frames that say so.
STATISTICS_FRAMES = 1024
# A site may be free if it is expected to lose at most this share of a value's variance, and is if
# no output then loses more than this share of its own on held-out frames.
_FREE = 1e-4
# A site that saves less than this share of all multiply-accumulates and of all weight bytes is not
# worth a line in the plan.
_LEAST_SHARE = 0.002
# Damage that is told apart from none when sites are ranked.
_LEAST_DAMAGE = 1e-3
# Runs of a merged operator, and of what it is to replace; the best of each counts.
_RUNS = 31


class FoldPlanner:
    """Finds folds for a workbench's program: free ones for every plan, others to try."""

    def __init__(
        self, bench: Workbench, trials: Trials, frames: Frames, seed: int, progress: Progress
    ) -> None:
        self._bench = bench
        self.trials = trials
        self._frames = frames
        self._seed = seed
        self._progress = progress
        self._faster: dict[FoldAction, bool] = {}

    @cached_property
    def free(self) -> Planned | None:
        """The program with all folds that leave its outputs as they are; None where there is none.

        Measured together, one by one only where they are not free together; fitted on all frames
        and compared on all held-out ones in the end.
        """
        sites = [site for site in self._sites if site.damage <= _FREE]
        chosen: list[FoldSite] = []
        for site in sites:
            if self._saves([*chosen, site], chosen) and self._is_faster(site.action):
                chosen.append(site)
        if chosen and not self._is_free(self.trials.run(_actions(chosen)).compared):
            single, chosen = chosen[:LOOKS], []
            for site in single:
                if self._is_free(self.trials.run(_actions([*chosen, site])).compared):
                    chosen.append(site)
        while chosen:
            needed = self._bench.skeleton.without_idle(_actions(chosen))
            chosen = [site for site in chosen if site.action in needed]
            program, compared = self._bench.apply(_actions(chosen))
            promised = self._bench.skeleton.bill(_actions(chosen))
            if self._is_free(compared) and promised is not None and as_promised(program, promised):
                least = min((output.value for output in compared), default=1.0)
                planned = tuple(
                    PlannedAction(s.action, s.saved_nbytes, s.saved_macs, None, least)
                    for s in chosen
                )
                return program, self._bench.plan_with(planned), compared
            chosen = chosen[: len(chosen) // 2]
        return None

    def candidates(self, held: Sequence[Action], worth: Callable[[Bill], float]) -> list[FoldSite]:
        """Sites to try beside `held`, the best first: at most `LOOKS` looks, half at one kind.

        Best is the least expected damage per saving; `worth(bill)` turns a cost into the amount
        that is to fall.
        """
        before = self._bench.skeleton.bill(held)
        if before is None:
            return []
        ranked: list[tuple[float, int, FoldSite]] = []
        for index, site in enumerate([*self._sites, *self._tie_sites, *self._narrow_sites]):
            after = self._bench.skeleton.bill([*held, site.action])
            saved = 0.0 if after is None else worth(before) - worth(after)
            if saved > 0 and site.action not in held:
                ranked.append((max(site.damage, _LEAST_DAMAGE) / saved, index, site))
        found: list[FoldSite] = []
        looks: set[object] = set()
        kinds: Counter[type[FoldAction]] = Counter()
        for _, _, site in sorted(ranked):
            kind = type(site.action)
            if site.look in looks:
                found.append(site)
            # Long runs of layers alike are many sites: they leave room for others.
            elif len(looks) < LOOKS and kinds[kind] < LOOKS // 2 and self._is_faster(site.action):
                kinds[kind] += 1
                looks.add(site.look)
                found.append(site)
        return found

    # -- finding --------------------------------------------------------------------------------

    @cached_property
    def _sites(self) -> list[FoldSite]:
        """All sites but ties, by expected damage."""
        program = self._bench.program
        groups = run_groups(self._frames)
        self._progress.stage("looking for what can be folded", len(groups))
        found: list[FoldSite] = []
        for group in groups:
            feeds = fit_feeds(program, self._frames, group[0], STATISTICS_FRAMES)
            statistics = measure_statistics(program, feeds, group)
            for value, array in statistics.constants.items():
                self._bench.skeleton.note_constant(value, smallest_constant(array).nbytes)
            found += find_fold_sites(program, statistics).sites
            self._progress.advance()
        return self._worthwhile(found)

    @cached_property
    def _tie_sites(self) -> list[FoldSite]:
        """Sites that tie weights. None is free, so they are looked for only under a budget."""
        program = self._bench.program
        found: list[FoldSite] = []
        for group in run_groups(self._frames):
            feeds = self.trials.reference(group[0]).frames
            # Many solves of few unknowns: threads cost more than they bring.
            with threadpool_limits(1, user_api="blas"):
                ties = measure_ties(program, feeds, group, self._seed)
            found += find_fold_sites(program, None, ties).sites
        return self._worthwhile(found)

    @cached_property
    def _narrow_sites(self) -> list[FoldSite]:
        """Hidden layers with fewer units, which are not free either."""
        found: list[FoldSite] = []
        for group in run_groups(self._frames):
            reference = self.trials.reference(group[0])
            program = self._bench.program
            found += find_narrow_sites(program, group, reference, self._bench.skeleton)
        return self._worthwhile(found)

    def _worthwhile(self, sites: Sequence[FoldSite]) -> list[FoldSite]:
        whole = self._bench.skeleton.bill(())
        assert whole is not None
        return [
            site
            for site in sites
            if site.saved_nbytes >= _LEAST_SHARE * whole.weights_nbytes
            or site.saved_macs >= _LEAST_SHARE * whole.macs
        ]

    # -- judging --------------------------------------------------------------------------------

    def _saves(self, sites: Sequence[FoldSite], already: Sequence[FoldSite]) -> bool:
        """Whether the sites cost less than those already there, and nothing more."""
        after = self._bench.skeleton.bill(_actions(sites))
        before = self._bench.skeleton.bill(_actions(already))
        if after is None or before is None or after == before:
            return False
        return after.weights_nbytes <= before.weights_nbytes and after.macs <= before.macs

    @staticmethod
    def _is_free(compared: Sequence[OutputComparison]) -> bool:
        return all(output.met and 1.0 - output.explained <= _FREE for output in compared)

    def _is_faster(self, action: FoldAction) -> bool:
        """Whether what a fold merges is faster on this machine too; other actions only remove."""
        if not isinstance(action, FoldActivationAction):
            return True
        if action not in self._faster:
            effect = self._bench.skeleton.effect(action)
            merging = None if isinstance(effect, str) else effect.merging
            self._faster[action] = merging is not None and self._merge_is_faster(action, merging)
        return self._faster[action]

    def _merge_is_faster(self, action: FoldActivationAction, merging: Merging) -> bool:
        program = self._bench.program
        folded = program.copy()
        steps = FoldActivation(action, self.trials.reference(action.model)), DropDead()
        for step in (*steps, MergeLinear()):
            step.run(folded)
        # What is around may merge along: then only the whole model has the same two ends.
        known = folded.values()
        if merging.source in known and merging.result in known:
            source, results = [merging.source], [merging.result]
        else:
            source, results = None, list(program.models[action.model].outputs.values())
        before, after = best_seconds([program, folded], source, results, seed=self._seed)
        return after <= before


def best_seconds(
    programs: Sequence[Program],
    sources: Sequence[str] | None,
    results: Sequence[str],
    seed: int = 0,
    runs: int = _RUNS,
) -> list[float]:
    """The best of so many runs from some values (None: the inputs) to others, on one thread.

    One frame of random numbers; the programs take turns. The best, since what else the machine
    does only adds.
    """
    segments = [Executable(program, sources, results, threads=1) for program in programs]
    known = programs[0].values()
    random = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for name in sorted({name for segment in segments for name in segment.inputs}):
        shape = [size if isinstance(size, int) else 1 for size in known[name].shape or ()]
        feeds[name] = np.asarray(random.normal(size=shape)).astype(np.dtype(known[name].dtype))
    best = [float("inf")] * len(segments)
    for _ in range(runs):
        for index, segment in enumerate(segments):
            segment(feeds)
            begun = time.perf_counter()
            segment(feeds)
            best[index] = min(best[index], time.perf_counter() - begun)
    return best


def _actions(sites: Sequence[FoldSite]) -> list[Action]:
    return [site.action for site in sites]
