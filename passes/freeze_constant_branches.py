"""Replace branches that the graph alone proves to be constant."""

from __future__ import annotations

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
            constant = gs.Constant(
                program.unique_name(f"{name}.constant"), array.astype(np.dtype(value.dtype))
            )
            moved = replace_reads(program, value, constant)
            if moved:
                what = f"'{name}' is the same whatever the model is fed"
                changes.append(Change(what, value.inputs[0].name, -nbytes_of(constant)))
        return changes


def replace_reads(program: Program, value: gs.Variable, constant: gs.Constant) -> int:
    """Readers that broadcast read `constant` instead of `value`; how many reads were moved.

    Only where another operand has the shape of the result, which then does not change.
    """
    moved = 0
    for node in list(value.outputs):
        if not is_standard(node) or node.op not in _BROADCASTS:
            continue
        if not any(node is known for known in program.graph.nodes):
            continue  # in the body of an If, Loop or Scan
        shape = node.outputs[0].shape
        others = [t for t in node.inputs if t is not value and isinstance(t, gs.Variable)]
        if shape is None or not any(same_for_any_size(other.shape, shape) for other in others):
            continue
        for index, tensor in enumerate(node.inputs):
            if tensor is value:
                node.inputs[index] = constant
                moved += 1
    return moved
