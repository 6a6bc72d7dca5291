"""Closed-form reconstruction: give linear operators new weights so that they produce, on what the
rewritten network feeds them, what the original network produced there.

W <- W0 + (G + lambda D)^-1 (H - G W0), G = sum x'x'^T, H = sum x't^T, with x' the operator's
input in the rewritten network and t its target in the original one. No labels, no gradients.
Related: PLeaS (arXiv 2407.02447), ReplaceMe (2505.02819), He et al. 2017 (channel pruning).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from ..execution.rows import value_rows
from ..graph.arrays import Array, Float32
from ..graph.program import Program, node_inputs
from .few_rows import ENOUGH, fit_on_few
from .operators import LinearOperator, linear_operator
from .pooling import Pool
from .reference import Reference, row_count
from .regression import RIDGE, Affine, Normal, Problem, fit, products_in_threads
from .unit_choice import columns_of, select_units
from .walk import Walk

# Rows that a choice of units goes by, per unknown and at least. One plan of twelve narrower layers
# of resnet44 had 9 % more error by 8 per unknown (1 152 rows); these two were not measured alone.
_CHOICE_ROWS_PER_UNKNOWN = 16
_CHOICE_ROWS = 8192


@dataclass(frozen=True)
class Target:
    """What an operator is fitted to.

    `value` is a value of the original program. Where the operator feeds an Add, `value` is the
    original's sum and `other` the rewritten program's other addend, so that the fit also repairs
    the skip path. `rectified` says that nothing but a ReLU reads the value. `pool` is set where
    the operator takes over what removed blocks did: its hidden layer then chooses its units anew.
    """

    value: str
    other: str | None = None
    rectified: bool = False
    pool: Pool | None = None


@products_in_threads()
def reconstruct(
    program: Program,
    operators: Sequence[tuple[LinearOperator, Target]],
    reference: Reference,
    outputs: Sequence[str],
) -> list[LinearOperator]:
    """Fit the operators, in the order given (topological), and write their new weights.

    `outputs` are the values the rewritten program is asked for later: they decide what has to
    be held while walking. Operators whose rows do not belong to frames keep their weights.
    Returns those that were fitted.
    """
    fitted: list[LinearOperator] = []
    pools = {id(t.pool.layer.maker.node): t.pool for _, t in operators if t.pool is not None}
    reference.collect(_wanted(operators, pools, reference))
    walk = Walk(program, reference.frames, outputs, unmoved(program, operators, pools, reference))
    fits = {id(operator.node) for operator, _ in operators}
    # Readers whose units are to be chosen: their layer is wide, or is not fitted anew.
    pooled = {id(p.layer.reader.node) for node, p in pools.items() if node not in fits}
    for operator, target in operators:
        if not reference.has(target.value):
            continue
        pool = pools.get(id(operator.node))
        if pool is not None and all(reference.has(unit.result.name) for unit in pool.units):
            rows = gathered(walk, reference, operator, target)
            pool.widen(program, _with_units(rows, operator, pool, reference))
            pooled.add(id(pool.layer.reader.node))
        elif id(operator.node) in pooled:
            assert target.pool is not None
            _choose_units(program, walk, reference, target, target.pool)
        else:
            rows = gathered(walk, reference, operator, target)
            operator.write(program, _solution(rows, operator, reference))
        fitted.append(operator)
    return fitted


def unmoved(
    program: Program,
    operators: Sequence[tuple[LinearOperator, Target]],
    pools: Mapping[int, Pool],
    reference: Reference,
) -> dict[str, list[Array]]:
    """The landmarks that neither what was rewritten nor what is to be fitted moves."""
    if reference.landmarks is None:
        return {}
    makers = [operator for operator, _ in operators]
    makers += [pool.layer.maker for pool in pools.values()]
    made = [tensor.name for operator in makers for tensor in operator.node.outputs]
    moved = {*made, *(t.name for node in downstream(program, made) for t in node.outputs)}
    before = reference.landmarks.before(program)
    return {name: batches for name, batches in before.items() if name not in moved}


def gathered(walk: Walk, reference: Reference, operator: LinearOperator, target: Target) -> Problem:
    """The operator's rows, once the walk has come to what it reads.

    They are the walk's memory: its next problem takes their place.
    """
    targets = reference.rows(target.value)
    x = walk.memory.rows(len(targets), operator.groups, operator.fan_in)
    centres: list[Float32] = []
    others: list[Float32] = []
    stop = 0

    def visit(start: int, count: int, arrays: dict[str, Array]) -> None:
        nonlocal stop
        picked = reference.positions(target.value, slice(start, start + count))
        made = x[stop : stop + picked.size]
        operator.rows(arrays[operator.source.name], picked, made)
        stop += picked.size
        # The first batch's mean is near enough to the mean of all, and there before the others.
        if not centres:
            centres.append(made.mean(axis=0))
        made -= centres[0]
        if target.other is not None:
            others.append(value_rows(arrays[target.other], picked, operator.channels_last))

    walk.advance([operator.source.name, *([target.other] if target.other else [])], visit)
    wanted = targets.reshape(len(x), operator.groups, -1)
    other = np.concatenate(others).reshape(wanted.shape) if others else None
    return Problem(x, wanted, other, target.rectified, centres[0])


def _solution(
    rows: Problem, operator: LinearOperator, reference: Reference, start: Affine | None = None
) -> Affine:
    start = start or operator.affine()
    ridge, unknowns = _ridge(reference, start), rows.x.shape[2] + 1
    enough = min(ENOUGH, reference.size.rows_per_unknown)
    if len(rows.x) < enough * unknowns and rows.centre is not None:
        return fit_on_few(rows, start, operator.fits_bias, ridge)
    return fit(rows, start, fit_bias=operator.fits_bias, ridge=ridge)


def _ridge(reference: Reference, start: Affine | None) -> float:
    # A new adapter has no old weights to be held to.
    return RIDGE if start is None or not start.weight.any() else reference.size.ridge


def _with_units(
    rows: Problem, operator: LinearOperator, pool: Pool, reference: Reference
) -> list[Affine]:
    """New weights of the layer, and such as make the removed blocks' units from what it reads."""
    start = operator.affine()
    normal = Normal(rows, operator.fits_bias, _ridge(reference, start))
    found = [normal.fit(rows, start)]
    if not operator.fits_bias:
        normal = Normal(rows)
    for unit, start in zip(pool.units, pool.starts()):
        wanted = reference.rows(unit.result.name)[:, None]
        rectified = all(node.op == "Relu" for node in unit.result.outputs)
        problem = replace(rows, wanted=wanted, other=None, rectified=rectified)
        ridge = RIDGE if start is None else reference.size.ridge
        found.append(normal.at_ridge(ridge).fit(problem, start))
    return found


