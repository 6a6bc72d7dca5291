"""Measures of two representations alone, each from its rows: what all pairs at once must give."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from repsimc.compiler.fitting.cka import debiased_cka
from repsimc.compiler.similarity import measures
from repsimc.compiler.similarity.accumulators import MinibatchCka, Moments, u_centred
from repsimc.compiler.similarity.affine import RIDGE, FoldedRows, affine_errors, r2_of_folds
from repsimc.compiler.similarity.measures import (
    DIRECTIONS,
    SVCCA_SHARE,
    UNDEFINED,
    angular_distance_of,
    cosines,
    pwcca_of,
    svcca_of,
    swap_error_of,
    whitening,
)

Array = NDArray[Any]
Float64 = NDArray[np.float64]

__all__ = ["debiased_cka"]


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


def svcca(x: Array, y: Array, share: float = SVCCA_SHARE) -> float:
    """Mean canonical correlation after both were cut to `share` of their variance.

    Raghu et al. 2017 (arXiv 1706.05806). Tends to 1 when rows are not many more than channels.
    """
    moments = Moments.of(x, y)
    if moments.constant:
        return UNDEFINED
    sxx, syy, _ = moments.centred()
    return svcca_of(moments, whitening(sxx, share)[0], whitening(syy, share)[0])


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


def angular_distance(x: Array, y: Array) -> float:
    """The angle between x and y after the best rotation of one: arccos of ||X'Y||_* / |X| |Y|.

    In radians, 0 to pi / 2; rows centred. Orthogonal Procrustes (Schonemann 1966) as the angular
    shape metric of Williams et al. 2021 (arXiv 2110.14739), equation 5. Width may differ.
    """
    return angular_distance_of(Moments.of(x, y))


def swap_error(x: Array, y: Array) -> float:
    """Relative error of putting x where y was: sum |x - y|^2 / sum |y - mean y|^2.

    0 for equal, 1 as bad as y's mean, 2 typical of unrelated rows of equal scale.
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{x.shape[1]} channels cannot replace {y.shape[1]}")
    return swap_error_of(Moments.of(x, y))


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


def cosine(x: Array, y: Array) -> float:
    """Mean over rows of cos(x_k, y_k), over the rows in which neither is zero.

    The sample-wise measure of Jiang et al. 2024 (arXiv 2406.14479), equation 2.
    """
    values = cosines(x, y)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else UNDEFINED


def block_influence(x: Array, y: Array) -> float:
    """1 - mean cosine between what goes into a block and what comes out: 0 changes nothing.

    Men et al. 2024 (ShortGPT, arXiv 2403.03853), equation 1.
    """
    return 1.0 - cosine(x, y)


def _directions(channels: int, count: int, seed: int) -> Float64:
    found = np.random.default_rng(seed).standard_normal((channels, count))
    return found / np.linalg.norm(found, axis=0)


def max_sliced_wasserstein(x: Array, y: Array, projections: Array | None = None) -> float:
    """The largest distance over some directions, by default over seeded random ones."""
    along = _directions(x.shape[1], DIRECTIONS, 0) if projections is None else projections
    return measures.max_sliced_wasserstein(x, y, along)
