"""Which hidden units to keep, when several blocks become one or a layer becomes narrower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.linalg

from ..graph.arrays import Float64, Int64
from .regression import RIDGE, Affine, Normal, Problem

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
    normal = Normal(problem, ridge=ridge)
    taps = problem.x.shape[2] // units
    near = None if start is None else Affine(start[None], np.zeros((1, start.shape[1])))
    weight = normal.fit(normal.problem, near, trusted=False).weight[0]
    inverse, spare = normal.inverse(), np.empty(0)
    left, risen = np.arange(units), 0.0
    for keep in keeps:
        while len(left) > keep:
            rows = weight.reshape(len(left), taps, -1)
            blocks = inverse.reshape(len(left), taps, len(left), taps)
            own = blocks[np.arange(len(left)), :, np.arange(len(left))]
            rises = np.asarray(rows * np.linalg.solve(own, rows), np.float64).sum(axis=(1, 2))
            count = min(max(1, int(len(left) * _STEP)), len(left) - keep)
            gone = np.sort(np.argsort(rises, kind="stable")[:count])
            stays = np.setdiff1d(np.arange(len(left)), gone)
            out, rest = columns_of(gone, taps), columns_of(stays, taps)
            corner = scipy.linalg.cholesky(inverse[np.ix_(out, out)], lower=True)
            half = _halved(corner, weight[out])
            risen += float(np.vdot(half, half))
            # The fit without them from that with them: a Schur complement, no new factorisation.
            step = _halved(corner, inverse[out][:, rest])
            weight = weight[rest] - step.T @ half
            inverse, spare = _block(inverse, rest, spare)
            # NumPy makes a symmetric rank-k update of it: half the work of a general product.
            inverse -= np.matmul(step.T, step, out=spare[: inverse.size].reshape(inverse.shape))
            left = left[stays]
        yield left, risen


def _halved(corner: Float64, right: Float64) -> Float64:
    """L^-1 R for the Cholesky factor L of what goes."""
    return scipy.linalg.solve_triangular(corner, right, lower=True)


def _block(matrix: Float64, kept: Int64, spare: Float64) -> tuple[Float64, Float64]:
    """The rows and columns `kept` of a matrix, and memory of its size, which it needs no more.

    `spare` is the memory that the last call gave back: pages that were never touched before cost
    more than the numbers in them.
    """
    spare = spare if spare.size >= matrix.size else np.empty(matrix.size)
    rows = spare[: len(kept) * len(matrix)].reshape(len(kept), -1)
    np.take(matrix, kept, axis=0, out=rows, mode="clip")
    place = matrix.reshape(-1)
    block = place[: len(kept) ** 2].reshape(len(kept), -1)
    np.take(rows, kept, axis=1, out=block, mode="clip")
    return block, spare


def columns_of(units: Int64, taps: int) -> Int64:
    """The columns that belong to some units, `taps` to each."""
    return (units[:, None] * taps + np.arange(taps)).reshape(-1)
