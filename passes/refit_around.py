"""Refit what makes some values, and what follows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from ..compiler.analysis.linear import LinearOperator
from ..compiler.analysis.reconstruction import Reference, Target, downstream, reconstruct
from ..compiler.graph.program import PASS_KEY, Program, node_inputs
from .base import Change
from .refit import refit_operators


@dataclass(frozen=True)
class RefitAround:
    """Refit the operators that make `made`, and all that depend on them or on `values`.

    As refit, for rewrites that merge operators or take channels out: what makes a merged value is
    fitted too, and operators whose result has other channels than the original's are left alone.
    """

    name: ClassVar[str] = "refit-around"
    exact: ClassVar[bool] = False

    values: tuple[str, ...]
    reference: Reference
    made: tuple[str, ...] = ()

    def run(self, program: Program) -> list[Change]:
        """One change for every operator that was fitted."""
        known = program.values()
        starts = [name for name in self.values if name in known]
        starts += [
            tensor.name
            for name in self.made
            if name in known
            for node in _makers(known[name])
            for tensor in node_inputs(node)
            if tensor.name in known
        ]
        original = self.reference.program.values()
        operators: list[tuple[LinearOperator, Target]] = []
        for operator, target in refit_operators(program, self.reference.program, starts):
            wanted, present = original[target.value].shape, operator.result.shape
            if wanted is not None and present is not None and list(wanted) == list(present):
                operators.append((operator, target))
        reached = {t.name for node in downstream(program, starts) for t in node.outputs}
        outputs = [value.name for value in program.graph.outputs if value.name in reached]
        fitted = reconstruct(program, operators, self.reference, outputs) if operators else []
        for operator in fitted:
            program.metadata.setdefault(operator.node.name, {})[PASS_KEY] = self.name
        return [Change("refitted to the original's output", op.node.name) for op in fitted]


def _makers(value: gs.Tensor) -> list[gs.Node]:
    """The node that makes the value, and the product whose bias it adds."""
    nodes = list(value.inputs)
    for node in value.inputs:
        if node.op == "Add":
            nodes += [m for t in node.inputs for m in t.inputs if m.op == "MatMul"]
    return nodes
