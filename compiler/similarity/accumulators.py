"""Sums that add up while rows stream by, in float64, and that can be taken apart again.

Leaving one batch out of a sum is a subtraction, which is what makes the jackknife and the
held-out R2 of thousands of pairs affordable.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..graph.arrays import Array, Float64

# A value whose variance is below this share of its power is constant but for rounding.
_CONSTANT = 1e-12


@dataclass(frozen=True)
class Moments:
    """First and second moments of paired rows x [n, p], y [n, q]: sums of x, y, xx', yy', xy'."""

    rows: int
    x: Float64
    y: Float64
    xx: Float64
    yy: Float64
    xy: Float64

    @staticmethod
    def of(x: Array, y: Array) -> Moments:
        """The moments of the rows. Raises ValueError when there are not as many of x as of y."""
        if len(x) != len(y):
            raise ValueError(f"{len(x)} rows are paired with {len(y)}")
        left, right = x.astype(np.float64), y.astype(np.float64)
        return Moments(
            len(x),
            left.sum(axis=0),
            right.sum(axis=0),
            left.T @ left,
            right.T @ right,
            left.T @ right,
        )

    def __add__(self, other: Moments) -> Moments:
        return self._each(other, operator.add)

    def __sub__(self, other: Moments) -> Moments:
        return self._each(other, operator.sub)

    def _each(self, other: Moments, combine: Callable[[Any, Any], Any]) -> Moments:
        names = [field.name for field in fields(Moments)]
        return Moments(*(combine(getattr(self, name), getattr(other, name)) for name in names))

    def centred(self) -> tuple[Float64, Float64, Float64]:
        """Sxx, Syy, Sxy about the means (sums over rows, not divided)."""
        n = max(self.rows, 1)
        return (
            self.xx - np.outer(self.x, self.x) / n,
            self.yy - np.outer(self.y, self.y) / n,
            self.xy - np.outer(self.x, self.y) / n,
        )

    @property
    def constant(self) -> bool:
        """Whether x or y does not vary (or is not finite), so that nothing can be compared."""
        sxx, syy, _ = self.centred()
        varying = (
            float(np.trace(sxx)) > _CONSTANT * float(np.trace(self.xx))
            and float(np.trace(syy)) > _CONSTANT * float(np.trace(self.yy))
        )  # fmt: skip
        return not varying


def total(parts: Sequence[Moments]) -> Moments:
    """The moments of all parts together."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


@dataclass
class MinibatchCka:
    """Debiased linear CKA of every layer of one list with every layer of another, batch by batch.

    sum over batches of HSIC_1(K, L) / sqrt(sum HSIC_1(K, K) * sum HSIC_1(L, L)): Nguyen et al.
    2020 (arXiv 2010.15327), equations 2 and 3. Holds three numbers per batch and pair, never
    activations.
    """

    cross: list[Float64] = field(default_factory=list[Float64])  # per batch [layers, layers]
    left: list[Float64] = field(default_factory=list[Float64])  # per batch [layers]
    right: list[Float64] = field(default_factory=list[Float64])

    def add(self, left: Float64, right: Float64) -> None:
        """Take in a batch: U-centred Gram matrices of both lists, [layers, b, b] (`u_centred`)."""
        n = left.shape[1]
        scale = 1.0 / (n * (n - 3))
        flat_left, flat_right = left.reshape(len(left), -1), right.reshape(len(right), -1)
        self.cross.append(flat_left @ flat_right.T * scale)
        self.left.append(np.square(flat_left).sum(axis=1) * scale)
        self.right.append(np.square(flat_right).sum(axis=1) * scale)

    def values(self) -> Float64:
        """CKA [layers, layers]; nan where a layer does not vary or nothing was added."""
        if not self.cross:
            return np.zeros((0, 0))
        return ratio(sum_of(self.cross), sum_of(self.left), sum_of(self.right))

    def spread(self) -> Float64:
        """The jackknife standard error over batches [layers, layers]; nan with one batch."""
        if len(self.cross) < 2:
            return np.full_like(self.cross[0], np.nan) if self.cross else np.zeros((0, 0))
        cross, left, right = sum_of(self.cross), sum_of(self.left), sum_of(self.right)
        return jackknife(
            [
                ratio(cross - a, left - b, right - c)
                for a, b, c in zip(self.cross, self.left, self.right)
            ]
        )


def sum_of(parts: Sequence[Float64]) -> Float64:
    """The elementwise sum."""
    return np.sum(np.stack(parts), axis=0)


def ratio(cross: Float64, left: Float64, right: Float64) -> Float64:
    """cross / sqrt(left right'), nan where either is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(np.maximum(left, 0))[:, None] * np.sqrt(np.maximum(right, 0))[None, :]
        return np.where(scale > 0, cross / scale, np.nan)


def jackknife(left_out: Sequence[Array]) -> Float64:
    """The standard error from estimates that each leave one of g batches out.

    sqrt((g - 1) / g * sum (theta_i - mean)^2): Efron 1982, section 3.
    """
    estimates = np.stack([np.asarray(each, np.float64) for each in left_out])
    count = len(estimates)
    deviations = np.square(estimates - estimates.mean(axis=0)).sum(axis=0)
    return np.sqrt((count - 1) / count * deviations)


def u_centred(gram: Float64) -> Float64:
    """U-centred Gram matrices [..., n, n]: HSIC_1(K, L) = <K~, L~> / (n (n - 3)).

    K~ = K - row means - column means + mean, all over the off-diagonal with n - 2 and
    (n - 1)(n - 2) in place of n and n^2, diagonal 0: Szekely & Rizzo 2014, equation 2.1; the
    inner product is Song et al. 2012's unbiased estimate. Overwrites `gram`. Needs n >= 4.
    """
    n = int(gram.shape[-1])
    index = np.arange(n, dtype=np.int64)
    gram[..., index, index] = 0.0
    rows = gram.sum(axis=-1)
    mean = rows.sum(axis=-1)[..., None, None] / ((n - 1) * (n - 2))
    gram -= rows[..., :, None] / (n - 2)
    gram -= rows[..., None, :] / (n - 2)
    gram += mean
    gram[..., index, index] = 0.0
    return gram
