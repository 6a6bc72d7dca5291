"""Sketches: a frame's whole map in a few hundred numbers that keep inner products.

A count sketch (Charikar et al. 2002; a sparse Johnson-Lindenstrauss map, Kane & Nelson 2014):
coordinate i is added with a random sign to bucket i mod k. Inner products of sketches are
unbiased, with a relative standard error of at most about sqrt(2 / k) each; CKA averages over all
pairs of frames and is far better (the two halves of a sketch tell how much, see `pairs`).
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from zlib import crc32

import numpy as np

from ..graph.arrays import Array, Float32

# Numbers per half of a sketch. A prime, so that rows and channels of a map, whose lengths are
# mostly powers of two, spread over all the buckets.
HALF = 127
WIDTH = 2 * HALF


def sketch(x: Array, seed: int, name: str) -> Float32:
    """Sketches [n, 254] of arrays [n, ...]: two independent halves side by side.

    `seed` and `name` (of the layer) decide the signs: two layers have independent sketches, the
    same layer always the same one. Linear, so centring may come after.
    """
    flat = np.ascontiguousarray(x.reshape(len(x), -1), dtype=np.float32)
    size = flat.shape[1]
    whole = size // HALF * HALF
    result = np.zeros((len(x), 2, HALF), np.float32)
    for half in range(2):
        signs = _signs(size, seed, crc32(name.encode()), half)
        if whole:
            blocks = flat[:, :whole].reshape(len(x), -1, HALF)
            result[:, half] = np.einsum("nrk,rk->nk", blocks, signs[:whole].reshape(-1, HALF))
        result[:, half, : size - whole] += flat[:, whole:] * signs[whole:]
    return result.reshape(len(x), WIDTH)


@lru_cache(maxsize=4)
def _mixer(size: int, width: int, seed: int) -> Float32:
    generator = np.random.default_rng((seed, size))
    return generator.standard_normal((size, width), dtype=np.float32) / np.float32(sqrt(width))


def mixed_down(rows: Float32, width: int, seed: int) -> Float32:
    """Rows [n, c] with at most `width` channels: dense Johnson-Lindenstrauss, equal for equal c."""
    if rows.shape[1] <= width:
        return rows
    return rows @ _mixer(rows.shape[1], width, seed)


# Signs of 224 x 224 maps take megabytes; a few layers' worth is kept, for batch after batch.
_SIGN_NBYTES = 192 << 20
_kept: dict[tuple[int, int, int, int], Float32] = {}


def _signs(size: int, seed: int, name: int, half: int) -> Float32:
    key = (size, seed, name, half)
    if key not in _kept:
        if sum(array.nbytes for array in _kept.values()) + 4 * size > _SIGN_NBYTES:
            _kept.clear()
        bits = np.random.default_rng((seed, name, half)).integers(0, 2, size, dtype=np.int8)
        _kept[key] = (2 * bits - 1).astype(np.float32)
    return _kept[key]
