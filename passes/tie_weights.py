"""Let layers of one shape share one weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ..compiler.execution.executable import Executable
from ..compiler.execution.feeds import run_on
from ..compiler.fitting.operators import LinearOperator, linear_operator
from ..compiler.fitting.reference import FitSize, Reference, row_count
from ..compiler.fitting.regression import Affine
from ..compiler.fitting.shared_weight import joint_fit, may_tie
from ..compiler.graph.arrays import Float32
from ..compiler.graph.free_size import equal_shapes
from ..compiler.graph.program import Program
from ..compiler.graph.weights import nbytes_of
from .base import Change
from .refit import refit_operators


@dataclass(frozen=True)
class TieWeights:
    """Operators of one shape get one weight between them; each keeps a bias of its own.

    The weight is the least-squares fit to what all of them produced in the original network, from
    what each is fed now; those that are gone are passed over. Layer Consistency, MPruner's clusters
    (arXiv 2408.13482), closed form.
    """

    name: ClassVar[str] = "tie-weights"
    exact: ClassVar[bool] = False

    nodes: tuple[str, ...]
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """One change for every operator that lost its own weight."""
        by_name = {node.name: node for node in program.graph.nodes}
        left = [by_name[name] for name in self.nodes if name in by_name]
        operators = [linear_operator(node) for node in left]
        found = [operator for operator in operators if operator is not None]
        if len(found) < len(operators) or not may_tie(found):
            return []
        fitted = self._fitted(program, found)
        if fitted is None:
            return []
        freed = [nbytes_of(op.weight) if len(op.weight.outputs) == 1 else 0 for op in found]
        if len({id(operator.weight) for operator in found}) == 1:
            return []
        for operator, affine in zip(found, fitted):
            operator.write(program, affine)
            program.note_fit(operator.node.name, self.name)
        kept = found[0].node.inputs[1]
        assert isinstance(kept, gs.Constant)
        changes = [Change("got the weight of all", found[0].node.name)]
        for operator, nbytes in zip(found[1:], freed[1:]):
            operator.node.inputs[1] = kept
            what = f"shares the weight of '{found[0].node.name}'"
            changes.append(Change(what, operator.node.name, nbytes))
        return changes

    def _fitted(self, program: Program, operators: Sequence[LinearOperator]) -> list[Affine] | None:
        if not self._make_what_they_made(program, operators):
            return None
        size = FitSize(self.reference.size.rows_per_unknown)
        rows = max(1, row_count(operators[0], size) // len(operators))
        wanted = {op.result.name: (rows, op.channels_last) for op in operators}
        self.reference.collect(wanted)
        if not all(self.reference.has(name) for name in wanted):
            return None
        inputs = [rows_of(program, operator, self.reference) for operator in operators]
        targets = [
            self.reference.rows(op.result.name).reshape(len(x), x.shape[1], -1)
            for op, x in zip(operators, inputs)
        ]
        return joint_fit(operators, inputs, targets)

    def _make_what_they_made(self, program: Program, operators: Sequence[LinearOperator]) -> bool:
        """Whether all have to make what they made in the original, in its shape.

        Not so before a gap, where one makes up for what is gone, and in a layer that chose its
        units anew. (A repair of the skip path, as a refit does it, would be made once by each.)
        """
        original = self.reference.program
        sources = [operator.source.name for operator in operators]
        known = {id(op.node): t for op, t in refit_operators(program, original, sources)}
        pools = [target.pool for target in known.values() if target.pool is not None]
        chosen = {id(part.node) for p in pools for part in (p.layer.maker, p.layer.reader)}
        values = original.values()
        for operator in operators:
            target, result = known.get(id(operator.node)), operator.result
            if target is None or id(operator.node) in chosen:
                return False
            added = {tensor.name for node in result.outputs for tensor in node.outputs}
            if target.value not in ({result.name} if target.other is None else added):
                return False
            wanted, present = values[result.name].shape, result.shape
            if wanted is None or present is None or not equal_shapes(wanted[1:], present[1:]):
                return False
        return True


def rows_of(program: Program, operator: LinearOperator, reference: Reference) -> Float32:
    """Receptive fields of the operator in `program`, where the reference has rows of its result."""
    result, source = operator.result.name, operator.source.name
    batches = run_on(reference.frames, Executable(program, None, [source]))
    return np.concatenate(
        [
            operator.rows(arrays[source], reference.positions(result, batch))
            for batch, arrays in batches
        ]
    )
