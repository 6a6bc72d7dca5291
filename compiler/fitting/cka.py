"""How alike two representations are but for a rotation: debiased linear CKA."""

from __future__ import annotations

import numpy as np

from ..graph.arrays import Array, Float64


def debiased_cka(x: Array, y: Array) -> float:
    """Debiased linear CKA of rows x [n, c1], y [n, c2]; nan ("undefined") at zero variance.

    HSIC_1 of Song et al. 2012 as used by Nguyen et al. 2020 (arXiv 2010.15327), equation 3:
    unlike the biased estimate it does not grow with width / n. Needs n >= 4.
    """
    n = len(x)
    if n < 4:
        return float("nan")
    left = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    right = y.astype(np.float64) - y.mean(axis=0, dtype=np.float64)

    def hsic(a: Float64, b: Float64) -> float:
        # Through features, never an n x n matrix: K = a a^T with its diagonal removed.
        diagonal_a = np.square(a).sum(axis=1)
        diagonal_b = np.square(b).sum(axis=1)
        trace = float(np.square(a.T @ b).sum() - diagonal_a @ diagonal_b)
        ones_a = a @ a.sum(axis=0) - diagonal_a
        ones_b = b @ b.sum(axis=0) - diagonal_b
        total = float(ones_a.sum() * ones_b.sum())
        middle = float(ones_a @ ones_b)
        return (trace + total / ((n - 1) * (n - 2)) - 2 * middle / (n - 2)) / (n * (n - 3))

    denominator = hsic(left, left) * hsic(right, right)
    if not denominator > 0:
        return float("nan")
    return hsic(left, right) / float(np.sqrt(denominator))
