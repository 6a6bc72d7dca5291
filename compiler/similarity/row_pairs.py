"""Measures of sampled rows for all pairs of layers: affine R2, CCA, Procrustes, cosine, swap, ...

Rows come in blocks of whole frames. Moments of blocks add up, so leaving a block out (jackknife,
held-out R2) is a subtraction; for the null a block meets another block, which are other frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import product

import numpy as np
from threadpoolctl import threadpool_limits

from ..execution.executable import workers
from ..graph.arrays import Float32, Float64
from . import measures
from .accumulators import Moments, jackknife, total
from .affine import FoldedRows, affine_errors, r2_of_folds
from .features import LayerFeatures, ModelFeatures
from .measures import Measure
from .pair_matrix import BLOCKS, PairMatrix

# (value, values under the null, values that leave a block out)
Estimate = tuple[float, list[float], list[float]]

# How many blocks further the null looks: every pair costs several decompositions, and three
# tell unrelated from related.
_SHIFTS = (1, 3, 5)
# Rows that are projected and sorted for every pair.
WASSERSTEIN_ROWS = 1024


def row_measure(measure: Measure, a: ModelFeatures, b: ModelFeatures, seed: int) -> PairMatrix:
    """A measure of rows between all layers of two models run on the same frames."""
    # Thousands of solves of 16 to 256 unknowns: threads cost more than they bring.
    with threadpool_limits(1, user_api="blas"):
        return _all_pairs(measure, a, b, seed)


def _all_pairs(measure: Measure, a: ModelFeatures, b: ModelFeatures, seed: int) -> PairMatrix:
    shape = (len(a.layers), len(b.layers))
    values, null, extreme, spread = (np.full(shape, np.nan) for _ in range(4))
    applicable = np.zeros(shape, bool)
    blocks = _block_count(a.frames)
    estimate = _ESTIMATES[measure.name]
    right = [_Blocks(layer, blocks) for layer in b.layers]
    left = [_Blocks(layer, blocks) for layer in a.layers]
    for i, j in product(range(shape[0]), range(shape[1])):
        if not _comparable(measure, a.layers[i], b.layers[j]):
            continue
        applicable[i, j] = True
        if not (_varies(a.layers[i]) and _varies(b.layers[j])):
            continue
        values[i, j], nulls, left_out = estimate(left[i], right[j], seed)
        known = [each for each in nulls if each == each]
        if known:
            null[i, j] = np.mean(known)
            extreme[i, j] = (max if measure.similarity else min)(known)
        if len(left_out) > 1:
            spread[i, j] = float(jackknife([np.asarray(each) for each in left_out]))
    return PairMatrix(measure, values, null, extreme, spread, applicable)


def affine_r2_of(pairs: Sequence[tuple[LayerFeatures, LayerFeatures]], frames: int) -> list[float]:
    """Held-out R2 of the best affine map from x to y for each pair (x, y) of layers.

    nan where rows do not correspond, or nothing varies.
    """
    count = _block_count(frames)
    known: dict[int, FoldedRows] = {}
    comparable = [
        count > 1 and _comparable(measures.CATALOG["r2"], x, y) and _varies(x) and _varies(y)
        for x, y in pairs
    ]
    for pair in (pair for pair, asked in zip(pairs, comparable) if asked):
        for layer in pair:
            if id(layer) not in known:
                known[id(layer)] = FoldedRows(layer.rows, count)

    def value(index: int) -> float:
        if not comparable[index]:
            return measures.UNDEFINED
        x, y = pairs[index]
        return r2_of_folds(*affine_errors(known[id(x)], known[id(y)]))

    # Small products: on one thread each, several at a time.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers()) as pool:
        return list(pool.map(value, range(len(pairs))))


def _varies(layer: LayerFeatures) -> bool:
    return layer.statistics.finite and not layer.statistics.constant


def _block_count(frames: int) -> int:
    return BLOCKS if frames >= 8 * BLOCKS else max(frames // 8, 1)


def _comparable(measure: Measure, x: LayerFeatures, y: LayerFeatures) -> bool:
    """Whether row k of both is the same place of the same frame, in the shape asked for."""
    if measure.equal_shape:
        return x.layer.shape == y.layer.shape and x.layer.channels_last == y.layer.channels_last
    sizes = (x.layer.spatial, y.layer.spatial)
    # Tokens have no places in between: they correspond one to one or not at all.
    return len(sizes[0]) == len(sizes[1]) and (len(sizes[0]) != 1 or sizes[0] == sizes[1])


class _Blocks:
    """A layer's rows in blocks of whole frames, and what has been worked out about them."""

    def __init__(self, layer: LayerFeatures, count: int) -> None:
        size = len(layer.rows) // count
        self.raw = layer.rows[: size * count].reshape(count, size, -1)
        self.count = count
        self._own: list[Float64] = []
        self._whitened: dict[tuple[int | None, float], Float64] = {}

    def own(self) -> list[Float64]:
        """Second moments of each block."""
        if not self._own:
            for block in self.raw:
                rows = block.astype(np.float64)
                self._own.append(rows.T @ rows)
        return self._own

    @cached_property
    def folded(self) -> FoldedRows:
        """The blocks as folds."""
        return FoldedRows(self.raw.reshape(-1, self.raw.shape[2]), self.count)

    def whitened(self, second: Float64, left_out: int | None, share: float) -> Float64:
        """The whitening of the rows whose centred second moments are `second`."""
        key = (left_out, share)
        if key not in self._whitened:
            self._whitened[key] = measures.whitening(second, share)[0]
        return self._whitened[key]


