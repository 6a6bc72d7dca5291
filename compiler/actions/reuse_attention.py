"""Reuse an attention map: a later layer attends as an earlier one does (Reuse Transformers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...passes.base import Pass
from ...passes.reuse_attention import ReuseAttention
from ..execution.statistics import AttentionMeasure, StatisticsObserver
from ..fitting.effort import SURVEY
from ..fitting.reference import Reference
from ..graph.program import Program, own_name
from ..structure.activation_functions import attention_pairs, may_be_alike
from ..structure.cost import cost_of_only
from .action import Disturbed, Effect, OneModel, Swap
from .bill import Bill
from .evidence import Evidence
from .freeze_branch import values_read_into
from .site import Site, Sites, owners_of

# Maps that are less alike than this are no sites: what they lose is never worth a measurement.
_LEAST_R2 = 0.5


@dataclass(frozen=True)
class ReuseAttentionAction(OneModel):
    """The attention map `earlier` serves a later layer too, in the place of its own `value`."""

    kind: ClassVar[str] = "reuse-attention"

    earlier: str
    value: str

    @property
    def place(self) -> str:
        """The model, the later map and the earlier one that stands in its place."""
        return f"{self.model}: {own_name(self.value)} <- {own_name(self.earlier)}"

    def __str__(self) -> str:
        return f"{self.model} uses {own_name(self.earlier)} for {own_name(self.value)}"

    def effect(self, program: Program) -> Effect | str:
        """What read the later map reads the earlier one."""
        values = program.values()
        earlier, value = values[self.earlier], values[self.value]
        order = {tensor.name: i for i, n in enumerate(program.graph.nodes) for tensor in n.outputs}
        if earlier is value or earlier.dtype != value.dtype:
            return "the one cannot stand in the other's place"
        if not may_be_alike(earlier.shape, value.shape):
            return "the two differ in shape"
        if order.get(earlier.name, -1) > order.get(value.name, -1):
            return f"'{own_name(earlier.name)}' is made after '{own_name(value.name)}'"
        mine = frozenset({value.name})
        return Effect(mine, swaps=(Swap(value.name, (earlier.name,)),), owns=mine)

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The swap."""
        return [ReuseAttention(self.earlier, self.value)]

    def disturbed(self, program: Program) -> Disturbed:
        """What the readers of the later map make."""
        return Disturbed(values_read_into(program, self.value))


def request(evidence: Evidence, group: tuple[str, ...]) -> None:
    """Have the attention maps of adjacent layers compared."""
    evidence.request(group, ReuseAttentionAction.kind, lambda: _maps(evidence.program, group))


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """Pairs of attention maps that are alike, by the variance that is not."""
    program, name, sites = evidence.program, ReuseAttentionAction.kind, Sites()
    owners = owners_of(program)
    measured = evidence.seen(group, name, lambda: _maps(program, group))
    for (earlier, later), r2 in measured.found.attention.items():
        if later in owners and r2 >= _LEAST_R2:
            saved = Bill(*cost_of_only(program, later, keep={earlier}))
            action = ReuseAttentionAction(owners[later], earlier, later)
            sites.found.append(Site(action, saved, max(0.0, 1 - r2)))
    return sites


def _maps(program: Program, models: Sequence[str]) -> StatisticsObserver:
    pairs = attention_pairs(program, models)
    return StatisticsObserver([AttentionMeasure(*pair) for pair in pairs], SURVEY.frames)