def _choose_units(
    program: Program, walk: Walk, reference: Reference, target: Target, pool: Pool
) -> None:
    """Leave a layer the best of its units, as many as it is to have, and fit what reads them."""
    wide = linear_operator(pool.layer.reader.node)
    assert wide is not None
    rows = gathered(walk, reference, wide, target)
    start = pool.sum_of_readers()
    few = rows.some(max(_CHOICE_ROWS, _CHOICE_ROWS_PER_UNKNOWN * wide.fan_in))
    kept = select_units(few, pool.width, pool.kept, start.weight[0])
    source = wide.source.name
    reader = pool.narrow(program, kept)
    walk.keep_channels(source, kept, -1 if reader.channels_last else 1)
    columns = columns_of(kept, wide.fan_in // pool.width)
    near = Affine(start.weight[:, columns], start.bias)
    reader.write(program, _solution(rows.narrowed(columns), reader, reference, near))


def _wanted(
    operators: Sequence[tuple[LinearOperator, Target]],
    pools: Mapping[int, Pool],
    reference: Reference,
) -> dict[str, tuple[int, bool]]:
    """How many rows of which values the fits need."""
    wanted: dict[str, tuple[int, bool]] = {}

    def want(value: str, rows: int, channels_last: bool) -> None:
        wanted[value] = (max(rows, wanted.get(value, (0, False))[0]), channels_last)

    for operator, target in operators:
        columns = target.pool.columns if target.pool is not None else None
        rows = row_count(operator, reference.size, columns)
        want(target.value, rows, operator.channels_last)
    # Units at the positions of the layer's own rows, which the same inputs explain; so layers that
    # may choose the same units need the same rows, and so do those that they share others with.
    for _ in pools:
        for operator, target in operators:
            pool = pools.get(id(operator.node))
            for unit in pool.units if pool is not None else ():
                want(unit.result.name, *wanted[target.value])
                want(target.value, *wanted[unit.result.name])
    return wanted


def downstream(program: Program, values: Sequence[str]) -> list[gs.Node]:
    """The nodes that depend on any of `values`, in topological order."""
    reached = set(values)
    found: list[gs.Node] = []
    for node in program.graph.nodes:
        if any(tensor.name in reached for tensor in node_inputs(node)):
            found.append(node)
            reached.update(tensor.name for tensor in node.outputs)
    return found
