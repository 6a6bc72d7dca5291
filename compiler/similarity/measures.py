"""Measures of similarity between two representations, each a small function on arrays.

Rows are samples (frames, or sampled places of frames), columns are channels: x [n, p], y [n, q].
A measure that cannot be told, because something does not vary or too few rows are given, is nan
("undefined"). `CATALOG` says what each measure compares and how to read it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.stats
from scipy.spatial.distance import pdist

from ..fitting.cka import debiased_cka
from ..graph.arrays import Array, Float64
from .accumulators import MinibatchCka, Moments, u_centred
from .affine import RIDGE, FoldedRows, affine_errors, r2_of_folds

__all__ = [
    "CATALOG",
    "Measure",
    "affine_r2",
    "angular_distance",
    "block_influence",
    "cosine",
    "debiased_cka",
    "max_sliced_wasserstein",
    "minibatch_cka",
    "pwcca",
    "rsa",
    "svcca",
    "swap_error",
]

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


# -- CKA and RSA: matrices of samples --------------------------------------------------------


def minibatch_cka(x: Array, y: Array, batch: int = 64) -> float:
    """Debiased linear CKA from batches of rows: sums of HSIC_1 over batches, then the ratio.

    Nguyen et al. 2020 (arXiv 2010.15327), equation 2. Unbiased in each HSIC for any batch of at
    least 4 rows; a remainder smaller than `batch` is left out unless it is all there is.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} rows are paired with {len(y)}")
    batch = min(batch, len(x))
    if batch < 4:
        return UNDEFINED
    sums = MinibatchCka()
    for start in range(0, len(x) - batch + 1, batch):
        grams = (_gram(part[start : start + batch]) for part in (x, y))
        sums.add(*(u_centred(gram)[None] for gram in grams))
    return float(sums.values()[0, 0])


def _gram(rows: Array) -> Float64:
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    # What remains of a constant after centring is rounding; it must not look like structure.
    if not np.isfinite(flat).all() or np.square(flat).sum() <= 1e-12 * np.square(rows).sum():
        return np.zeros((len(rows), len(rows)))
    return flat @ flat.T


def rsa(x: Array, y: Array) -> float:
    """Spearman correlation of the Euclidean distances between all pairs of rows.

    Kriegeskorte et al. 2008 with the distance and comparison of rsatoolbox ('euclidean' up to a
    monotone map, 'spearman').
    """
    if len(x) < 3:
        return UNDEFINED
    left, right = (pdist(part.reshape(len(part), -1).astype(np.float64)) for part in (x, y))
    if not (np.ptp(left) > 0 and np.ptp(right) > 0):
        return UNDEFINED
    return float(scipy.stats.spearmanr(left, right).statistic)


# -- measures of rows that only need moments -------------------------------------------------


def svcca(x: Array, y: Array, share: float = SVCCA_SHARE) -> float:
    """Mean canonical correlation after both were cut to `share` of their variance.

    Raghu et al. 2017 (arXiv 1706.05806). Tends to 1 when rows are not many more than channels.
    """
    moments = Moments.of(x, y)
    if moments.constant:
        return UNDEFINED
    sxx, syy, _ = moments.centred()
    return svcca_of(moments, whitening(sxx, share)[0], whitening(syy, share)[0])


def svcca_of(moments: Moments, left: Float64, right: Float64) -> float:
    """`svcca` from moments and the whitening of either side."""
    return float(_correlations(left.T @ moments.centred()[2] @ right)[1].mean())


def pwcca(x: Array, y: Array) -> float:
    """Mean canonical correlation, each weighted by how much of x its direction carries.

    sum a_i rho_i / sum a_i, a_i = sum_j |<h_i, x_j>|: Morcos et al. 2018 (arXiv 1806.05759),
    section 3. Not symmetric: the weights are those of x.
    """
    moments = Moments.of(x, y)
    if moments.constant:
        return UNDEFINED
    sxx, syy, _ = moments.centred()
    return pwcca_of(moments, whitening(sxx)[0], whitening(syy)[0])


def pwcca_of(moments: Moments, left: Float64, right: Float64) -> float:
    """`pwcca` from moments and the whitening of either side."""
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


