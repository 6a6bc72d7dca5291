"""Hidden layers that could be narrower: how much is lost with how many units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from ...passes.refit import refit_operators
from ..fitting.hidden_layers import layer_behind
from ..fitting.operators import LinearOperator
from ..fitting.pooling import MAX_COLUMNS
from ..fitting.reconstruction import Target, gathered
from ..fitting.reference import Reference, row_count
from ..fitting.regression import products_in_threads
from ..fitting.unit_choice import eliminate_units
from ..fitting.walk import Walk
from ..graph.program import Program
from ..structure.channel_removal import in_multiples
from .bill import Skeleton
from .fold_actions import NarrowLayerAction
from .fold_sites import MULTIPLE, FoldSite, owners_of

# Shares of a layer's units that are tried, one after another: finer steps cost more measurements.
_LEFT = (Fraction(3, 4), Fraction(1, 2), Fraction(1, 4))
# A layer that loses more than this share of the variance of what it helps to make is not tried.
_MOST_LOST = 0.1


def find_narrow_sites(
    program: Program, models: Sequence[str], reference: Reference, skeleton: Skeleton
) -> list[FoldSite]:
    """Narrower hidden layers of models that share their frames, by expected damage per layer.

    The damage of a site is the share of the variance of what the layer helps to make (the sum that
    its block ends in) that a fit on the units left does not explain, on the reference's rows.
    """
    whole = skeleton.bill(())
    assert whole is not None
    found: list[FoldSite] = []
    for model, value, units, lost in _losses(program, models, reference):
        action = NarrowLayerAction(model, value, units)
        bill = skeleton.bill((action,))
        if bill is None or lost > _MOST_LOST:
            continue
        saved = whole.weights_nbytes - bill.weights_nbytes, whole.macs - bill.macs
        if max(saved) > 0:
            found.append(FoldSite(action, *saved, lost))
    return found


def _losses(
    program: Program, models: Sequence[str], reference: Reference
) -> Iterator[tuple[str, str, int, float]]:
    """(model, what the reader reads, units left, share of variance lost) of every hidden layer."""
    owners = owners_of(program, models)
    inputs = [value.name for value in program.graph.inputs]
    readers: list[tuple[LinearOperator, Target, int]] = []
    for operator, target in refit_operators(program, reference.program, inputs):
        value = operator.source.name
        layer = layer_behind(program, value) if value in owners else ""
        if isinstance(layer, str) or layer.reader.fan_in > MAX_COLUMNS:
            continue
        readers.append((operator, target, layer.width))
    reference.collect(
        {
            target.value: (row_count(op, reference.size), op.channels_last)
            for op, target, _ in readers
        }
    )
    walk = Walk(program, reference.frames, [op.result.name for op, _, _ in readers])
    for operator, target, width in readers:
        keeps = _keeps(width)
        if not keeps or not reference.has(target.value):
            continue
        rows = gathered(walk, reference, operator, target)
        wanted = rows.wanted[:, 0].astype(np.float64)
        power = float(np.square(wanted - wanted.mean(axis=0)).sum())
        with products_in_threads():
            steps = list(eliminate_units(rows, width, keeps, operator.affine().weight[0]))
        value = operator.source.name
        for kept, risen in steps:
            yield owners[value], value, len(kept), risen / power if power > 0 else 0.0


def _keeps(width: int) -> list[int]:
    """Units that may be left of so many, most first, in multiples that run fast."""
    sizes = {
        width - len(in_multiples(np.arange(width - max(1, int(width * left))), width, MULTIPLE))
        for left in _LEFT
    }
    return sorted(sizes - {width}, reverse=True)
