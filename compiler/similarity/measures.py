"""Measures of similarity between two representations, and the arithmetic of those of rows.

Rows are samples (frames, or sampled places of frames), columns are channels: x [n, p], y [n, q].
A measure that cannot be told, because something does not vary or too few rows are given, is nan
("undefined"). `CATALOG` says what each measure compares and how to read it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ..graph.arrays import Array, Float64
from .accumulators import Moments

UNDEFINED = float("nan")
# Directions with less variance than this share of the largest are rounding, not representation.
_RANK = 1e-10
# Share of the variance that SVCCA keeps (Raghu et al. 2017, section 2).
SVCCA_SHARE = 0.99
# Directions that the sliced distance tries; POT's default.
DIRECTIONS = 50


@dataclass(frozen=True)
class Measure:
    """What a measure compares and how to read it.

    `on` is 'pooled' (each frame's mean over its places), 'maps' (each frame's whole map) or
    'rows' (sampled places). `similarity` tells whether larger is more alike. `equal_shape` says
    that it needs layers of equal shape. `null` says what was shuffled for the null.
    """

    name: str
    title: str
    on: str
    similarity: bool
    equal_shape: bool = False
    null: str = "frames"


CATALOG: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("cka", "debiased linear CKA, pooled", "pooled", True),
        Measure("cka-minibatch", "debiased linear CKA, pooled, minibatch", "pooled", True),
        Measure("cka-maps", "debiased linear CKA, whole maps", "maps", True),
        Measure("rsa", "RSA, Spearman of distances", "pooled", True),
        Measure("r2", "held-out R2 of the best affine map", "rows", True),
        Measure("svcca", "SVCCA, mean correlation", "rows", True),
        Measure("pwcca", "PWCCA, mean correlation", "rows", True),
        Measure("procrustes", "angular Procrustes distance (radians)", "rows", False),
        Measure("cosine", "mean sample-wise cosine", "rows", True, equal_shape=True),
        Measure("swap", "relative error of the raw swap", "rows", False, equal_shape=True),
        Measure("wasserstein", "max-sliced Wasserstein distance", "rows", False, True, "channels"),
    )
}


# -- measures of rows that only need moments -------------------------------------------------


def svcca_of(moments: Moments, left: Float64, right: Float64) -> float:
    """Mean canonical correlation, from moments and the whitening of either side.

    Raghu et al. 2017 (arXiv 1706.05806): both are cut to a share of their variance, by their
    whitening. Tends to 1 when rows are not many more than channels.
    """
    return float(_correlations(left.T @ moments.centred()[2] @ right)[1].mean())


def pwcca_of(moments: Moments, left: Float64, right: Float64) -> float:
    """Mean canonical correlation, each weighted by how much of x its direction carries.

    sum a_i rho_i / sum a_i, a_i = sum_j |<h_i, x_j>|: Morcos et al. 2018 (arXiv 1806.05759),
    section 3. Not symmetric: the weights are those of x. From moments and the whitening of either
    side.
    """
    sxx, _, sxy = moments.centred()
    directions, correlations = _correlations(left.T @ sxy @ right)
    weights = np.abs(directions.T @ left.T @ sxx).sum(axis=1)
    return float(weights @ correlations / weights.sum())


def whitening(s: Float64, share: float = 1.0) -> tuple[Float64, Float64]:
    """W [p, r] with W' s W = I over the directions that carry `share` of the trace; eigenvalues."""
    values, vectors = scipy.linalg.eigh(s, check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = int((values > _RANK * values[0]).sum())
    if share < 1:
        carried = np.cumsum(values[:kept]) / values[:kept].sum()
        kept = min(kept, int(np.searchsorted(carried, share)) + 1)
    return vectors[:, :kept] / np.sqrt(values[:kept]), values[:kept]


def _correlations(cross: Float64) -> tuple[Float64, Float64]:
    u, correlations, _ = scipy.linalg.svd(cross, full_matrices=False, check_finite=False)
    return u, np.clip(correlations, 0.0, 1.0)


def angular_distance_of(moments: Moments) -> float:
    """The angle between x and y after the best rotation of one: arccos of ||X'Y||_* / |X| |Y|.

    In radians, 0 to pi / 2; rows centred. Orthogonal Procrustes (Schonemann 1966) as the angular
    shape metric of Williams et al. 2021 (arXiv 2110.14739), equation 5. Width may differ.
    """
    if moments.constant:
        return UNDEFINED
    sxx, syy, sxy = moments.centred()
    nuclear = float(scipy.linalg.svdvals(sxy, check_finite=False).sum())
    return float(np.arccos(min(1.0, nuclear / np.sqrt(np.trace(sxx) * np.trace(syy)))))


def swap_error_of(moments: Moments) -> float:
    """Relative error of putting x where y was: sum |x - y|^2 / sum |y - mean y|^2.

    0 for equal, 1 as bad as y's mean, 2 typical of unrelated rows of equal scale.
    """
    _, syy, _ = moments.centred()
    varies = float(np.trace(syy))
    if not varies > 1e-12 * float(np.trace(moments.yy)):
        return UNDEFINED
    xx, yy, xy = (float(np.trace(part)) for part in (moments.xx, moments.yy, moments.xy))
    return max(0.0, xx - 2 * xy + yy) / varies


# -- measures that need the rows themselves --------------------------------------------------


def cosines(x: Array, y: Array) -> Float64:
    """cos(x_k, y_k) per row [n]; nan where one of the two is zero.

    The sample-wise measure of Jiang et al. 2024 (arXiv 2406.14479), equation 2.
    """
    if x.shape != y.shape:
        raise ValueError(f"rows {x.shape} have no cosine with rows {y.shape}")
    left, right = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        return np.where(norms > 0, np.einsum("nc,nc->n", left, right) / norms, np.nan)


def max_sliced_wasserstein(x: Array, y: Array, projections: Array) -> float:
    """The largest 2-Wasserstein distance between projections onto unit directions.

    Deshpande et al. 2019 (arXiv 1904.05877) with POT's default p = 2, equally many rows, equal
    weights. Compares distributions, so it does not see how rows are paired. `projections` is
    [channels, directions].
    """
    if x.shape != y.shape:
        raise ValueError(f"rows {x.shape} cannot be transported to rows {y.shape}")
    left, right = (np.sort(part.astype(np.float64) @ projections, axis=0) for part in (x, y))
    return float(np.sqrt(np.square(left - right).mean(axis=0).max()))