def angular_distance(x: Array, y: Array) -> float:
    """The angle between x and y after the best rotation of one: arccos of ||X'Y||_* / |X| |Y|.

    In radians, 0 to pi / 2; rows centred. Orthogonal Procrustes (Schonemann 1966) as the angular
    shape metric of Williams et al. 2021 (arXiv 2110.14739), equation 5. Width may differ.
    """
    return angular_distance_of(Moments.of(x, y))


def angular_distance_of(moments: Moments) -> float:
    """`angular_distance` from moments."""
    if moments.constant:
        return UNDEFINED
    sxx, syy, sxy = moments.centred()
    nuclear = float(scipy.linalg.svdvals(sxy, check_finite=False).sum())
    return float(np.arccos(min(1.0, nuclear / np.sqrt(np.trace(sxx) * np.trace(syy)))))


def swap_error(x: Array, y: Array) -> float:
    """Relative error of putting x where y was: sum |x - y|^2 / sum |y - mean y|^2.

    0 for equal, 1 as bad as y's mean, 2 typical of unrelated rows of equal scale.
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{x.shape[1]} channels cannot replace {y.shape[1]}")
    return swap_error_of(Moments.of(x, y))


def swap_error_of(moments: Moments) -> float:
    """`swap_error` from moments."""
    _, syy, _ = moments.centred()
    varies = float(np.trace(syy))
    if not varies > 1e-12 * float(np.trace(moments.yy)):
        return UNDEFINED
    xx, yy, xy = (float(np.trace(part)) for part in (moments.xx, moments.yy, moments.xy))
    return max(0.0, xx - 2 * xy + yy) / varies


def affine_r2(x: Array, y: Array, folds: int = 8, ridge: float = RIDGE) -> float:
    """R2 of y = W x + b on rows that W and b were not fitted on, all channels together.

    1 - SSE / SST summed over `folds` contiguous parts, each predicted by a ridge regression on
    the others; not below 0. A remainder of rows is left out.
    """
    if len(x) < folds or folds < 2:
        return UNDEFINED
    left, right = (FoldedRows(part.astype(np.float64), folds, ridge) for part in (x, y))
    if left.constant or right.constant:
        return UNDEFINED
    return r2_of_folds(*affine_errors(left, right))


# -- measures that need the rows themselves --------------------------------------------------


def cosine(x: Array, y: Array) -> float:
    """Mean over rows of cos(x_k, y_k), over the rows in which neither is zero.

    The sample-wise measure of Jiang et al. 2024 (arXiv 2406.14479), equation 2.
    """
    values = cosines(x, y)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else UNDEFINED


def cosines(x: Array, y: Array) -> Float64:
    """cos(x_k, y_k) per row [n]; nan where one of the two is zero."""
    if x.shape != y.shape:
        raise ValueError(f"rows {x.shape} have no cosine with rows {y.shape}")
    left, right = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        return np.where(norms > 0, np.einsum("nc,nc->n", left, right) / norms, np.nan)


def block_influence(x: Array, y: Array) -> float:
    """1 - mean cosine between what goes into a block and what comes out: 0 changes nothing.

    Men et al. 2024 (ShortGPT, arXiv 2403.03853), equation 1.
    """
    return 1.0 - cosine(x, y)


def max_sliced_wasserstein(
    x: Array,
    y: Array,
    directions: int = DIRECTIONS,
    seed: int = 0,
    projections: Array | None = None,
) -> float:
    """The largest 2-Wasserstein distance between projections onto random unit directions.

    Deshpande et al. 2019 (arXiv 1904.05877) with POT's defaults (p = 2, 50 directions), equally
    many rows, equal weights. Compares distributions, so it does not see how rows are paired.
    `projections` [channels, directions] replaces the seeded ones.
    """
    if x.shape != y.shape:
        raise ValueError(f"rows {x.shape} cannot be transported to rows {y.shape}")
    along = _directions(x.shape[1], directions, seed) if projections is None else projections
    left, right = (np.sort(part.astype(np.float64) @ along, axis=0) for part in (x, y))
    return float(np.sqrt(np.square(left - right).mean(axis=0).max()))


def _directions(channels: int, count: int, seed: int) -> Float64:
    found = np.random.default_rng(seed).standard_normal((channels, count))
    return found / np.linalg.norm(found, axis=0)
