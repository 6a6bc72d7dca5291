"""Evidence from frames in memory, for tests of what finds sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from repsimc.compiler.actions.bill import Bills
from repsimc.compiler.actions.kinds import chosen, free_sites
from repsimc.compiler.actions.site import Site
from repsimc.compiler.execution.observing import Observer, observe
from repsimc.compiler.execution.statistics import (
    ConstantMeasure,
    StatisticsObserver,
    smallest_constant,
)
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.program import Program
from repsimc.compiler.structure.activation_functions import addends
from tests.nets.networks import ArrayFrames

_O = TypeVar("_O", bound=Observer)


class GivenEvidence:
    """What `Evidence` says, of a program whose models all see the same frames."""

    def __init__(self, program: Program, frames: ArrayFrames, precision: str = "fp32") -> None:
        self.program = program
        self.frames = frames
        self.groups = (tuple(program.models),)
        self.constant_inputs = self.still = frozenset[str]()
        self.bills = Bills(program, self.constant_nbytes)
        self.seed = 0
        self.precision = precision
        self.target = "any"
        self._seen: dict[str, Observer] = {}

    def request(self, group: tuple[str, ...], name: str, make: Callable[[], Observer]) -> None:
        self.seen(group, name, make)

    def seen(self, group: tuple[str, ...], name: str, make: Callable[[], _O]) -> _O:
        if name not in self._seen:
            self._seen[name] = make()
            observe(self.program, lambda limit: self.frames, [self._seen[name]])
        return cast(_O, self._seen[name])

    def constants(self, group: tuple[str, ...]) -> StatisticsObserver:
        def made() -> StatisticsObserver:
            return StatisticsObserver(
                [ConstantMeasure(n) for n in addends(self.program.graph.nodes)]
            )

        return self.seen(group, "constants", made)

    def reference(self, model: str) -> Reference:
        return Reference(self.program, self.frames)

    def constant_nbytes(self, value: str) -> int:
        array = self.constants(self.groups[0]).found.constants.get(value)
        return 0 if array is None else smallest_constant(array).nbytes


def free_sites_of(program: Program, frames: ArrayFrames, kind: str) -> list[Site]:
    """The sites of one kind among those that may be free."""
    found = free_sites(GivenEvidence(program, frames), chosen())
    return [site for site in found if site.action.kind == kind]
