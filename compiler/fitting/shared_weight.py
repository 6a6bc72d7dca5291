"""Layers of one shape: whether one weight could serve them, and the best such weight.

Adjacent layers that do alike (MPruner's clusters, arXiv 2408.13482; Layer Consistency) are found
by fitting one weight to what both produce, and by how much of it that keeps on held-out rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import scipy.linalg

from ..execution.executable import Executable
from ..execution.feeds import FrameSet, run_on
from ..execution.rows import positions_per_frame, sample_positions, value_rows
from ..graph.arrays import Float32, Float64
from ..graph.program import Program
from .operators import LinearOperator, linear_operator
from .regression import RIDGE, Affine, Normal, Problem

# Rows per operator that a pair is judged on, and the share of them that the fit does not see.
_ROWS = 768
_HELD_OUT = 0.25
_FEWEST_ROWS = 256
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


def measure_ties(
    program: Program, frames: FrameSet, models: Sequence[str], seed: int = 0
) -> dict[tuple[str, ...], float]:
    """The held-out R2 of one weight for all, by runs of adjacent operators of one shape.

    Runs go by node names, in order; the lowest R2 of a run's operators counts. One pass over the
    frames. Runs that share a weight already are left out.
    """
    kinds = [kind for model in models for kind in _kinds(program, model)]
    operators = {op.node.name: op for kind in kinds for op in kind}
    rows = _rows(program, list(operators.values()), frames, seed)
    found: dict[tuple[str, ...], float] = {}
    for kind in kinds:
        for length in sorted({n for n in (*_LENGTHS, len(kind)) if n <= len(kind)}):
            for start in range(len(kind) - length + 1):
                run = kind[start : start + length]
                names = tuple(operator.node.name for operator in run)
                apart = len({id(operator.weight) for operator in run}) == length
                # One weight does not serve many where it does not serve two of them.
                promising = length == 2 or all(
                    found.get(pair, 0.0) >= _PROMISING for pair in pairwise(names)
                )
                if apart and promising and all(name in rows for name in names):
                    found[names] = _shared_r2(run, [rows[name] for name in names], seed)
    return found


def _kinds(program: Program, model: str) -> list[list[LinearOperator]]:
    """The model's operators by shape, in order; those of which there are several."""
    kinds: list[list[LinearOperator]] = []
    for node in program.nodes_of(model):
        operator = linear_operator(node)
        if operator is None or operator.fan_in * operator.fan_out < _FEWEST_WEIGHTS:
            continue
        alike = next((kind for kind in kinds if may_tie([kind[0], operator])), None)
        if alike is None:
            kinds.append([operator])
        else:
            alike.append(operator)
    return [kind for kind in kinds if len(kind) > 1]


def _rows(
    program: Program, operators: Sequence[LinearOperator], frames: FrameSet, seed: int
) -> dict[str, tuple[Float32, Float32]]:
    """Inputs and results of every operator at sampled places, by node name."""
    if not operators:
        return {}
    wanted = {name: None for op in operators for name in (op.source.name, op.result.name)}
    segment = Executable(program, None, list(wanted))
    parts: dict[str, list[tuple[Float32, Float32]]] = {op.node.name: [] for op in operators}
    for batch, arrays in run_on(frames, segment):
        for operator in operators:
            name = operator.node.name
            result = arrays[operator.result.name]
            size = positions_per_frame(result, batch.stop - batch.start, operator.channels_last)
            if size is None or name not in parts:
                parts.pop(name, None)
                continue
            places = sample_positions(frames.count, size, _ROWS, seed)[batch]
            x = operator.rows(arrays[operator.source.name], places)
            t = value_rows(result, places, operator.channels_last)
            parts[name].append((x, t.reshape(len(x), x.shape[1], -1)))
    return {
        name: (np.concatenate([x for x, _ in held]), np.concatenate([t for _, t in held]))
        for name, held in parts.items()
        if held
    }


def _shared_r2(
    run: Sequence[LinearOperator],
    rows: Sequence[tuple[Float32, Float32]],
    seed: int,
) -> float:
    mean = _mean_weight(run)
    most = max(_FEWEST_ROWS, 2 * _ROWS // len(run))
    fit: list[tuple[Float32, Float32]] = []
    judge: list[tuple[Float32, Float32]] = []
    for operator, (x, t) in zip(run, rows):
        x, t, _, _ = _centred(operator, x, t)
        order = np.random.default_rng((seed, len(x))).permutation(len(x))[:most]
        held = max(1, int(len(order) * _HELD_OUT))
        fit.append((x[order[held:]], t[order[held:]]))
        judge.append((x[order[:held]], t[order[:held]]))
    x = np.concatenate([part for part, _ in fit])
    t = np.concatenate([part for _, part in fit])
    if x.shape[2] <= len(x) or x.shape[1] > 1:
        start = Affine(mean, np.zeros((x.shape[1], t.shape[2])))
        weight = Normal(Problem(x.copy(), t), fit_bias=False).solve(t, start).weight
        guesses = [np.einsum("ngi,gio->ngo", part, weight) for part, _ in judge]
    else:
        guesses = _dual(x[:, 0], t[:, 0], mean[0], [part[:, 0] for part, _ in judge])
    worst = 1.0
    for guess, (_, wanted) in zip(guesses, judge):
        power = float(np.square(wanted - wanted.mean(axis=0), dtype=np.float64).sum())
        error = float(np.square(guess - wanted, dtype=np.float64).sum())
        worst = min(worst, 1 - error / power if power > 0 else 1.0)
    return worst


def _dual(x: Float32, t: Float32, start: Float64, judged: Sequence[Float32]) -> list[Float64]:
    """Ridge predictions for wide inputs: W0 + X^T (X X^T + lambda I)^-1 (T - X W0)."""
    wide = x.astype(np.float64)
    gram = wide @ wide.T
    gram[np.diag_indices(len(gram))] += RIDGE * float(np.trace(gram)) / x.shape[1] + 1e-12
    left = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram), t - wide @ start)
    return [(part @ start + (part @ wide.T) @ left)[:, None] for part in judged]
