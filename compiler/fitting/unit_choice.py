"""Which hidden units to keep, when several blocks become one or a layer becomes narrower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.linalg

from ..graph.arrays import Float64, Int64
from .regression import RIDGE, ROUNDS, Problem, cross_matrix, gram_matrix

# Units taken out between two rankings, as a share of those left: one by one gives the same fit.
_STEP = 1 / 16


def select_units(problem: Problem, units: int, keep: int, start: Float64 | None = None) -> Int64:
    """Which `keep` of the `units` in the problem's x explain what is wanted best.

    See `eliminate_units`. Returns sorted indices. The problem's x is centred in place.
    """
    steps = eliminate_units(problem, units, [keep], start)
    return next((kept for kept, _ in steps), np.arange(units))


def eliminate_units(
    problem: Problem,
    units: int,
    keeps: Sequence[int],
    start: Float64 | None = None,
    ridge: float = RIDGE,
) -> Iterator[tuple[Int64, float]]:
    """The units that are left, and by how much the squared error rose, at each of `keeps`.

    Backward elimination from the least-squares fit on all units: the unit goes whose removal
    raises the squared error least, w' (G^-1)_uu^-1 w for its weights w (Optimal Brain Surgeon,
    Hassibi and Stork 1993, with a unit's taps as one group). The problem has one group of rows;
    `start` [columns, out] is what the ridge pulls towards. Unit u has the columns u * taps to
    (u + 1) * taps. `keeps` falls, below `units`; indices are sorted. The x is centred in place.
    """
    x, target = problem.x[:, 0], problem.wanted[:, 0]
    columns = x.shape[1]
    taps = columns // units
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    x -= mean
    gram = gram_matrix(x)
    weight = np.zeros((columns, target.shape[1])) if start is None else start
    known = gram @ weight
    gram[np.diag_indices(columns)] += ridge * max(np.trace(gram) / columns, 1e-12)
    factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True)
    other = None if problem.other is None else problem.other[:, 0]
    relaxed = rest = target if other is None else target - other
    ceiling = 0 if other is None else -other
    prior = weight
    for round_ in range(ROUNDS + 1 if problem.rectified else 1):
        if round_:
            guess = x @ weight.astype(np.float32) + relaxed.mean(axis=0)
            relaxed = np.where(target <= 0, np.minimum(guess, ceiling), rest)
        right = cross_matrix(x, relaxed - relaxed.mean(axis=0)) - known
        weight = prior + scipy.linalg.cho_solve(factor, right)
    inverse = scipy.linalg.cho_solve(factor, np.eye(columns))
    left, risen = np.arange(units), 0.0
    for keep in keeps:
        while len(left) > keep:
            rows = weight.reshape(len(left), taps, -1)
            blocks = inverse.reshape(len(left), taps, len(left), taps)
            own = blocks[np.arange(len(left)), :, np.arange(len(left))]
            rises = np.einsum("uto,uto->u", rows, np.linalg.solve(own, rows))
            count = min(max(1, int(len(left) * _STEP)), len(left) - keep)
            gone = np.sort(np.argsort(rises, kind="stable")[:count])
            stays = np.setdiff1d(np.arange(len(left)), gone)
            out, rest = columns_of(gone, taps), columns_of(stays, taps)
            corner = inverse[np.ix_(out, out)]
            risen += float(np.vdot(weight[out], np.linalg.solve(corner, weight[out])))
            # The fit without them from that with them: a Schur complement, no new factorisation.
            step = np.linalg.solve(corner, inverse[np.ix_(out, rest)])
            weight = weight[rest] - step.T @ weight[out]
            inverse = inverse[np.ix_(rest, rest)] - inverse[np.ix_(rest, out)] @ step
            left = left[stays]
        yield left, risen


def columns_of(units: Int64, taps: int) -> Int64:
    """The columns that belong to some units, `taps` to each."""
    return (units[:, None] * taps + np.arange(taps)).reshape(-1)
