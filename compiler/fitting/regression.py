"""Closed-form least squares for linear operators: the mathematics of adapters and of the refit.

Everything here works on rows: one row is one output position of an operator (a pixel, a token or
a frame), `x` [rows, groups, fan_in] its receptive field and `t` [rows, groups, fan_out] what the
operator should produce there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_info, threadpool_limits

from ..graph.arrays import Array, Float32, Float64, Int64

# Relative ridge: lambda = RIDGE x mean diagonal of the Gram matrix. Between 1e-4 and 1e-1 the
# refit's result moved by less than its noise (resnet20 -> resnet44, 1 500 frames).
RIDGE = 3e-3
# Rounds of the asymmetric target before a ReLU: with six the error on held-out frames is 2 to 3 %
# lower on resnet44 and sib_full_animal2 with blocks out, and 2 % higher on resnet20.
ROUNDS = 2
# Rows per matrix product: float32 inside, float64 across, so rounding stays at 1e-6.
_CHUNK = 4096
# Numbers that a chunk of many small groups may have: they are put in order in the cache.
_GROUPED_CHUNK = 1 << 19
_POOL: ContextVar[tuple[ThreadPoolExecutor, int] | None] = ContextVar("_POOL", default=None)


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
        token = _POOL.set((pool, threads))
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
        return _apply(x, self.weight.astype(np.float32)) + self.bias.astype(np.float32)


@dataclass(frozen=True)
class Problem:
    """Rows of one problem: x [rows, groups, fan_in] has to give `wanted` [rows, groups, fan_out].

    `other` is added to the map's output before it is compared (the skip path of an Add).
    `rectified` says that a ReLU follows: where `wanted` is 0 or less any value below 0 is as good.
    `centre` [groups, fan_in] is what was taken off x already (None: nothing); about the mean,
    float32 products lose nothing to cancellation.
    """

    x: Float32
    wanted: Float32
    other: Float32 | None = None
    rectified: bool = False
    centre: Float32 | None = None

    def centred(self) -> Problem:
        """The same problem with x about its mean; x is overwritten where it was not before."""
        if self.centre is not None:
            return self
        centre = self.x.mean(axis=0, dtype=np.float64).astype(np.float32)
        np.subtract(self.x, centre, out=self.x)
        return replace(self, centre=centre)

    def some(self, rows: int) -> Problem:
        """About as many of the rows, from everywhere among them: views, nothing is copied."""
        step = slice(None, None, max(1, len(self.x) // max(rows, 1)))
        other = None if self.other is None else self.other[step]
        return replace(self, x=self.x[step], wanted=self.wanted[step], other=other)

    def narrowed(self, columns: Int64) -> Problem:
        """The problem with only some inputs, in rising order; written over the x of this one.

        One group, centred.
        """
        assert self.centre is not None
        for start in range(0, len(self.x), _CHUNK):
            rows = self.x[start : start + _CHUNK, 0]
            rows[:, : len(columns)] = rows[:, columns]
        return replace(self, x=self.x[:, :, : len(columns)], centre=self.centre[:, columns])

    def targets(self, rows: slice, guess: Float32 | None, below: bool = False) -> Float32:
        """What the map alone has to give in some rows.

        `guess` is what it gives now: in outputs that a ReLU cuts off it is as good, as far as the
        sum is not above 0. Those are outputs wanted to be 0 or less, with `below` only exactly 0.
        """
        wanted = self.wanted[rows]
        other = None if self.other is None else self.other[rows]
        if guess is not None:
            total = guess if other is None else guess + other
            np.minimum(total, 0, out=total)
            wanted = np.where(wanted == 0 if below else wanted <= 0, total, wanted)
        return wanted if other is None else wanted - other


class _Sums(NamedTuple):
    """x^T (t - mean) [groups, fan_in, fan_out] and sum (t - mean); the old biases."""

    products: Float64
    total: Float64
    mean: Float32
    old: Float64


class Normal:
    """Normal equations of a problem's rows, summed up once and solved for several targets.

    G = sum (x - mean)(x - mean)^T per group, in float64. The bias is solved through the means, so
    the ridge never shrinks it; without a bias to fit, G is about 0.
    """

    def __init__(self, problem: Problem, fit_bias: bool = True, ridge: float = RIDGE) -> None:
        self.problem = problem = problem.centred()
        x = problem.x
        self.fit_bias = fit_bias
        rows, self._groups, self._fan_in = x.shape
        self._rows = max(rows, 1)
        assert problem.centre is not None
        self._centre = problem.centre.astype(np.float64)
        gram, self._sums = _sums(x, lambda rows: _moments(x[rows]))
        if fit_bias:
            gram -= self._sums[:, :, None] * (self._sums / self._rows)[:, None]
        else:
            across = self._sums[:, :, None] * self._centre[:, None]
            gram += across + across.transpose(0, 2, 1)
            gram += self._rows * self._centre[:, :, None] * self._centre[:, None]
        self._gram = gram
        self._factors = self._factored(ridge)
        self._pulls: dict[int, tuple[Affine, Float64]] = {}

    @property
    def gram(self) -> Float64:
        """G, [groups, fan_in, fan_in], without a ridge."""
        return self._gram

    @property
    def mean(self) -> Float64:
        """The mean of the rows, [groups, fan_in]."""
        return self._centre + self._sums / self._rows

    def at_ridge(self, ridge: float) -> Normal:
        """The same sums with another ridge."""
        other = copy(self)
        other._factors = other._factored(ridge)
        return other

    def fit(
        self, problem: Problem, start: Affine | None, rounds: int = ROUNDS, trusted: bool = True
    ) -> Affine:
        """The map that solves a problem of the same x best; see the function `fit`.

        Unless `trusted`, the start says nothing of what is below the zeros that a ReLU left.
        """
        return asymmetric(
            problem,
            start,
            rounds,
            trusted,
            lambda guess, below: self._round(problem, start, guess, below),
        )

    def fits_at(
        self, problem: Problem, start: Affine, ridges: Sequence[float]
    ) -> Iterator[tuple[float, Affine]]:
        """The first round's map by each of several ridges, which all go by the same sums."""
        sums = self._right(problem, start, first_guess(problem, start), below=True)
        for ridge in ridges:
            yield ridge, self.at_ridge(ridge)._solution(sums, start)

    def solve(self, t: Float32, start: Affine | None = None) -> Affine:
        """W = W0 + (G + lambda D)^-1 (H - G W0) for targets t [rows, groups, fan_out].

        `start` gives W0 (zero when absent): directions the rows do not excite keep it.
        """
        return self._round(replace(self.problem, wanted=t, other=None), start, None)

    def predict(self, solution: Affine, rows: slice = slice(None)) -> Float32:
        """What `solution` gives on the rows themselves, [rows, groups, fan_out]."""
        offset = solution.bias + np.einsum("gi,gio->go", self._centre, solution.weight)
        made = _apply(self.problem.x[rows], solution.weight.astype(np.float32))
        made += offset.astype(np.float32)
        return made

    def inverse(self) -> Float64:
        """(G + lambda D)^-1 of a problem of one group, [fan_in, fan_in]."""
        assert isinstance(self._factors, tuple)
        made, info = scipy.linalg.lapack.dpotri(self._factors[0], lower=1)
        assert not info
        inverse = made.T  # in NumPy's order; LAPACK makes one triangle
        for row in range(self._fan_in):
            inverse[row + 1 :, row] = inverse[row, row + 1 :]
        return inverse

    def _round(
        self, problem: Problem, start: Affine | None, guess: Affine | None, below: bool = False
    ) -> Affine:
        """The solution for the targets that follow from `guess`."""
        return self._solution(self._right(problem, start, guess, below), start)

    def _right(
        self, problem: Problem, start: Affine | None, guess: Affine | None, below: bool
    ) -> _Sums:
        x = self.problem.x
        shape = (self._groups, problem.wanted.shape[2])
        old = np.zeros(shape) if start is None else start.bias
        # Targets about their mean, or so: float32 sums lose less.
        mean = problem.wanted[:_CHUNK].mean(axis=0) if self.fit_bias else old.astype(np.float32)

        def sums(rows: slice) -> tuple[Float32, Float32]:
            made = None if guess is None else self.predict(guess, rows)
            t = problem.targets(rows, made, below) - mean
            return _product(x[rows], t), t.sum(axis=0)

        products, total = _sums(x, sums)
        return _Sums(products, total, mean, old)

    def _solution(self, sums: _Sums, start: Affine | None) -> Affine:
        right, total, mean, old = sums
        if self.fit_bias:
            right = right - self._sums[:, :, None] * (total / self._rows)[:, None]
        else:
            right = right + self._centre[:, :, None] * total[:, None]
        weight = self._solved(right if start is None else right - self._pull(start))
        if start is not None:
            weight += start.weight
        if not self.fit_bias:
            return Affine(weight, old.copy())
        x_mean = self._centre + self._sums / self._rows
        t_mean = mean + total / self._rows
        return Affine(weight, t_mean - np.einsum("gi,gio->go", x_mean, weight))

    def _factored(self, ridge: float) -> tuple[Float64, bool] | Float64:
        """The damped matrices: a Cholesky factor of one, themselves of many small ones."""
        trace = np.trace(self._gram, axis1=1, axis2=2)
        # A dead input (all zero) would make G singular; the floor keeps W0 there.
        damping = np.maximum(ridge * trace / self._fan_in, 1e-12 * self._rows)
        damped = self._gram.copy()
        diagonal: Int64 = np.arange(self._fan_in, dtype=np.int64)
        damped[:, diagonal, diagonal] += damping[:, None]
        if self._groups > 1:
            return damped
        return scipy.linalg.cho_factor(damped[0], lower=True, overwrite_a=True)

    def _solved(self, right: Float64) -> Float64:
        if isinstance(self._factors, tuple):
            return scipy.linalg.cho_solve(self._factors, right[0])[None]
        return np.linalg.solve(self._factors, right).astype(np.float64, copy=False)

    def _pull(self, start: Affine) -> Float64:
        """G W0, which every round of a fit needs."""
        if id(start) not in self._pulls:
            self._pulls[id(start)] = start, self._gram @ start.weight
        return self._pulls[id(start)][1]


