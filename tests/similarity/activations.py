"""Activations and rows that the tests of measures are given, and HSIC by its definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def maps(seed: int, frames: int = 96, channels: int = 5, size: int = 6) -> Float32:
    """Activations after a ReLU, with something per frame that all places share."""
    random = np.random.default_rng(seed)
    frame = random.normal(size=(frames, channels, 1, 1))
    return np.maximum(frame + random.normal(size=(frames, channels, size, size)), 0).astype("f4")


def blended(x: Float32, seed: int, noise: float = 0.5) -> Float32:
    """Another network's view of the same frames: channels mixed, noise, a ReLU."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(x.shape[1], x.shape[1]))
    mixed = np.einsum("nchw,cd->ndhw", x, mix) + noise * random.normal(size=x.shape)
    return np.maximum(mixed, 0).astype("f4")


def pair(n: int = 40, p: int = 7, q: int = 5, seed: int = 0) -> tuple[Float64, Float64]:
    """Two related representations with means far from 0."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, p)) + 3
    y = x @ random.normal(size=(p, q)) + random.normal(size=(n, q)) - 2
    return x, y


def hsic_1(k: Float64, k2: Float64) -> float:
    """Song et al. 2012, equation 5, written with n x n matrices as it stands there."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), k2 - np.diag(np.diag(k2))
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))
