"""Held-out R2 of affine maps between layers, all folds at once.

Thousands of maps of 16 to 256 unknowns are asked for. What depends on one layer only is worked
out once, and folds are stacked, so that a pair costs a handful of products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from ..graph.arrays import Array, Float64

# The planner's ridge for ranking.
RIDGE = 1e-3
# A layer whose variance is below this share of its power is constant but for rounding.
_CONSTANT = 1e-12


class FoldedRows:
    """A layer's rows [n, c] in `folds` contiguous parts of equal length; a remainder is left out.

    Sums are taken about a point near the mean, in the rows' own precision. `ridge` damps maps
    from the layer, relative to the mean of its variances.
    """

    def __init__(self, rows: Array, folds: int, ridge: float = RIDGE) -> None:
        self._ridge = ridge
        self.size = len(rows) // folds
        self.count = folds
        kept = rows[: self.size * folds]
        # About any point near the mean sums keep their precision; a product is the quickest way.
        near = np.full(len(kept), 1 / max(len(kept), 1), rows.dtype) @ kept
        self._near = near.astype(np.float64)
        self.parts: Array = (kept - near).reshape(folds, self.size, rows.shape[1])

    @cached_property
    def sums(self) -> Float64:
        """Sums of rows [folds, c]."""
        return self.parts.sum(axis=1, dtype=np.float64)

    @cached_property
    def powers(self) -> Float64:
        """Sums of squares [folds]."""
        return np.einsum("grc,grc->g", self.parts, self.parts, dtype=np.float64)

    @property
    def constant(self) -> bool:
        """Whether no row differs from another by more than rounding."""
        kept = self.size * self.count
        mean = self.sums.sum(axis=0) / max(kept, 1)
        varies = float(self.powers.sum()) - kept * float(mean @ mean)
        mean = mean + self._near
        return not varies > _CONSTANT * (varies + kept * float(mean @ mean))

    @cached_property
    def solver(self) -> Solver:
        """What fits maps from this layer to others."""
        seconds = np.matmul(self.parts.transpose(0, 2, 1), self.parts).astype(np.float64)
        fitted_rows = self.size * (self.count - 1)
        fitted = self.sums.sum(axis=0) - self.sums
        centred = seconds.sum(axis=0) - seconds
        centred -= fitted[:, :, None] * fitted[:, None, :] / fitted_rows
        width = centred.shape[1]
        damping = (self._ridge / width + 1e-12) * np.trace(centred, axis1=1, axis2=2) + 1e-300
        centred[:, np.arange(width), np.arange(width)] += damping[:, None]
        means = fitted / fitted_rows
        outer = means[:, :, None] * self.sums[:, None, :]
        judged = seconds - outer - outer.transpose(0, 2, 1)
        judged += self.size * means[:, :, None] * means[:, None, :]
        return Solver(cast("Float64", np.linalg.inv(centred)), judged)


@dataclass(frozen=True)
class Solver:
    """Of each fold [folds, c, c]: the inverse of the other folds' damped covariance (times their
    rows), and the fold's own second moments about the mean of the others."""

    inverse: Float64
    judged: Float64


def affine_errors(x: FoldedRows, y: FoldedRows, shift: int = 0) -> tuple[Float64, Float64]:
    """Per fold the squared error of y = W x + b fitted on the other folds, and y's own variance.

    Both [folds], sums over rows and channels. With `shift`, fold k of x meets fold k + shift of
    y, other frames: the null.
    """
    order = (np.arange(y.count) + shift) % y.count
    parts, sums, powers = y.parts, y.sums[order], y.powers[order]
    if shift:
        parts = parts[order]
    cross = np.matmul(x.parts.transpose(0, 2, 1), parts).astype(np.float64)
    n, rows = x.size, x.size * (x.count - 1)
    fitted_x, fitted_y = x.sums.sum(axis=0) - x.sums, sums.sum(axis=0) - sums
    fit = cross.sum(axis=0) - cross - fitted_x[:, :, None] * fitted_y[:, None, :] / rows
    weight = x.solver.inverse @ fit
    mean_x, mean_y = fitted_x / rows, fitted_y / rows
    judged = cross - mean_x[:, :, None] * sums[:, None, :]
    judged -= (x.sums - n * mean_x)[:, :, None] * mean_y[:, None, :]
    own = powers - 2 * (mean_y * sums).sum(axis=1) + n * np.square(mean_y).sum(axis=1)
    explained = (weight * (2 * judged - x.solver.judged @ weight)).sum(axis=(1, 2))
    return own - explained, powers - np.square(sums).sum(axis=1) / n


def r2_of_folds(error: Float64, scale: Float64) -> float:
    """1 - errors / variances over folds [folds], not below 0; nan without folds or variance."""
    total = float(scale.sum())
    return max(0.0, 1.0 - float(error.sum()) / total) if total > 0 else float("nan")
