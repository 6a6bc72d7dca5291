"""Store weights in few bits: rounded one by one, each fitted to what those before it left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.fitting.operators import LinearOperator, linear_operator
from ..compiler.fitting.reconstruction import Target
from ..compiler.fitting.reference import Reference
from ..compiler.fitting.rounding import WeightGrid
from ..compiler.fitting.storing import round_alone, round_in_a_walk
from ..compiler.graph.program import Program
from ..compiler.graph.stored_weight import StoredWeight
from ..compiler.graph.weights import nbytes_of
from .base import Change
from .refit import refit_operators


@dataclass(frozen=True)
class StoreInFewBits:
    """Round the weights of operators to grids, in topological order.

    Each operator is solved again for what it is fed once the ones before it are rounded, and what
    it produced in the original network; then its weight is rounded with error feedback on the same
    rows, and its bias solved once more. Operators that no fit may write (their weight is read by
    others, too, or what they make is not the original's) are rounded as they are.
    """

    name: ClassVar[str] = "store-in-few-bits"
    exact: ClassVar[bool] = False

    stored: tuple[tuple[str, int], ...]
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """One change for every weight that was rounded."""
        grids = {name: WeightGrid(bits) for name, bits in self.stored}
        before = {
            node.name: nbytes_of(operator.weight)
            for node in program.graph.nodes
            if node.name in grids
            and (operator := linear_operator(node)) is not None
            and not isinstance(operator.weight, StoredWeight)
        }
        fitted = self._fitted(program, set(before))
        found = {operator.node.name for operator, _ in fitted}
        done: list[str] = []
        for node in list(program.graph.nodes):
            operator = linear_operator(node) if node.name in before else None
            if operator is None or node.name in found:
                continue
            # Of several that read one weight the first has rounded it for all.
            known = isinstance(operator.weight, StoredWeight)
            if not known and round_alone(program, operator, grids[node.name]):
                done.append(node.name)
        outputs = [value.name for value in program.graph.outputs]
        for operator in round_in_a_walk(program, fitted, grids, self.reference, outputs):
            program.note_fit(operator.node.name, self.name)
            done.append(operator.node.name)
        return [self._change(program, name, before[name], grids[name]) for name in done]

    def _change(self, program: Program, name: str, before: int, grid: WeightGrid) -> Change:
        weight = program.node(name).inputs[1]
        assert isinstance(weight, StoredWeight)
        return Change(f"stored in {grid.bits} bits", name, before - nbytes_of(weight))

    def _fitted(self, program: Program, names: set[str]) -> list[tuple[LinearOperator, Target]]:
        """The operators that are fitted again, with what they are fitted to."""
        original = self.reference.program.values()
        sources = [
            operator.source.name
            for node in program.graph.nodes
            if node.name in names and (operator := linear_operator(node)) is not None
        ]
        found: list[tuple[LinearOperator, Target]] = []
        for operator, target in refit_operators(program, self.reference.program, sources):
            wanted, present = original[target.value].shape, operator.result.shape
            same = wanted is not None and present is not None and list(wanted) == list(present)
            if operator.node.name in names and same:
                found.append((operator, target))
        return found
