"""Rounding of weights in closed form: on a grid for each output, with error feedback.

Inputs are rounded one after another, and those that follow make up for what was lost (Optimal Brain
Quantisation, arXiv 2208.11580; in the order and blocks of GPTQ, 2210.17323).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ..errors import InternalFault
from ..graph.arrays import Float32, Float64

# What is added to the diagonal of the Gram matrix, as a share of its mean.
_DAMPING = 0.01
# Inputs whose errors are made up for at once among those that follow.
_BLOCK = 128
# Scales that are tried, as shares of the one by which nothing is clipped.
_CLIPPED = {8: (1.0, 0.95, 0.9, 0.8), 4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)}
# The smallest scale: of weights that are all zero.
_LEAST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class WeightGrid:
    """Whole numbers of so many bits, symmetric about zero, times a scale per output."""

    bits: int

    @property
    def steps(self) -> int:
        """The largest of the numbers: 127 of 8 bits, 7 of 4."""
        return 2 ** (self.bits - 1) - 1


@dataclass(frozen=True)
class Rounded:
    """A weight on a grid: `weight` is exactly `codes` * `scales` in float32.

    `weight` and `codes` are [groups, fan_in, outputs of a group], `scales` [groups, outputs];
    `error` is the squared error of the outputs on the rows of the Gram matrix (0 without one).
    """

    weight: Float64
    codes: NDArray[np.int8]
    scales: Float32
    error: float


def round_to_nearest(weight: Float64, grid: WeightGrid, gram: Float64 | None = None) -> Rounded:
    """Each number to the nearest of its grid; scales by the error of the outputs.

    Without a Gram matrix [groups, fan_in, fan_in] inputs count alike. Raises InternalFault for
    numbers that are not finite.
    """
    scales = _scales(weight, grid, gram)
    return _on_grid(weight, _nearest(weight, scales, grid), scales, gram)


def round_with_feedback(weight: Float64, gram: Float64, grid: WeightGrid) -> Rounded:
    """Inputs in falling order of their power, each made up for by those that follow.

    `gram` [groups, fan_in, fan_in] is of what the operator reads. Raises InternalFault for numbers
    that are not finite.
    """
    scales = _scales(weight, grid, gram)
    if not np.isfinite(gram).all():
        raise InternalFault("a Gram matrix is not finite")
    codes = np.empty(weight.shape, np.int8)
    if len(weight) == 1:
        codes[0] = _fed_back(weight[0], gram[0], scales[0].astype(np.float64), grid)
    else:
        codes[:] = _fed_back_apart(weight, gram, scales.astype(np.float64), grid)
    fed, plain = (
        _on_grid(weight, one, scales, gram) for one in (codes, _nearest(weight, scales, grid))
    )
    return fed if fed.error <= plain.error else plain


def _fed_back(
    weight: Float64, gram: Float64, scales: Float64, grid: WeightGrid
) -> NDArray[np.int8]:
    """Codes [fan_in, outputs] of one group."""
    upper, order = _factor(gram)
    left = weight[order].copy()
    codes = np.empty(left.shape)
    for start in range(0, len(left), _BLOCK):
        stop = min(start + _BLOCK, len(left))
        lost = np.empty((stop - start, left.shape[1]))
        for row in range(start, stop):
            codes[row] = np.clip(np.rint(left[row] / scales), -grid.steps, grid.steps)
            off = (left[row] - codes[row] * scales) / upper[row, row]
            left[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], off)
            lost[row - start] = off
        left[stop:] -= upper[start:stop, stop:].T @ lost
    found = np.empty_like(codes)
    found[order] = codes
    return found.astype(np.int8)


def _fed_back_apart(
    weight: Float64, gram: Float64, scales: Float64, grid: WeightGrid
) -> NDArray[np.int8]:
    """Codes of many groups with few inputs each, side by side."""
    groups, fan_in, _ = weight.shape
    diagonal = np.einsum("gii->gi", gram)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    place = np.arange(groups, dtype=np.intp).reshape(-1, 1)
    damped = gram[place[:, :, None], order[:, :, None], order[:, None, :]]
    damped = damped + _damping(diagonal)[:, None, None] * np.eye(fan_in)
    # The upper factor of an inverse, from the lower factor of the matrix turned around.
    lower = np.linalg.cholesky(np.linalg.inv(damped))
    upper = lower.transpose(0, 2, 1)
    left = weight[place, order]
    codes = np.empty(left.shape)
    for row in range(fan_in):
        codes[:, row] = np.clip(np.rint(left[:, row] / scales), -grid.steps, grid.steps)
        off = (left[:, row] - codes[:, row] * scales) / upper[:, row, row, None]
        left[:, row + 1 :] -= upper[:, row, row + 1 :, None] * off[:, None]
    found = np.empty_like(codes)
    found[place, order] = codes
    return found.astype(np.int8)


def _factor(gram: Float64) -> tuple[Float64, NDArray[np.intp]]:
    """The upper Cholesky factor of the inverse of a damped Gram matrix, and the order of inputs."""
    order = np.argsort(-np.diagonal(gram), kind="stable")
    damped = gram[np.ix_(order, order)]
    damped[np.diag_indices(len(gram))] += float(_damping(np.diagonal(gram)[None])[0])
    factor = scipy.linalg.cho_factor(damped, lower=True, overwrite_a=True)
    inverse = scipy.linalg.cho_solve(factor, np.eye(len(gram)), overwrite_b=True)
    return scipy.linalg.cholesky(inverse, lower=False, overwrite_a=True), order


def _damping(diagonal: Float64) -> Float64:
    """What is added to the diagonals [groups, fan_in]; something even where no input is on."""
    mean = diagonal.mean(axis=1)
    return np.where(mean > 0, _DAMPING * mean, 1.0)


def _scales(weight: Float64, grid: WeightGrid, gram: Float64 | None) -> Float32:
    """By output, [groups, outputs], the scale by which plain rounding does least damage."""
    if not np.isfinite(weight).all():
        raise InternalFault("a weight to be rounded is not finite")
    largest = np.abs(weight).max(axis=1)
    best = np.full(largest.shape, np.inf)
    found = np.ones(largest.shape, np.float32)
    for clipped in _CLIPPED[grid.bits]:
        scales = np.maximum(clipped * largest / grid.steps, _LEAST_SCALE).astype(np.float32)
        off = weight - _nearest(weight, scales, grid) * scales[:, None].astype(np.float64)
        errors = np.einsum("gio,gio->go", off, off if gram is None else gram @ off)
        better = errors < best * (1 - 1e-9)
        found, best = np.where(better, scales, found), np.where(better, errors, best)
    return found.astype(np.float32)


def _nearest(weight: Float64, scales: Float32, grid: WeightGrid) -> NDArray[np.int8]:
    codes = np.rint(weight / scales[:, None].astype(np.float64))
    return np.clip(codes, -grid.steps, grid.steps).astype(np.int8)


def _on_grid(
    weight: Float64, codes: NDArray[np.int8], scales: Float32, gram: Float64 | None
) -> Rounded:
    made = (codes.astype(np.float32) * scales[:, None]).astype(np.float64)
    off = made - weight
    error = 0.0 if gram is None else float(np.einsum("gio,gio->", off, gram @ off))
    return Rounded(made, codes, scales, error)
