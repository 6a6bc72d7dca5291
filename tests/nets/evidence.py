"""Evidence from frames in memory, for tests of what finds sites."""

from __future__ import annotations

from collections.abc import Sequence

from repsimc.compiler.actions.bill import Bills
from repsimc.compiler.actions.kinds import chosen, free_sites
from repsimc.compiler.actions.site import Site
from repsimc.compiler.execution.samples import Samples, sample_values
from repsimc.compiler.execution.statistics import (
    Statistics,
    measure_statistics,
    smallest_constant,
)
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.fitting.shared_weight import measure_ties
from repsimc.compiler.graph.program import Program
from tests.nets.networks import ArrayFrames


class GivenEvidence:
    """What `Evidence` says, of a program whose models all see the same frames."""

    def __init__(self, program: Program, frames: ArrayFrames) -> None:
        self.program = program
        self.frames = frames
        self.groups = (tuple(program.models),)
        self.constant_inputs = self.still = frozenset[str]()
        self.bills = Bills(program, self.constant_nbytes)

    def statistics(self, group: tuple[str, ...]) -> Statistics:
        return measure_statistics(self.program, self.frames, group)

    def ties(self, group: tuple[str, ...]) -> dict[tuple[str, ...], float]:
        return measure_ties(self.program, self.frames, group)

    def samples(self, group: tuple[str, ...], values: Sequence[str]) -> Samples:
        return sample_values(self.program, values, self.frames)

    def reference(self, model: str) -> Reference:
        return Reference(self.program, self.frames)

    def constant_nbytes(self, value: str) -> int:
        array = self.statistics(self.groups[0]).constants.get(value)
        return 0 if array is None else smallest_constant(array).nbytes


def free_sites_of(program: Program, frames: ArrayFrames, kind: str) -> list[Site]:
    """The sites of one kind among those that may be free."""
    found = free_sites(GivenEvidence(program, frames), chosen())
    return [site for site in found if site.action.kind == kind]
