"""Fits on few rows: how far the old weights may be left is decided on rows that no fit saw.

With thousands of unknowns and some dozens of frames least squares reproduces the frames it was
given, and makes others worse. Then the last quarter of the rows, which are of other frames, tells
which of several ridges does best there, and whether the old weights do better than any.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .regression import Affine, Normal, Problem, fit

# Rows per unknown from which on the rows decide alone.
ENOUGH = 32
# Ridges that are tried, as multiples of the usual one.
_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)


def fit_on_few(problem: Problem, start: Affine, fit_bias: bool, ridge: float) -> Affine:
    """The map that does best on rows held back, fitted again on all; `start` where none does.

    The problem is centred. New maps, that have no old weights, are never left at those.
    """
    rows = len(problem.x)
    seen = rows - rows // 4
    known, held_back = _part(problem, slice(0, seen)), _part(problem, slice(seen, rows))
    ridges = [strength * ridge for strength in _STRENGTHS]
    errors = {
        strong: _error(held_back, found)
        for strong, found in Normal(known, fit_bias, ridge).fits_at(known, start, ridges)
    }
    best = min(errors, key=errors.__getitem__)
    if start.weight.any() and _error(held_back, start) <= errors[best]:
        return start
    return fit(problem, start, fit_bias=fit_bias, ridge=best)


def _part(problem: Problem, rows: slice) -> Problem:
    other = None if problem.other is None else problem.other[rows]
    return replace(problem, x=problem.x[rows], wanted=problem.wanted[rows], other=other)


def _error(problem: Problem, solution: Affine) -> float:
    """The squared error on the rows, of what a ReLU leaves where one follows."""
    assert problem.centre is not None
    made = solution(problem.x + problem.centre)
    if problem.other is not None:
        made = made + problem.other
    wanted = problem.wanted
    if problem.rectified:
        made, wanted = np.maximum(made, 0), np.maximum(wanted, 0)
    return float(np.square(made - wanted, dtype=np.float64).sum())
