"""Whether what an action merges is faster on this machine too: fewer operations may take longer."""

from __future__ import annotations

from ...passes.drop_dead import DropDead
from ...passes.merge_linear import MergeLinear
from ..actions.action import Action, Effect, Merging
from ..execution.latency import best_seconds
from .workbench import Workbench

# Times of one operation differ by so much from one measurement to the next.
_NOISE = 1.1


class Merges:
    """Measures what actions of a workbench merge, each once."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._faster: dict[Action, bool] = {}

    def is_faster(self, action: Action) -> bool:
        """Whether what the action merges is faster; others only remove."""
        if action not in self._faster:
            effect = self._bench.bills.effect(action)
            merging = effect.merging if isinstance(effect, Effect) else None
            self._faster[action] = merging is None or self._is_faster(action, merging)
        return self._faster[action]

    def _is_faster(self, action: Action, merging: Merging) -> bool:
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
        return after <= _NOISE * before
