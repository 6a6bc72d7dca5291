"""Weights on grids of few bits, in a walk: quantised front, float targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..graph.program import Program
from ..graph.stored_weight import stored
from .few_rows import ENOUGH, fit_on_few
from .operators import LinearOperator
from .reconstruction import Target, gathered, unmoved
from .reference import Reference, row_count
from .regression import Affine, Normal, Problem, products_in_threads
from .rounding import Rounded, WeightGrid, round_to_nearest, round_with_feedback
from .walk import Walk


@products_in_threads()
def round_in_a_walk(
    program: Program,
    operators: Sequence[tuple[LinearOperator, Target]],
    grids: Mapping[str, WeightGrid],
    reference: Reference,
    outputs: Sequence[str],
) -> list[LinearOperator]:
    """Fit the operators in the order given (topological), round their weights, and write both.

    `grids` go by node name; `outputs` are the values that the program is asked for later. What has
    no rows that belong to frames is rounded as it is. Returns those that were stored.
    """
    wanted = {
        target.value: (row_count(operator, reference.size), operator.channels_last)
        for operator, target in operators
    }
    reference.collect(wanted)
    walk = Walk(program, reference.frames, outputs, unmoved(program, operators, {}, reference))
    done: list[LinearOperator] = []
    for operator, target in operators:
        grid = grids[operator.node.name]
        if not reference.has(target.value):
            if round_alone(program, operator, grid):
                done.append(operator)
            continue
        if operator.channel_axis is None:
            continue
        rows = gathered(walk, reference, operator, target)
        affine, rounded = _rounded(rows, operator, reference, grid)
        _write(program, operator, affine, rounded, grid)
        done.append(operator)
    return done


def round_alone(program: Program, operator: LinearOperator, grid: WeightGrid) -> bool:
    """Round the weight as it is, for all that read it; whether it can be."""
    if operator.channel_axis is None:
        return False
    affine = operator.affine()
    rounded = round_to_nearest(affine.weight, grid)
    before = operator.weight
    readers = list(before.outputs)
    _write(program, operator, affine, rounded, grid, keep_bias=True)
    after = operator.node.inputs[1]
    for reader in readers:
        for index, tensor in enumerate(reader.inputs):
            if tensor is before:
                reader.inputs[index] = after
    return True


def _rounded(
    rows: Problem, operator: LinearOperator, reference: Reference, grid: WeightGrid
) -> tuple[Affine, Rounded]:
    """The operator's new map, its weight on the grid, and how that is stored."""
    start = operator.affine()
    ridge, unknowns = reference.size.ridge, rows.x.shape[2] + 1
    normal = Normal(rows, operator.fits_bias, ridge)
    enough = min(ENOUGH, reference.size.rows_per_unknown)
    if len(rows.x) < enough * unknowns and rows.centre is not None:
        solved = fit_on_few(rows, start, operator.fits_bias, ridge)
    else:
        solved = normal.fit(normal.problem, start)
    rounded = round_with_feedback(solved.weight, normal.gram, grid)
    bias = solved.bias
    if operator.fits_bias:
        # What rounding moves the mean by.
        off = solved.weight - rounded.weight
        bias = bias + np.einsum("gi,gio->go", normal.mean, off)
    return Affine(rounded.weight, bias), rounded


def _write(
    program: Program,
    operator: LinearOperator,
    affine: Affine,
    rounded: Rounded,
    grid: WeightGrid,
    keep_bias: bool = False,
) -> None:
    axis = operator.channel_axis
    assert axis is not None
    if not keep_bias:
        operator.write(program, affine)
    operator.node.inputs[1] = stored(
        program.unique_name(f"{operator.weight.name}_int{grid.bits}"),
        operator.codes_of(rounded.codes),
        operator.scales_of(rounded.scales),
        axis,
        grid.bits,
    )
