"""Closed-form least squares for linear operators: the mathematics of adapters and of the refit.

Everything here works on rows: one row is one output position of an operator (a pixel, a token or
a frame), `x` [rows, groups, fan_in] its receptive field and `t` [rows, groups, fan_out] what the
operator should produce there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_info, threadpool_limits

from ..graph.arrays import Array, Float32, Float64

# Relative ridge: lambda = RIDGE x mean diagonal of the Gram matrix. Between 1e-4 and 1e-1 the
# refit's result moved by less than its noise (resnet20 -> resnet44, 1 500 frames).
RIDGE = 3e-3
# Rounds of the asymmetric target before a ReLU: with six the error on held-out frames is 2 to 3 %
# lower on resnet44 and sib_full_animal2 with blocks out, and 2 % higher on resnet20.
ROUNDS = 2
# Rows per matrix product: float32 inside, float64 across, so rounding stays at 1e-6.
_CHUNK = 4096
_Product = Callable[[slice], Float32]
_POOL: ContextVar[ThreadPoolExecutor | None] = ContextVar("_POOL", default=None)


@contextmanager
def products_in_threads() -> Generator[None]:
    """Products of many rows run as chunks on as many threads as BLAS had; BLAS itself has one.

    BLAS's own threads spin while they wait for each other. With another busy process on two cores
    a factorisation of 576 unknowns took 236 ms on two threads and 3 ms on one. Results do not
    depend on the number of threads.
    """
    pools = cast("list[dict[str, Any]]", threadpool_info())
    threads = max((p["num_threads"] for p in pools if p["user_api"] == "blas"), default=1)
    if threads < 2 or _POOL.get() is not None:
        with threadpool_limits(1, user_api="blas"):
            yield
        return
    with ThreadPoolExecutor(threads) as pool, threadpool_limits(1, user_api="blas"):
        token = _POOL.set(pool)
        try:
            yield
        finally:
            _POOL.reset(token)


@dataclass(frozen=True)
class Affine:
    """An affine map per group: weight [groups, fan_in, fan_out], bias [groups, fan_out]."""

    weight: Float64
    bias: Float64

    def __call__(self, x: Float32) -> Float32:
        """Predictions [rows, groups, fan_out] for x [rows, groups, fan_in]."""
        return _apply(x, self.weight) + self.bias.astype(np.float32)


class Normal:
    """Centred normal equations of rows x, factorised once and solved for several targets.

    G = sum (x - mean)(x - mean)^T per group, in float64. The bias is solved through the means, so
    the ridge never shrinks it. Takes x over: it is centred in place.
    """

    def __init__(self, x: Float32, fit_bias: bool = True, ridge: float = RIDGE) -> None:
        rows, groups, fan_in = x.shape
        self.fit_bias = fit_bias
        self.mean: Float64 = np.zeros((groups, fan_in))
        if fit_bias:
            self.mean = x.mean(axis=0, dtype=np.float64)
            x -= self.mean.astype(np.float32)
        self.centred = x
        self._grams: list[Float64] = []
        self._factors: list[tuple[Float64, bool]] = []
        self._pulls: dict[tuple[int, int], tuple[Affine, Float64]] = {}
        for group in range(groups):
            gram = gram_matrix(x[:, group])
            # A dead input (all zero) would make G singular; the floor keeps W0 there.
            damping = max(ridge * float(np.trace(gram)) / fan_in, 1e-12 * max(rows, 1))
            self._grams.append(gram)
            damped = gram + damping * np.eye(fan_in)
            self._factors.append(scipy.linalg.cho_factor(damped, lower=True, overwrite_a=True))

    def solve(self, t: Float32, start: Affine | None = None) -> Affine:
        """W = W0 + (G + lambda D)^-1 (H - G W0) for targets t [rows, groups, fan_out].

        `start` gives W0 (zero when absent): directions the rows do not excite keep it.
        """
        _, groups, fan_in = self.centred.shape
        weight = np.zeros((groups, fan_in, t.shape[2]))
        bias = np.zeros((groups, t.shape[2])) if start is None else start.bias.copy()
        t_mean = t.mean(axis=0, dtype=np.float64) if self.fit_bias else bias
        shifted = t - t_mean.astype(np.float32)
        for group in range(groups):
            right = cross_matrix(self.centred[:, group], shifted[:, group])
            if start is not None:
                right -= self._pull(start, group)
                weight[group] = start.weight[group]
            weight[group] += scipy.linalg.cho_solve(self._factors[group], right)
            if self.fit_bias:
                bias[group] = t_mean[group] - self.mean[group] @ weight[group]
        return Affine(weight, bias)

    def _pull(self, start: Affine, group: int) -> Float64:
        """G W0, which every round of a fit needs."""
        key = (id(start), group)
        if key not in self._pulls:
            self._pulls[key] = (start, self._grams[group] @ start.weight[group])
        return self._pulls[key][1]

    def predict(self, solution: Affine) -> Float32:
        """What `solution` gives on the rows themselves, [rows, groups, fan_out]."""
        offset = solution.bias + np.einsum("gi,gio->go", self.mean, solution.weight)
        return _apply(self.centred, solution.weight) + offset.astype(np.float32)


def gram_matrix(x: Array) -> Float64:
    """sum over rows of x x^T, x [rows, d]: float32 products, float64 sums."""
    # NumPy makes a symmetric rank-k update of it: half the work of a general product.
    return _summed(lambda rows: x[rows].T @ x[rows], *x.shape)


def cross_matrix(x: Array, t: Array) -> Float64:
    """sum over rows of x t^T, x [rows, d], t [rows, o]: float32 products, float64 sums."""
    return _summed(lambda rows: x[rows].T @ t[rows], *x.shape)


def _summed(product: _Product, rows: int, columns: int) -> Float64:
    """The products of chunks of rows added up in their order."""
    first, *others = [*_mapped(product, rows, columns)]
    total = first.astype(np.float64)
    for part in others:
        total += part
    return total


def _mapped(product: _Product, rows: int, columns: int) -> Iterable[Float32]:
    # Chunks much longer than their products are wide, which are all held at once.
    step = max(_CHUNK, 2 * columns)
    chunks = [slice(start, start + step) for start in range(0, max(rows, 1), step)]
    pool = _POOL.get()
    return map(product, chunks) if pool is None or len(chunks) < 2 else pool.map(product, chunks)


def _apply(x: Float32, weight: Float64) -> Float32:
    cast = weight.astype(np.float32)
    if x.shape[1] == 1:
        parts = _mapped(lambda rows: x[rows, 0] @ cast[0], len(x), x.shape[2])
        return np.concatenate([*parts])[:, None]
    return np.matmul(x.transpose(1, 0, 2), cast).transpose(1, 0, 2)


@dataclass(frozen=True)
class Problem:
    """Rows of one problem: x [rows, groups, fan_in] has to give `wanted` [rows, groups, fan_out].

    `other` is added to the map's output before it is compared (the skip path of an Add).
    `rectified` says that a ReLU follows: where `wanted` is 0 or less any value below 0 is as good.
    """

    x: Float32
    wanted: Float32
    other: Float32 | None = None
    rectified: bool = False


def fit(
    problem: Problem,
    start: Affine | None = None,
    *,
    fit_bias: bool = True,
    ridge: float = RIDGE,
    rounds: int = ROUNDS,
) -> Affine:
    """The affine map that solves the problem best; its x is overwritten.

    Before a ReLU, targets of 0 or less become min(prediction, 0) and the problem is solved again
    `rounds` times (asymmetric reconstruction, Zhang et al. 2015, arXiv 1505.06798, section 3.2).
    """
    normal = Normal(problem.x, fit_bias, ridge)
    first = target = problem.wanted
    other, rectified = problem.other, problem.rectified
    if rectified and start is not None and not target.all():
        # Exact zeros are the trace of a ReLU: what was below them, the old weights know best.
        guess = normal.predict(start)
        guess += 0 if other is None else other
        first = np.where(target == 0, np.minimum(guess, 0), target)
    solution = normal.solve(first if other is None else first - other, start)
    if not rectified:
        return solution
    negative = target <= 0
    for _ in range(rounds):
        total = normal.predict(solution)
        if other is not None:
            total += other
        relaxed = np.where(negative, np.minimum(total, 0), target)
        solution = normal.solve(relaxed if other is None else relaxed - other, start)
    return solution