def _moments(x: _Blocks, y: _Blocks, shift: int = 0) -> list[Moments]:
    """Moments of each block of x with the block of y that is `shift` further: other frames."""
    found: list[Moments] = []
    for index in range(x.count):
        other = (index + shift) % x.count
        left, right = x.raw[index].astype(np.float64), y.raw[other].astype(np.float64)
        sums = (left.sum(axis=0), right.sum(axis=0))
        found.append(Moments(len(left), *sums, x.own()[index], y.own()[other], left.T @ right))
    return found


def _shifts(count: int) -> list[int]:
    return [shift for shift in _SHIFTS if shift < count]


def _of_moments(value: Callable[[Moments], float]) -> Callable[[_Blocks, _Blocks, int], Estimate]:
    def estimate(x: _Blocks, y: _Blocks, seed: int) -> Estimate:
        parts = _moments(x, y)
        whole = total(parts)
        nulls = [value(total(_moments(x, y, shift))) for shift in _shifts(x.count)]
        left_out = [value(whole - part) for part in parts if len(parts) > 1]
        return value(whole), nulls, left_out

    return estimate


def _of_correlations(
    value: Callable[[Moments, Float64, Float64], float], share: float
) -> Callable[[_Blocks, _Blocks, int], Estimate]:
    def estimate(x: _Blocks, y: _Blocks, seed: int) -> Estimate:
        def of(moments: Moments, left_out: int | None) -> float:
            if moments.constant:
                return measures.UNDEFINED
            sxx, syy, _ = moments.centred()
            return value(
                moments, x.whitened(sxx, left_out, share), y.whitened(syy, left_out, share)
            )

        parts = _moments(x, y)
        whole = total(parts)
        nulls = [of(total(_moments(x, y, shift)), None) for shift in _shifts(x.count)]
        left_out = [of(whole - part, k) for k, part in enumerate(parts) if len(parts) > 1]
        return of(whole, None), nulls, left_out

    return estimate


def _affine(x: _Blocks, y: _Blocks, seed: int) -> Estimate:
    if x.count < 2 or x.folded.constant or y.folded.constant:
        return measures.UNDEFINED, [], []
    errors, scales = affine_errors(x.folded, y.folded)
    nulls = [r2_of_folds(*affine_errors(x.folded, y.folded, shift)) for shift in _shifts(x.count)]
    left_out: list[float] = []
    if x.count > 2:
        for k in range(x.count):
            left_out.append(r2_of_folds(np.delete(errors, k), np.delete(scales, k)))
    return r2_of_folds(errors, scales), nulls, left_out


def _cosine(x: _Blocks, y: _Blocks, seed: int) -> Estimate:
    def sums(shift: int) -> list[tuple[float, int]]:
        found: list[tuple[float, int]] = []
        for index in range(x.count):
            cosines = measures.cosines(x.raw[index], y.raw[(index + shift) % x.count])
            known = cosines[~np.isnan(cosines)]
            found.append((float(known.sum()), len(known)))
        return found

    def mean(parts: Sequence[tuple[float, int]]) -> float:
        count = sum(known for _, known in parts)
        return sum(value for value, _ in parts) / count if count else measures.UNDEFINED

    parts = sums(0)
    left_out = [mean([*parts[:k], *parts[k + 1 :]]) for k in range(len(parts)) if len(parts) > 1]
    return mean(parts), [mean(sums(shift)) for shift in _shifts(x.count)], left_out


def _wasserstein(x: _Blocks, y: _Blocks, seed: int) -> Estimate:
    size = max(1, WASSERSTEIN_ROWS // x.count)
    left, right = x.raw[:, :size], y.raw[:, :size]
    channels = left.shape[-1]
    generator = np.random.default_rng((seed, channels))
    directions = generator.standard_normal((channels, measures.DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)

    def distance(p: Float32, q: Float32) -> float:
        flat = p.reshape(-1, channels), q.reshape(-1, channels)
        return measures.max_sliced_wasserstein(flat[0], flat[1], projections=directions)

    # Which frame is which does not matter to a distance of distributions; channels do.
    nulls = [distance(left, right[:, :, generator.permutation(channels)]) for _ in _SHIFTS]
    kept = [np.arange(x.count) != k for k in range(x.count) if x.count > 1]
    return distance(left, right), nulls, [distance(left[k], right[k]) for k in kept]


_ESTIMATES: dict[str, Callable[[_Blocks, _Blocks, int], Estimate]] = {
    "r2": _affine,
    "svcca": _of_correlations(measures.svcca_of, measures.SVCCA_SHARE),
    "pwcca": _of_correlations(measures.pwcca_of, 1.0),
    "procrustes": _of_moments(measures.angular_distance_of),
    "swap": _of_moments(measures.swap_error_of),
    "cosine": _cosine,
    "wasserstein": _wasserstein,
}
