"""Measures of samples by samples for all pairs of layers: CKA and RSA.

A layer is its (U-centred) Gram matrix, or the ranks of its distances, as one long vector, so that
all pairs of layers are one matrix product; long sets of frames go by rows of that matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata

from ..graph.arrays import Array, Float64, Int64
from .accumulators import MinibatchCka, jackknife, ratio, u_centred
from .features import LayerFeatures, ModelFeatures
from .measures import Measure
from .pair_matrix import BLOCKS, NULL_FRAMES, PERMUTATIONS, PairMatrix, matrix_of, undefined_matrix
from .sketch import HALF

Order = Int64

# Distance matrices are sorted; this many frames give 32 640 distances.
RSA_FRAMES = 256
# Bytes of Gram rows in work at once.
_WORK_NBYTES = 128 << 20


def cka(measure: Measure, a: ModelFeatures, b: ModelFeatures, seed: int) -> PairMatrix:
    """Debiased CKA of pooled features over all frames; its spread is that of batches."""
    return _full(measure, a, b, seed, maps=False)


def cka_minibatch(measure: Measure, a: ModelFeatures, b: ModelFeatures, seed: int) -> PairMatrix:
    """Debiased CKA of pooled features over batches of 64 frames, of half the frames if few."""
    left, right = _parts(a.layers, False), _parts(b.layers, False)
    size = min(64, max(8, a.frames // 2), a.frames)
    sums = _batched(left, right, size)
    if not sums.cross:
        return undefined_matrix(measure, (len(left.samples), len(right.samples)))
    null = [_batched(left, right, size, order).values() for order in _orders(a.frames, seed)]
    return matrix_of(measure, sums.values(), null, sums.spread())


def cka_maps(measure: Measure, a: ModelFeatures, b: ModelFeatures, seed: int) -> PairMatrix:
    """Debiased CKA of whole maps: over all frames from sketches, or over batches exactly."""
    if a.recipe.sketched:
        return _full(measure, a, b, seed, maps=True)
    size = min(a.recipe.batch, b.recipe.batch, a.frames)
    if size < 4 or not (a.layers and b.layers):
        return undefined_matrix(measure, (len(a.layers), len(b.layers)))
    left, right = _map_grams(a, size), _map_grams(b, size)
    sums = MinibatchCka()
    for x, y in zip(left, right):
        sums.add(x, y)
    null: list[Float64] = []
    generator = np.random.default_rng((seed, 41))
    for _ in range(PERMUTATIONS):
        shuffled = MinibatchCka()
        for x, y in zip(left, right):
            order = generator.permutation(size)
            shuffled.add(x, y[:, order][:, :, order])
        null.append(shuffled.values())
    return matrix_of(measure, sums.values(), null, sums.spread())


def rsa(measure: Measure, a: ModelFeatures, b: ModelFeatures, seed: int) -> PairMatrix:
    """Spearman correlation of distances of pooled features, on at most 256 frames."""
    frames = min(a.frames, RSA_FRAMES)
    if frames < 4 or not (a.layers and b.layers):
        return undefined_matrix(measure, (len(a.layers), len(b.layers)))
    left, right = _ranks(a, frames), _ranks(b, frames)
    null = [
        _rank_correlation(left, right[:, order][:, :, order]) for order in _orders(frames, seed)
    ]
    spread = np.full((len(left), len(right)), np.nan)
    if frames >= 2 * BLOCKS:
        every = np.arange(frames)
        kept = [np.setdiff1d(every, block) for block in np.array_split(every, BLOCKS)]
        # Ranks of all distances stand for those of the distances kept.
        spread = jackknife(
            [_rank_correlation(left[:, k][:, :, k], right[:, k][:, :, k]) for k in kept]
        )
    return matrix_of(measure, _rank_correlation(left, right), null, spread)


GRAM_MEASURES: Mapping[str, Callable[[Measure, ModelFeatures, ModelFeatures, int], PairMatrix]] = {
    "cka": cka,
    "cka-minibatch": cka_minibatch,
    "cka-maps": cka_maps,
    "rsa": rsa,
}


# -- CKA over all frames ---------------------------------------------------------------------


@dataclass
class _Parts:
    """Layers as centred samples [n, c]; of a sketch its two independent halves stand side by side.

    An inner product of sketches is the sum over both halves, twice that of the layers.
    """

    samples: list[Array]
    sketched: list[bool]

    def shuffled(self, order: Order) -> _Parts:
        """The same layers with their samples in another order."""
        return _Parts([samples[order] for samples in self.samples], self.sketched)

    def rough(self) -> _Parts:
        """The same in float32, enough for what only tells unrelated from related."""
        samples = [samples.astype(np.float32, copy=False) for samples in self.samples]
        return _Parts(samples, self.sketched)

    def half(self, index: int) -> _Parts:
        """One half of every sketch, others as they are."""
        cut = slice(0, HALF) if index == 0 else slice(HALF, None)
        samples = [
            np.ascontiguousarray(samples[:, cut]) if sketched else samples
            for samples, sketched in zip(self.samples, self.sketched)
        ]
        return _Parts(samples, [False] * len(samples))

    @property
    def width(self) -> int:
        """Columns of all layers together."""
        return sum(samples.shape[1] for samples in self.samples)

    @property
    def times(self) -> Float64:
        """How often a layer's inner products are in those of its samples [layers]."""
        return np.where(self.sketched, 2.0, 1.0)


