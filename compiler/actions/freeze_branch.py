"""Freeze a branch that is the same on every frame into a constant."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from ...passes.base import Pass
from ...passes.freeze_branch import FreezeBranch
from ..execution.statistics import fits_any_size, smallest_constant
from ..fitting.reference import Reference
from ..graph.free_size import same_for_any_size
from ..graph.program import Program, node_inputs, own_name
from ..structure.cost import cost_of_only
from ..structure.linear_maps import fixed_values
from .action import Disturbed, Effect, OneModel, Swap
from .bill import Bill
from .evidence import Evidence
from .site import Site, Sites, owners_of

# A value that is the same on fewer frames than this is not called constant.
_FEWEST_FRAMES = 16
_BROADCASTS = frozenset({"Add", "Mul", "Sub", "Div"})


@dataclass(frozen=True)
class FreezeBranchAction(OneModel):
    """A value that is the same on every frame becomes a constant; what made it goes."""

    kind: ClassVar[str] = "freeze-branch"

    value: str

    def __str__(self) -> str:
        return f"{self.model} takes {own_name(self.value)} for a constant"

    def effect(self, program: Program) -> Effect | str:
        """Its readers read a constant."""
        value, name = program.values()[self.value], own_name(self.value)
        if not value.inputs or value.name in fixed_values(program):
            return (
                f"'{name}' is an input or output of the model, or a body of If, Loop or Scan reads "
                "it"
            )
        for node in value.outputs:
            # Readers that broadcast: the other operand has the shape of the result.
            shape = node.outputs[0].shape
            others = [t for t in node.inputs if t is not value and isinstance(t, gs.Variable)]
            full = any(same_for_any_size(other.shape, shape) for other in others)
            if node.op not in _BROADCASTS or not full:
                return (
                    f"{node.op} '{own_name(node.name)}' cannot read a constant in the place of "
                    f"'{name}'"
                )
        made = frozenset({value.name})
        return Effect(made, swaps=(Swap(value.name, ()),), owns=made)

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The constant in its place."""
        return [FreezeBranch(self.value, reference)]

    def disturbed(self, program: Program) -> Disturbed:
        """What the readers of the value make."""
        return Disturbed(values_read_into(program, self.value))


def request(evidence: Evidence, group: tuple[str, ...]) -> None:
    """Have constants looked for."""
    evidence.request_constants(group)


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """Values that never change on enough frames."""
    program, statistics, sites = evidence.program, evidence.constants(group).found, Sites()
    owners, known = owners_of(program), program.values()
    for value, array in statistics.constants.items():
        constant = smallest_constant(array)
        if value not in owners or not fits_any_size(constant, known[value]):
            continue
        enough = statistics.frames >= _FEWEST_FRAMES
        if enough and _moves(program, value, evidence.constant_inputs):
            nbytes, macs = cost_of_only(program, value)
            saved = Bill(nbytes - constant.nbytes, macs)
            sites.found.append(Site(FreezeBranchAction(owners[value], value), saved, 0.0))
    return sites


def _moves(program: Program, value: str, constant_inputs: Collection[str]) -> bool:
    """Whether the value depends on an input that changes from frame to frame.

    One that does not is the same only because frames gave its inputs one array.
    """
    nodes = program.needed_nodes([program.values()[value]])
    read = {tensor.name for node in nodes for tensor in node_inputs(node)}
    return not constant_inputs or bool(read & program.input_names - set(constant_inputs))


def values_read_into(program: Program, value: str) -> tuple[str, ...]:
    """What the readers of a value make."""
    known = program.values().get(value)
    readers = [] if known is None else known.outputs
    return tuple(dict.fromkeys(t.name for node in readers for t in node.outputs if t.name))
