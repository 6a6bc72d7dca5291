"""Refit: repair what is downstream of a rewrite by closed-form least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_graphsurgeon as gs

from ..compiler.fitting.gaps import pools_of, stand_ins
from ..compiler.fitting.operators import LinearOperator, linear_operator
from ..compiler.fitting.reconstruction import Target, downstream, reconstruct
from ..compiler.fitting.reference import Reference
from ..compiler.graph.eight_bits import after_rounding
from ..compiler.graph.program import Program, node_inputs
from .base import Change


@dataclass(frozen=True)
class Refit:
    """Give every linear operator downstream of a rewrite weights that repair the damage.

    Walks the operators in topological order; each is solved again so that it produces, from what
    the rewritten network feeds it, what the original network produced there. Weights that other
    nodes read too are left alone: new ones would cost memory.
    """

    name: ClassVar[str] = "refit"
    exact: ClassVar[bool] = False

    values: tuple[str, ...]
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """Refit all operators that depend on `values` (program value names)."""
        reference = self.reference
        operators = refit_operators(
            program, reference.program, self.values, reference.size.pools_behind
        )
        return fit_again(program, operators, reference, self.values, self.name)


def fit_again(
    program: Program,
    operators: Sequence[tuple[LinearOperator, Target]],
    reference: Reference,
    values: Sequence[str],
    by: str,
) -> list[Change]:
    """One change for every operator that was fitted; `values` are what moved, `by` is the pass."""
    operators = _within_reach(operators, reference.size.reach)
    reached = {t.name for node in downstream(program, values) for t in node.outputs}
    outputs = [value.name for value in program.graph.outputs if value.name in reached]
    fitted = reconstruct(program, operators, reference, outputs)
    for operator in fitted:
        program.note_fit(operator.node.name, by)
    return [Change("refitted to the original's output", op.node.name) for op in fitted]


def _within_reach(
    operators: Sequence[tuple[LinearOperator, Target]], reach: int | None
) -> Sequence[tuple[LinearOperator, Target]]:
    """The first of the operators; units are only chosen where what reads them is among these."""
    if reach is None:
        return operators
    near = operators[:reach]
    fits = {id(operator.node) for operator, _ in near}
    return [
        (operator, target)
        if target.pool is None or id(target.pool.layer.reader.node) in fits
        else (operator, replace(target, pool=None))
        for operator, target in near
    ]


def refit_operators(
    program: Program, original: Program, values: Sequence[str], behind: bool = False
) -> list[tuple[LinearOperator, Target]]:
    """The operators a refit writes, in topological order, each with its target.

    Of a gap among `values` the operator before it is one too: it has to produce what the
    region's end was, and where it has a hidden layer it chooses that layer's units anew. So does,
    with `behind`, a hidden layer that reads what the gap leaves.
    """
    places = stand_ins(program, original)
    known = set(original.values()) | set(places.place)
    outputs = program.output_names
    before = [maker for maker in places.makers.values() if maker.adapter in values]
    starts = [*values, *(maker.operator.result.name for maker in before)]
    included = {id(node) for node in downstream(program, starts)}
    included |= {id(maker.operator.node) for maker in before}
    linear = {id(n): op for n in program.graph.nodes if (op := linear_operator(n)) is not None}
    included |= {
        node  # the maps that collapses left in the regions' places
        for node, operator in linear.items()
        if program.note(operator.node.name).gap and operator.result.name in values
    }
    gaps = [maker for node, maker in places.makers.items() if node in included]
    readers = [op for node, op in linear.items() if node in included] if behind else []
    pools = pools_of(program, original, gaps, readers)
    included |= {id(pool.layer.maker.node) for pool in pools.values()}
    operators: list[LinearOperator] = []
    for node in program.graph.nodes:
        operator = linear.get(id(node)) if id(node) in included else None
        if operator is None or len(operator.weight.outputs) != 1:
            continue
        if operator.bias_node is not None and operator.node.outputs[0].name in outputs:
            continue  # fitted to what follows its bias, the product itself would move
        if operator.result.name in known:
            operators.append(operator)
    targets: list[tuple[LinearOperator, Target]] = []
    for index, operator in enumerate(operators):
        target = _target(program, operator, operators[index + 1 :], known)
        goal = places.goal(target.value)
        targets.append((operator, replace(target, value=goal, pool=pools.get(id(operator.node)))))
    return targets


def _target(
    program: Program, operator: LinearOperator, later: Sequence[LinearOperator], known: set[str]
) -> Target:
    outputs = {value.name for value in program.graph.outputs}
    result = operator.result
    read = after_rounding(program, result)
    readers = read.outputs
    if len(readers) == 1 and readers[0].op == "Add" and result.name not in outputs:
        add = readers[0]
        other = next((t for t in add.inputs if t is not read), None)
        total = add.outputs[0]
        if (
            isinstance(other, gs.Variable)
            and other.shape is not None
            and other.shape == result.shape
            and total.name in known
            and not _depends_on(other, {id(op.node) for op in later})
        ):
            return Target(total.name, other.name, is_rectified(total, outputs))
    return Target(result.name, None, is_rectified(result, outputs))


def is_rectified(value: gs.Tensor, outputs: set[str]) -> bool:
    """Whether nothing but ReLUs reads the value, so that its negative part does not matter."""
    return (
        bool(value.outputs)
        and value.name not in outputs
        and all(reader.op == "Relu" for reader in value.outputs)
    )


def _depends_on(value: gs.Tensor, nodes: set[int]) -> bool:
    stack, seen = [value], set[int]()
    while stack:
        for node in stack.pop().inputs:
            if id(node) in nodes:
                return True
            if id(node) not in seen:
                seen.add(id(node))
                stack.extend(node_inputs(node))
    return False