def asymmetric(
    problem: Problem,
    start: Affine | None,
    rounds: int,
    trusted: bool,
    solved: Callable[[Affine | None, bool], Affine],
) -> Affine:
    """The last of a fit's rounds; `solved(guess, below)` solves one, see Problem.targets."""
    solution = solved(first_guess(problem, start) if trusted else None, True)
    for _ in range(rounds if problem.rectified else 0):
        solution = solved(solution, False)
    return solution


def first_guess(problem: Problem, start: Affine | None) -> Affine | None:
    """The old weights where exact zeros are the trace of a ReLU: they know best what was below."""
    return start if problem.rectified and not problem.wanted.all() else None


def fit(
    problem: Problem,
    start: Affine | None = None,
    *,
    fit_bias: bool = True,
    ridge: float = RIDGE,
    rounds: int = ROUNDS,
) -> Affine:
    """The affine map that solves the problem best; an x that is not centred yet is overwritten.

    Before a ReLU, targets of 0 or less become min(prediction, 0) and the problem is solved again
    `rounds` times (asymmetric reconstruction, Zhang et al. 2015, arXiv 1505.06798, section 3.2).
    """
    return Normal(problem, fit_bias, ridge).fit(problem, start, rounds)


def gram_matrix(x: Array) -> Float64:
    """sum over rows of x x^T, x [rows, d]: float32 products, float64 sums."""
    return cross_matrix(x, x)


