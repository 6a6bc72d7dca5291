"""Measures against textbook formulas, and what must not change them."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import pearsonr, rankdata

from repsimc.compiler.similarity.accumulators import Moments
from tests.similarity import one_pair as measures
from tests.similarity.activations import hsic_1, pair

Float64 = NDArray[np.float64]


def textbook_cka(x: Float64, y: Float64) -> float:
    k, m = x @ x.T, y @ y.T
    return hsic_1(k, m) / math.sqrt(hsic_1(k, k) * hsic_1(m, m))


@pytest.mark.parametrize("q", [1, 5, 90])
def test_debiased_cka_is_the_textbook_one(q: int) -> None:
    x, y = pair(q=q)
    assert measures.debiased_cka(x, y) == pytest.approx(textbook_cka(x, y), abs=1e-9)


def test_minibatch_cka_sums_over_batches_then_divides() -> None:
    x, y = pair(n=43)
    parts = [(x[k : k + 10], y[k : k + 10]) for k in (0, 10, 20, 30)]
    grams = [(a @ a.T, b @ b.T) for a, b in parts]
    cross, left, right = (
        sum(hsic_1(*(g[k] for k in which)) for g in grams) for which in ((0, 1), (0, 0), (1, 1))
    )
    assert measures.minibatch_cka(x, y, 10) == pytest.approx(cross / math.sqrt(left * right))
    assert measures.minibatch_cka(x, y, 43) == pytest.approx(textbook_cka(x, y))


def test_debiasing_matters_when_channels_outnumber_frames() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(2, 20, 400))
    assert abs(measures.debiased_cka(x, y)) < 0.1
    centred = [part - part.mean(axis=0) for part in (x, y)]
    biased = np.square(centred[0].T @ centred[1]).sum() / math.prod(
        np.linalg.norm(c.T @ c) for c in centred
    )
    assert biased > 0.8


def test_canonical_correlations() -> None:
    x, y = pair(n=200)
    qx, qy = (np.linalg.qr(part - part.mean(axis=0))[0] for part in (x, y))
    correlations = np.linalg.svd(qx.T @ qy)[1]
    assert measures.svcca(x, y, share=1.0) == pytest.approx(correlations.mean(), abs=1e-9)
    u, rho, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    weights = np.abs((qx @ u).T @ (x - x.mean(axis=0))).sum(axis=1)
    assert measures.pwcca(x, y) == pytest.approx((weights @ rho) / weights.sum(), abs=1e-9)


def test_svcca_drops_directions_of_little_variance() -> None:
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(2, 300, 3))
    small = np.concatenate([x, 1e-3 * noise], axis=1)
    assert measures.svcca(small, x) == pytest.approx(1.0)
    assert measures.svcca(small, np.concatenate([x, 1e-3 * noise[::-1]], axis=1)) > 0.999
    assert measures.svcca(small, np.concatenate([x, 1e-3 * noise[::-1]], axis=1), 1.0) < 0.7


def test_procrustes_is_the_residual_after_the_best_rotation() -> None:
    from scipy.linalg import orthogonal_procrustes

    x, y = pair(q=7)
    x, y = (part - part.mean(axis=0) for part in (x, y))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    rotation, _ = orthogonal_procrustes(x, y)
    residual = float(np.square(x @ rotation - y).sum())  # 2 - 2 cos(angle)
    assert measures.angular_distance(x, y) == pytest.approx(math.acos(1 - residual / 2))


def test_rsa_is_spearman_of_distances() -> None:
    x, y = pair(n=12)
    distances = [
        [math.dist(part[i], part[j]) for i, j in combinations(range(12), 2)] for part in (x, y)
    ]
    expected = pearsonr(*(rankdata(each) for each in distances)).statistic
    assert measures.rsa(x, y) == pytest.approx(expected)


def test_affine_r2_is_held_out() -> None:
    x, y = pair(n=400)
    errors = squares = 0.0
    for fold in np.array_split(np.arange(400), 8):
        rest = np.setdiff1d(np.arange(400), fold)
        full = np.column_stack([x, np.ones(400)])
        weight = np.linalg.lstsq(full[rest], y[rest], rcond=None)[0]
        errors += np.square(full[fold] @ weight - y[fold]).sum()
        squares += np.square(y[fold] - y[fold].mean(axis=0)).sum()
    assert measures.affine_r2(x, y, ridge=0.0) == pytest.approx(1 - errors / squares, abs=1e-9)
    noise = np.random.default_rng(3).normal(size=(60, 50))
    assert measures.affine_r2(noise, y[:60]) == 0.0  # a fit to its own rows would say nearly 1


def test_swap_error() -> None:
    x, y = pair(q=7)
    expected = np.square(x - y).sum() / np.square(y - y.mean(axis=0)).sum()
    assert measures.swap_error(x, y) == pytest.approx(expected)
    assert measures.swap_error(y, y) == 0
    assert measures.swap_error(np.tile(y.mean(axis=0), (len(y), 1)), y) == pytest.approx(1)


def test_cosine_and_block_influence() -> None:
    x = np.array([[1.0, 0], [0, 2], [0, 0], [3, 3]])
    y = np.array([[2.0, 0], [1, 0], [1, 1], [1, 0]])
    assert measures.cosine(x, y) == pytest.approx((1 + 0 + math.sqrt(0.5)) / 3)
    assert measures.block_influence(x, y) == pytest.approx(1 - (1 + math.sqrt(0.5)) / 3)
    assert math.isnan(measures.cosine(np.zeros((3, 2)), np.ones((3, 2))))


def test_sliced_wasserstein_of_a_shift() -> None:
    x, _ = pair(n=100, p=3)
    shift = np.array([3.0, 0, 0])
    along = np.eye(3)
    shuffled = x[np.random.default_rng(0).permutation(100)] + shift
    assert measures.max_sliced_wasserstein(x, shuffled, projections=along) == pytest.approx(3.0)
    assert 0 < measures.max_sliced_wasserstein(x, shuffled) <= 3.0 + 1e-9


MEASURES = {
    "cka": measures.debiased_cka,
    "minibatch": measures.minibatch_cka,
    "rsa": measures.rsa,
    "svcca": measures.svcca,
    "pwcca": measures.pwcca,
    "procrustes": measures.angular_distance,
    "r2": measures.affine_r2,
}


@pytest.mark.parametrize("name", MEASURES)
def test_what_does_not_vary_is_undefined(name: str) -> None:
    x, _ = pair()
    for constant in (np.zeros((40, 3)), np.full((40, 3), 1 / 3)):
        assert math.isnan(MEASURES[name](x, constant))
        assert math.isnan(MEASURES[name](constant, x))


@pytest.mark.parametrize("name", ["cka", "minibatch", "rsa"])
def test_too_few_rows_are_undefined(name: str) -> None:
    x, y = pair(n=2)
    assert math.isnan(MEASURES[name](x, y))


@pytest.mark.parametrize("call", [measures.cosine, measures.max_sliced_wasserstein])
def test_unequal_width_is_refused(call: object) -> None:
    x, y = pair()
    with pytest.raises(ValueError):
        call(x, y)  # type: ignore[operator]
    with pytest.raises(ValueError, match="paired"):
        Moments.of(x, y[:-1])


def rotation(size: int, seed: int) -> Float64:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(0.01, 100),
    shift=st.floats(-10, 10),
    name=st.sampled_from(["cka", "minibatch", "rsa", "svcca", "procrustes"]),
)
def test_rotation_scale_shift_and_order_change_nothing(
    seed: int, scale: float, shift: float, name: str
) -> None:
    x, y = pair(seed=seed)
    moved = scale * y @ rotation(5, seed) + shift
    value = MEASURES[name](x, y)
    assert MEASURES[name](x, moved) == pytest.approx(value, abs=1e-6)
    assert MEASURES[name](moved, x) == pytest.approx(value, abs=1e-6)
    if name != "minibatch":
        order = np.random.default_rng(seed).permutation(len(x))
        assert MEASURES[name](x[order], y[order]) == pytest.approx(value, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(["svcca", "pwcca", "r2"]))
def test_any_invertible_map_is_seen_through(seed: int, name: str) -> None:
    x, _ = pair(n=120, p=4, seed=seed)
    random = np.random.default_rng(seed)
    mixed = x @ (random.normal(size=(4, 4)) + 3 * np.eye(4)) + 1
    if name == "svcca":
        assert measures.svcca(x, mixed, share=1.0) == pytest.approx(1, abs=1e-6)
    else:
        assert MEASURES[name](x, mixed) == pytest.approx(1, abs=1e-3)
