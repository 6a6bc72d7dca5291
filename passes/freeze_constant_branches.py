"""Replace branches that the graph alone proves to be constant."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ..compiler.graph.edit import is_float
from ..compiler.graph.free_size import same_for_any_size
from ..compiler.graph.program import Program, is_standard
from ..compiler.graph.weights import nbytes_of
from ..compiler.structure.bounds import bounds_of
from .base import Change

_BROADCASTS = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"})


@dataclass(frozen=True)
class FreezeConstantBranches:
    """Values that have one number per channel whatever the model is fed become that number.

    A branch through a factor or a filter of zeros (a LayerScale or a last norm that never left
    its start), or through a ReLU of what is never positive. Normalise folds what depends on
    constants alone; this finds what depends on the input in name only. Readers that broadcast
    take the constant; drop-dead removes the branch.
    """

    name: ClassVar[str] = "freeze-constant-branches"
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> list[Change]:
        """One change for every value that is read as a constant now."""
        changes: list[Change] = []
        bounds = bounds_of(program)
        names = program.names()
        present = {id(node) for node in program.graph.nodes}
        for name, value in program.values().items():
            known = bounds.get(name)
            if known is None or not known.constant().all() or not is_float(value):
                continue
            if value.shape is None:
                continue
            numbers = known.low if np.ptp(known.low) else known.low[:1]
            axis = -1 if known.axis is None else known.axis
            rank = len(value.shape)
            sizes = [-1] + [1] * (rank - 1 - axis % rank) if numbers.size > 1 else []
            array = numbers.reshape(sizes) if sizes else numbers.reshape(())
            reads = constant_reads(value, present)
            if reads:
                constant = gs.Constant(
                    names.free(f"{name}.constant"), array.astype(np.dtype(value.dtype))
                )
                replace_reads(reads, constant)
                what = f"'{name}' is the same whatever the model is fed"
                changes.append(Change(what, value.inputs[0].name, -nbytes_of(constant)))
        return changes


def constant_reads(value: gs.Variable, present: Container[int]) -> list[tuple[gs.Node, int]]:
    """Where readers that broadcast read `value`: the nodes (of those in `present`) and inputs.

    Only where another operand has the shape of the result, which then does not change.
    """
    found: list[tuple[gs.Node, int]] = []
    for node in {id(node): node for node in value.outputs}.values():
        if not is_standard(node) or node.op not in _BROADCASTS:
            continue
        if id(node) not in present:
            continue  # in the body of an If, Loop or Scan
        shape = node.outputs[0].shape
        others = [t for t in node.inputs if t is not value and isinstance(t, gs.Variable)]
        if shape is None or not any(same_for_any_size(other.shape, shape) for other in others):
            continue
        found += [(node, index) for index, tensor in enumerate(node.inputs) if tensor is value]
    return found


def replace_reads(reads: Iterable[tuple[gs.Node, int]], constant: gs.Constant) -> None:
    """Let those inputs read `constant` instead."""
    for node, index in reads:
        node.inputs[index] = constant