def cross_matrix(x: Array, t: Array) -> Float64:
    """sum over rows of x t^T, x [rows, d], t [rows, o]: float32 products, float64 sums."""
    (total,) = _sums(x[:, None], lambda rows: (x[rows].T @ t[rows],))
    return total


def _sums(x: Array, products: Callable[[slice], tuple[Float32, ...]]) -> tuple[Float64, ...]:
    """The products of chunks of x's rows added up in their order."""
    columns = x.shape[1] * x.shape[2]
    # Chunks much longer than their products are wide.
    step = max(_CHUNK, 2 * columns) if x.shape[1] == 1 else max(64, _GROUPED_CHUNK // columns)
    chunks = [slice(start, start + step) for start in range(0, max(len(x), 1), step)]
    totals = [part.astype(np.float64) for part in products(chunks[0])]
    for parts in _mapped(products, chunks[1:]):
        for total, part in zip(totals, parts, strict=True):
            total += part
    return tuple(totals)


def _mapped(
    products: Callable[[slice], tuple[Float32, ...]], chunks: Sequence[slice]
) -> Iterator[tuple[Float32, ...]]:
    pool, threads = _POOL.get() or (None, 1)
    if pool is None or len(chunks) < 2:
        yield from map(products, chunks)
        return
    # No more at a time than threads: products are as wide as a Gram matrix.
    for start in range(0, len(chunks), threads):
        yield from pool.map(products, chunks[start : start + threads])


def _moments(x: Float32) -> tuple[Float32, Float32]:
    return _product(x, x), x.sum(axis=0)


def _product(x: Float32, t: Float32) -> Float32:
    """x^T t per group."""
    if x.shape[1] == 1:
        # Of x with itself NumPy makes a symmetric rank-k update: half the work.
        return (x[:, 0].T @ t[:, 0])[None]
    apart = np.ascontiguousarray(x.transpose(1, 2, 0))
    return apart @ (apart.transpose(0, 2, 1) if t is x else t.transpose(1, 0, 2))


def _apply(x: Float32, weight: Float32) -> Float32:
    if x.shape[1] == 1:
        return (x[:, 0] @ weight[0])[:, None]
    return np.matmul(x.transpose(1, 0, 2), weight).transpose(1, 0, 2)
