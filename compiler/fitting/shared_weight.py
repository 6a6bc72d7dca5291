"""Layers of one shape: whether one weight could serve them, and the best such weight.

Adjacent layers that do alike (MPruner's clusters, arXiv 2408.13482; Layer Consistency) are found
by fitting one weight to what both produce, and by how much of it that keeps on held-out rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import scipy.linalg

from ..execution.rows import Rows, positions_per_frame, sample_positions
from ..graph.arrays import Array, Float32, Float64
from ..graph.program import Program
from ..graph.weights import nbytes_of
from .operators import Conv, LinearOperator, linear_operator
from .regression import RIDGE, Affine, Normal, Problem

# Rows per operator that a run is judged on, and the share of them that the fit does not see.
_ROWS = 768
_HELD_OUT = 0.25
# Bytes that the rows of all operators together may take: fewer rows where it would be more.
_ROWS_NBYTES = 256 << 20
# Runs of so many adjacent layers are tried, and all of a shape.
_LENGTHS = (2, 3, 4, 6, 8, 12)
# Longer runs are tried where every pair of neighbours keeps this R2.
_PROMISING = 0.8
# Weights of fewer numbers are not worth the trouble.
_FEWEST_WEIGHTS = 256


def may_tie(operators: Sequence[LinearOperator]) -> bool:
    """Whether one weight could serve all: one shape, one type, read in the same way."""
    return len(operators) > 1 and len({operator.form for operator in operators}) == 1


def joint_fit(
    operators: Sequence[LinearOperator], inputs: Sequence[Float32], targets: Sequence[Float32]
) -> list[Affine]:
    """One weight for all rows, and a bias for each operator, about its own means.

    `inputs` [rows, groups, fan_in] and `targets` [rows, groups, fan_out] per operator.
    """
    start = Affine(_mean_weight(operators), np.zeros_like(operators[0].affine().bias))
    centred = [_centred(op, x, t) for op, x, t in zip(operators, inputs, targets)]
    x = np.concatenate([x for x, _, _, _ in centred])
    t = np.concatenate([t for _, t, _, _ in centred])
    weight = Normal(Problem(x, t), fit_bias=False).solve(t, start).weight
    return [
        Affine(weight, t_mean - np.einsum("gi,gio->go", x_mean, weight))
        for _, _, x_mean, t_mean in centred
    ]


def _mean_weight(operators: Sequence[LinearOperator]) -> Float64:
    total = sum((op.affine().weight for op in operators), start=np.zeros(1))
    return np.asarray(total / len(operators), np.float64)


def _centred(
    operator: LinearOperator, x: Float32, t: Float32
) -> tuple[Float32, Float32, Float64, Float64]:
    """Inputs and targets about their means, and the means; about 0 where there is no bias."""
    x_mean, t_mean = np.zeros(x.shape[1:]), np.zeros(t.shape[1:])
    if operator.fits_bias:
        x_mean, t_mean = x.mean(axis=0, dtype=np.float64), t.mean(axis=0, dtype=np.float64)
    return x - x_mean.astype(np.float32), t - t_mean.astype(np.float32), x_mean, t_mean


class TieObserver:
    """The held-out R2 of one weight for all, by runs of adjacent operators of one shape.

    Of every operator that has its like among `models`, in all at most `_ROWS_NBYTES` of what it
    reads are kept; what it makes of them, its own weight says. Runs that share a weight already, or
    all of which could not save `least` bytes, are left out. `found` goes by node names, in order;
    the lowest R2 of a run's operators counts.
    """

    def __init__(
        self, program: Program, models: Sequence[str], limit: int, seed: int = 0, least: int = 1
    ) -> None:
        kinds = [kind for model in models for kind in _kinds(program, model)]
        self.limit = limit
        self.found: dict[tuple[str, ...], float] = {}
        self._seed, self._frames = seed, 0
        self._runs = [kind for kind in kinds if _most_saved(kind) >= max(least, 1)]
        self._operators = {op.node.name: op for kind in self._runs for op in kind}
        self._parts: dict[str, list[Float32]] = {name: [] for name in self._operators}
        row = 4 * sum(op.fan_in * op.groups for op in self._operators.values())
        self._rows = min(_ROWS, _ROWS_NBYTES // max(row, 1))
        self._places: dict[int, Rows] = {}

    @property
    def values(self) -> Sequence[str]:
        """What the operators read."""
        return list(dict.fromkeys(self._operators[name].source.name for name in self._parts))

    def begin(self, frames: int) -> None:
        """Rows are drawn from so many frames."""
        self._frames = frames

    def take(self, batch: slice, arrays: Mapping[str, Array]) -> None:
        """Keep rows of one batch."""
        for name in list(self._parts):
            operator = self._operators[name]
            x = arrays[operator.source.name]
            size = places_of(operator, x, batch.stop - batch.start)
            if size is None:
                del self._parts[name]
                continue
            if size not in self._places:
                drawn = sample_positions(self._frames, size, self._rows, self._seed)
                self._places[size] = drawn
            self._parts[name].append(operator.rows(x, self._places[size][batch]))

    def finish(self) -> None:
        """Fit every run."""
        kept = {
            name: _Kept(self._operators[name], parts, self._seed)
            for name, parts in self._parts.items()
            if parts
        }
        self._parts = {}
        for kind in self._runs:
            for length in sorted({n for n in (*_LENGTHS, len(kind)) if n <= len(kind)}):
                for start in range(len(kind) - length + 1):
                    self._judge([kept.get(op.node.name) for op in kind[start : start + length]])

    def _judge(self, run: Sequence[_Kept | None]) -> None:
        there = [one for one in run if one is not None]
        names = tuple(one.operator.node.name for one in there)
        apart = len({id(one.operator.weight) for one in there}) == len(run)
        # One weight does not serve many where it does not serve two of them.
        promising = len(run) == 2 or all(
            self.found.get(pair, 0.0) >= _PROMISING for pair in pairwise(names)
        )
        if apart and promising:
            self.found[names] = _shared_r2(there)


def _kinds(program: Program, model: str) -> list[list[LinearOperator]]:
    """The model's operators by shape, in order; those of which there are several."""
    kinds: dict[tuple[object, ...], list[LinearOperator]] = {}
    for node in program.nodes_of(model):
        operator = linear_operator(node)
        if operator is not None and operator.fan_in * operator.fan_out >= _FEWEST_WEIGHTS:
            kinds.setdefault(operator.form, []).append(operator)
    return [kind for kind in kinds.values() if len(kind) > 1]


