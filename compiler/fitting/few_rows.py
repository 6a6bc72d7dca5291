"""Fits on few rows: how far the old weights may be left is decided on rows that no fit saw.

With thousands of unknowns and some dozens of frames least squares reproduces the frames it was
given, and makes others worse. Then the last quarter of the rows, which are of other frames, tells
which of several ridges does best there, and whether the old weights do better than any.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import scipy.linalg

from ..graph.arrays import Float32, Float64
from .regression import (
    ROUNDS,
    Affine,
    Normal,
    Problem,
    asymmetric,
    cross_matrix,
    first_guess,
    gram_matrix,
)

# Rows per unknown from which on the rows decide alone.
ENOUGH = 32
# The share of the squares that rounding makes of an error: what is no better than that moves
# nothing, on any processor.
_NOISE = 1e-9
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
    solver = Dual(known, fit_bias) if _is_wide(known) else Normal(known, fit_bias, ridge)
    errors = {
        strong: _error(held_back, found) for strong, found in solver.fits_at(known, start, ridges)
    }
    best = min(errors, key=errors.__getitem__)
    power = float(np.square(held_back.wanted, dtype=np.float64).sum())
    if start.weight.any() and _error(held_back, start) <= errors[best] + _NOISE * power:
        return start
    if _is_wide(problem):
        return Dual(problem, fit_bias).fit(problem, start, best)
    return Normal(problem, fit_bias, best).fit(problem, start)


class Dual:
    """The same fits where unknowns are more than rows: by the rows' products with each other.

    W = W0 + X^T (X X^T + lambda I)^-1 (T - X W0). Of 1 764 rows and 4 608 unknowns four ridges
    cost a seventh of what they do by the normal equations. One group.
    """

    def __init__(self, problem: Problem, fit_bias: bool) -> None:
        assert problem.centre is not None
        x, self._centre = problem.x[:, 0], problem.centre[0].astype(np.float64)
        if fit_bias:
            offset = x.mean(axis=0, dtype=np.float64)
            self._x, self._mean = x - offset.astype(np.float32), self._centre + offset
        else:
            self._x, self._mean = x + problem.centre[0], np.zeros(len(self._centre))
        self._fit_bias = fit_bias
        self._gram = gram_matrix(self._x.T)

    def fit(self, problem: Problem, start: Affine, ridge: float, rounds: int = ROUNDS) -> Affine:
        """The map that solves the problem best; see the function `fit`."""
        factor = self._factored(ridge)
        return asymmetric(
            problem,
            start,
            rounds,
            True,
            lambda guess, below: self._solution(factor, problem, start, guess, below),
        )

    def fits_at(
        self, problem: Problem, start: Affine, ridges: Sequence[float]
    ) -> Iterator[tuple[float, Affine]]:
        """The first round's map by each of several ridges."""
        guess = first_guess(problem, start)
        for ridge in ridges:
            yield ridge, self._solution(self._factored(ridge), problem, start, guess, True)

    def _factored(self, ridge: float) -> tuple[Float64, bool]:
        rows, fan_in = self._x.shape
        damping = max(ridge * float(np.trace(self._gram)) / fan_in, 1e-12 * rows)
        damped = self._gram.copy()
        damped[np.diag_indices(rows)] += damping
        return scipy.linalg.cho_factor(damped, lower=True, overwrite_a=True)

    def _solution(
        self,
        factor: tuple[Float64, bool],
        problem: Problem,
        start: Affine,
        guess: Affine | None,
        below: bool,
    ) -> Affine:
        old = start.weight[0]
        made = None if guess is None else self._made(guess)[:, None]
        targets = problem.targets(slice(None), made, below)[:, 0]
        missing = targets - self._x @ old.astype(np.float32)
        mean = missing.mean(axis=0, dtype=np.float64) if self._fit_bias else start.bias[0]
        left = scipy.linalg.cho_solve(factor, missing - mean)
        weight = old + cross_matrix(self._x, left.astype(np.float32))
        # Of rows about their mean the map's mean is its bias.
        bias = mean - self._mean @ weight if self._fit_bias else start.bias[0].copy()
        return Affine(weight[None], bias[None])

    def _made(self, guess: Affine) -> Float32:
        offset = (guess.bias[0] + self._mean @ guess.weight[0]).astype(np.float32)
        return self._x @ guess.weight[0].astype(np.float32) + offset


def _is_wide(problem: Problem) -> bool:
    """Whether there is one group, of more unknowns than rows."""
    rows, groups, fan_in = problem.x.shape
    return groups == 1 and fan_in > rows


def _part(problem: Problem, rows: slice) -> Problem:
    other = None if problem.other is None else problem.other[rows]
    return replace(problem, x=problem.x[rows], wanted=problem.wanted[rows], other=other)


def _error(problem: Problem, solution: Affine) -> float:
    """The squared error on the rows, of what a ReLU leaves where one follows."""
    assert problem.centre is not None
    offset = np.einsum("gi,gio->go", problem.centre, solution.weight)
    made = replace(solution, bias=solution.bias + offset)(problem.x)
    if problem.other is not None:
        made = made + problem.other
    wanted = problem.wanted
    if problem.rectified:
        made, wanted = np.maximum(made, 0), np.maximum(wanted, 0)
    return float(np.square(made - wanted, dtype=np.float64).sum())