def _parts(layers: Sequence[LayerFeatures], maps: bool, frames: int | None = None) -> _Parts:
    parts = _Parts([], [])
    for layer in layers:
        sketched = layer.halves
        array = layer.pooled[:frames]
        if maps and layer.maps is not None:
            array, sketched = layer.maps[:frames], True
        # Sketches are good to a few percent: float32 halves memory and time.
        samples = np.zeros(array.shape, np.float32 if sketched else np.float64)
        if layer.statistics.finite and not layer.statistics.constant:
            samples += array
            power = float(np.square(samples).sum())
            samples -= array.mean(axis=0, dtype=np.float64).astype(samples.dtype)
            # What is left of a constant after centring is rounding.
            if not float(np.square(samples).sum()) > 1e-12 * power:
                samples[:] = 0
        parts.samples.append(samples)
        parts.sketched.append(sketched)
    return parts


def _full(
    measure: Measure, a: ModelFeatures, b: ModelFeatures, seed: int, maps: bool
) -> PairMatrix:
    left, right = _parts(a.layers, maps), _parts(b.layers, maps)
    shape = (len(left.samples), len(right.samples))
    if a.frames < 4 or 0 in shape:
        return undefined_matrix(measure, shape)
    values = _values(left, right, (_own(left), _own(right)))
    sums = _batched(left, right, max(8, min(64, a.frames // BLOCKS)))
    spread = sums.spread() if sums.cross else np.full(values.shape, np.nan)
    frames = min(a.frames, NULL_FRAMES)
    if frames < a.frames:
        left, right = _parts(a.layers, maps, frames), _parts(b.layers, maps, frames)
    left, right = left.rough(), right.rough()
    own = (_own(left), _own(right))
    null = [_values(left, right.shuffled(order), own) for order in _orders(frames, seed)]
    return matrix_of(measure, values, null, spread, _sketch_error(left, right, own))


def _values(a: _Parts, b: _Parts, own: tuple[Float64, Float64]) -> Float64:
    """CKA [layers, layers]."""
    return np.minimum(ratio(_hsic(a, b) / np.outer(a.times, b.times), *own), 1.0)


def _sketch_error(a: _Parts, b: _Parts, own: tuple[Float64, Float64]) -> float:
    """The standard error that sketches bring to CKA, root mean square over the layers.

    Halves are independent: the variance of the mean of two is the scatter of the two, on either
    side, and the four products of two halves each scatter as both sides together. On fewer frames
    it is if anything larger.
    """
    if not (any(a.sketched) or any(b.sketched)):
        return 0.0
    products = [_hsic(a.half(i), b.half(j)) for i in (0, 1) for j in (0, 1)]
    error = ratio(np.std(products, axis=0), *own)
    several = np.outer(a.times, b.times) > 1
    error = error[several & np.isfinite(error)]
    return float(np.sqrt(np.square(error).mean())) if len(error) else 0.0


def _hsic(a: _Parts, b: _Parts) -> Float64:
    """HSIC_1 between the samples of all layers [layers of a, layers of b].

    [tr(KL) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 / (n-2) 1'KL1] / (n(n-3)), diagonals of K = XX' and
    L = YY' removed. tr(KL) is |X'Y|^2, or the inner product of K and L: whichever is less work.
    """
    n = len(a.samples[0])
    (da, ra), (db, rb) = _margins(a), _margins(b)
    if 2 * n * (a.width + b.width + len(a.samples) * len(b.samples)) < a.width * b.width:
        trace = _inner_of_grams(a, b)
    else:
        trace = _squared_products(a, b)
    trace = trace - da @ db.T
    totals = np.outer(ra.sum(axis=1), rb.sum(axis=1)) / ((n - 1) * (n - 2))
    return (trace + totals - 2 / (n - 2) * (ra @ rb.T)) / (n * (n - 3))


def _own(parts: _Parts) -> Float64:
    """HSIC_1 of each layer with itself [layers]; of its two halves where it is sketched.

    Halves are independent, so a sketched layer's is not raised by the noise of the sketch.
    """
    found = np.zeros(len(parts.samples))
    for index, (samples, sketched) in enumerate(zip(parts.samples, parts.sketched)):
        one = _Parts([samples], [sketched])
        found[index] = _hsic(one.half(0), one.half(1))[0, 0]
    return found


def _margins(parts: _Parts) -> tuple[Float64, Float64]:
    """Diagonals of the Gram matrices [layers, n], and row sums of what is left without them."""
    diagonals = np.stack([np.square(x, dtype=np.float64).sum(axis=1) for x in parts.samples])
    rows = np.stack([x @ x.sum(axis=0, dtype=np.float64) for x in parts.samples])
    return diagonals, rows - diagonals


def _squared_products(a: _Parts, b: _Parts) -> Float64:
    """|X'Y|^2 for all layers: one product of all columns, squares summed by layer."""
    left, right = (np.concatenate(side.samples, axis=1) for side in (a, b))
    of_left, of_right = _columns(a, left.dtype), _columns(b, right.dtype)
    found = np.zeros((len(a.samples), len(b.samples)))
    step = max(1, _WORK_NBYTES // (8 * right.shape[1]))
    for start in range(0, left.shape[1], step):
        products = left[:, start : start + step].T @ right
        np.square(products, out=products)
        # Sums by layer are products with 0 and 1, many times as fast as adding columns up.
        found += of_left[start : start + step].T @ (products @ of_right)
    return found


def _columns(parts: _Parts, dtype: np.dtype[Any]) -> Array:
    """Which columns are which layer's: ones in [columns, layers]."""
    widths = [samples.shape[1] for samples in parts.samples]
    return np.repeat(np.eye(len(widths), dtype=dtype), widths, axis=0)


def _inner_of_grams(a: _Parts, b: _Parts) -> Float64:
    """<XX', YY'> for all layers: Gram matrices as long vectors, a few of their rows at a time.

    They are symmetric: what is right of a block of rows' own columns counts twice.
    """
    n = len(a.samples[0])
    step = max(1, min(n, _WORK_NBYTES // (8 * n * (len(a.samples) + len(b.samples)))))
    found = np.zeros((len(a.samples), len(b.samples)))
    for start in range(0, n, step):
        blocks: list[Array] = []
        for side in (a, b):
            kind = np.result_type(*(x.dtype for x in side.samples))
            block: Array = np.empty((len(side.samples), min(step, n - start), n - start), kind)
            for index, x in enumerate(side.samples):
                np.matmul(
                    x[start : start + step], x[start:].T, out=block[index], casting="same_kind"
                )
            block[:, :, step:] *= np.sqrt(2, dtype=kind)
            blocks.append(block.reshape(len(side.samples), -1))
        found += blocks[0] @ blocks[1].T
    return found


# -- CKA over batches ------------------------------------------------------------------------


def _batched(a: _Parts, b: _Parts, size: int, order: Order | None = None) -> MinibatchCka:
    sums = MinibatchCka()
    frames = len(a.samples[0]) if a.samples and b.samples else 0
    if size < 4:
        return sums
    for start in range(0, frames - size + 1, size):
        rows = np.arange(start, start + size)
        sums.add(_grams(a, rows), _grams(b, rows if order is None else order[rows]))
    return sums


def _grams(parts: _Parts, rows: Order) -> Float64:
    """U-centred Gram matrices [layers, b, b] of some samples."""
    grams = np.zeros((len(parts.samples), len(rows), len(rows)))
    for index, samples in enumerate(parts.samples):
        picked = samples[rows]
        picked = picked - picked.mean(axis=0)
        grams[index] = picked @ picked.T
    return u_centred(grams)


def _map_grams(model: ModelFeatures, size: int) -> list[Float64]:
    """Per batch of `size` frames the U-centred Gram matrices of whole maps [layers, size, size]."""
    held = min(model.recipe.batch, model.frames)
    found: list[Float64] = []
    for outer in range(0, model.frames - held + 1, held):
        # Batches of another model may be smaller: their Gram matrices lie on the diagonal.
        for inner in range(0, held - size + 1, size):
            frames = slice(outer + inner, outer + inner + size)
            grams = np.zeros((len(model.layers), size, size))
            for index, layer in enumerate(model.layers):
                if not layer.statistics.finite or layer.statistics.constant:
                    continue
                if layer.maps is None:
                    picked = layer.pooled[frames].astype(np.float64)
                    picked -= picked.mean(axis=0)
                    grams[index] = picked @ picked.T
                else:
                    grams[index] = layer.maps[frames, inner : inner + size]
            found.append(u_centred(grams))
    return found


def _orders(frames: int, seed: int) -> list[Order]:
    generator = np.random.default_rng((seed, 41))
    return [generator.permutation(frames) for _ in range(PERMUTATIONS)]


# -- RSA -------------------------------------------------------------------------------------


def _ranks(model: ModelFeatures, frames: int) -> Float64:
    """Ranks of the distances between frames [layers, n, n]; zeros where nothing varies."""
    found = np.zeros((len(model.layers), frames, frames))
    for index, layer in enumerate(model.layers):
        if layer.statistics.finite and not layer.statistics.constant:
            distances = pdist(layer.pooled[:frames].astype(np.float64))
            found[index] = squareform(rankdata(distances))
    return found


def _rank_correlation(x: Float64, y: Float64) -> Float64:
    upper = np.triu_indices(x.shape[1], 1)
    left, right = (ranks[:, upper[0], upper[1]] for ranks in (x, y))
    left = left - left.mean(axis=1, keepdims=True)
    right = right - right.mean(axis=1, keepdims=True)
    own = [np.square(ranks).sum(axis=1) for ranks in (left, right)]
    return np.clip(ratio(left @ right.T, *own), -1.0, 1.0)