def _most_saved(kind: Sequence[LinearOperator]) -> int:
    return (len(kind) - 1) * nbytes_of(kind[0].weight)


def places_of(operator: LinearOperator, x: Array, frames: int) -> int | None:
    """Places of a frame at which the operator makes something of its input x; None where that
    does not divide evenly."""
    if not isinstance(operator, Conv):
        return positions_per_frame(x, frames, channels_last=True)
    if x.ndim < 3 or not frames or not x.size or len(x) % frames:
        return None
    size = math.prod(operator.window(x.shape[2:]).output_size(x.shape[2:]))
    return size * (len(x) // frames) or None


class _Kept:
    """An operator with rows of what it reads, about their mean, and their Gram matrices per group.

    `fit` and `judge` are the sums of x x^T [groups, fan_in, fan_in] over the rows that a fit sees
    and over the others (about their own mean). None where rows are fewer than unknowns: the rows
    themselves are kept.
    """

    def __init__(self, operator: LinearOperator, parts: Sequence[Float32], seed: int) -> None:
        self.operator = operator
        self.weight = operator.affine().weight
        x = np.concatenate(parts)
        if operator.fits_bias:
            x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)
        order = np.random.default_rng((seed, len(x))).permutation(len(x))
        held = max(1, int(len(order) * _HELD_OUT))
        self.judged, self.fitted = x[order[:held]], x[order[held:]]
        self.grams: tuple[Float64, Float64, Float64] | None = None
        if x.shape[1] > 1 or x.shape[2] <= len(self.fitted):
            gram, mean = _gram(self.judged), self.judged.mean(axis=0, dtype=np.float64)
            about = gram - len(self.judged) * mean[:, :, None] * mean[:, None]
            self.grams = _gram(self.fitted), gram, about
            self.judged = self.fitted = x[:0]


def _gram(x: Float32) -> Float64:
    apart = np.ascontiguousarray(x.transpose(1, 2, 0))
    return (apart @ apart.transpose(0, 2, 1)).astype(np.float64)


def _power(gram: Float64, weight: Float64) -> float:
    """The sum over rows of |x W|^2, by their Gram matrices."""
    return float(np.vdot(weight, gram @ weight))


def _shared_r2(run: Sequence[_Kept]) -> float:
    """The lowest R2 of the run's operators on rows kept back, with the weight that fits all."""
    start: Float64 = np.mean([one.weight for one in run], axis=0)
    worst = 1.0
    if all(one.grams is not None for one in run):
        grams = [one.grams for one in run if one.grams is not None]
        gram: Float64 = np.sum([fit for fit, _, _ in grams], axis=0)
        parts = [fit @ (one.weight - start) for one, (fit, _, _) in zip(run, grams)]
        pull: Float64 = np.sum(parts, axis=0)
        size = gram.shape[1]
        ridge: Float64 = RIDGE * np.trace(gram, axis1=1, axis2=2) / size + 1e-12
        damped: Float64 = gram + ridge[:, None, None] * np.eye(size)
        weight: Float64 = start + np.linalg.solve(damped, pull)
        errors = [_power(judge, weight - one.weight) for one, (_, judge, _) in zip(run, grams)]
        powers = [_power(about, one.weight) for one, (_, _, about) in zip(run, grams)]
    else:
        guesses = _dual(run, start[0])
        wanted = [one.judged[:, 0] @ one.weight[0] for one in run]
        errors = [float(np.square(a - b).sum()) for a, b in zip(guesses, wanted)]
        powers = [float(np.square(t - t.mean(axis=0)).sum()) for t in wanted]
    for error, power in zip(errors, powers):
        worst = min(worst, 1 - error / power if power > 0 else 1.0)
    return worst


def _dual(run: Sequence[_Kept], start: Float64) -> list[Float64]:
    """Ridge predictions for wide inputs: W0 + X^T (X X^T + lambda I)^-1 (T - X W0)."""
    wide = np.concatenate([one.fitted[:, 0] for one in run]).astype(np.float64)
    missing = np.concatenate([one.fitted[:, 0] @ (one.weight[0] - start) for one in run])
    gram = wide @ wide.T
    gram[np.diag_indices(len(gram))] += RIDGE * float(np.trace(gram)) / wide.shape[1] + 1e-12
    left = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram), missing)
    parts = [one.judged[:, 0] for one in run]
    return [part @ start + (part @ wide.T) @ left for part in parts]
