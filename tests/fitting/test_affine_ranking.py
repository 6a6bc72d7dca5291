"""Similarity measures against direct computations, and the rows they are computed from."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repsimc.compiler.execution.samples import MAX_CHANNELS, POSITIONS, Samples, sample_values
from repsimc.compiler.fitting.affine_ranking import AffineRanking
from repsimc.compiler.fitting.cka import debiased_cka
from tests.nets.networks import ArrayFrames, Net, smooth_images
from tests.programs import joined, program_of

Array = NDArray[Any]


def drawn(seed: int, rows: int, width: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def related(seed: int, x: Array, width: int, noise: float) -> Array:
    """An affine image of x with noise."""
    mixed = x @ drawn(seed, x.shape[1], width) + noise * drawn(seed + 1, len(x), width)
    return (mixed + drawn(seed + 2, 1, width)).astype(np.float32)


# -- debiased CKA ------------------------------------------------------------------------------


def direct_hsic(k: Array, m: Array) -> float:
    """HSIC_1 of Nguyen et al. 2020, equation 3, on n x n matrices."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    ones = np.ones(n)
    total = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3)))


def direct_cka(x: Array, y: Array) -> float:
    k, m = x.astype(float) @ x.T.astype(float), y.astype(float) @ y.T.astype(float)
    return direct_hsic(k, m) / np.sqrt(direct_hsic(k, k) * direct_hsic(m, m))


def biased_cka(x: Array, y: Array) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), rows=st.integers(8, 40), widths=st.tuples(*[st.integers(1, 9)] * 2)
)
def test_cka_is_that_of_the_n_by_n_matrices(seed: int, rows: int, widths: tuple[int, int]) -> None:
    x = drawn(seed, rows, widths[0]) + 1
    y = related(seed + 1, x, widths[1], 0.5)
    assert debiased_cka(x, y) == pytest.approx(direct_cka(x, y), rel=1e-6, abs=1e-9)


def test_cka_does_not_see_rotation_scale_or_offset() -> None:
    x = drawn(0, 200, 6)
    y = related(1, x, 6, 2.0)
    turned = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 6)))[0]
    expected = debiased_cka(x, y)
    assert 0.1 < expected < 0.95
    assert debiased_cka(x @ turned * 7 + 5, y) == pytest.approx(expected, rel=1e-5)
    assert debiased_cka(x, x @ turned) == pytest.approx(1.0, rel=1e-6)
    # It does see a map that is no rotation.
    assert debiased_cka(x * np.array([9, 1, 1, 1, 1, 1]), x) < 0.8


def test_cka_of_independent_values_is_near_zero_where_the_biased_one_is_not() -> None:
    x, y = drawn(0, 64, 300), drawn(1, 64, 300)
    assert biased_cka(x, y) > 0.7
    assert abs(debiased_cka(x, y)) < 0.05


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.ones((9, 3)), drawn(0, 9, 3)),
        (drawn(0, 9, 3), np.zeros((9, 2))),
        (drawn(0, 3, 3), drawn(1, 3, 3)),
        (drawn(0, 0, 3), drawn(1, 0, 3)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_cka_without_variance_or_rows_is_undefined(x: Array, y: Array) -> None:
    assert np.isnan(debiased_cka(x, y))


# -- affine maps ------------------------------------------------------------------------------


def samples(spatial: tuple[int, ...] = (4, 4), **rows: Array) -> Samples:
    return Samples(
        rows, dict.fromkeys(rows, spatial), {name: rows.shape[1] for name, rows in rows.items()}
    )


def direct_r2(x: Array, y: Array) -> float:
    """Least squares with an intercept on three quarters of the rows, judged on the others."""
    cut = len(x) * 3 // 4
    left = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    weight = np.linalg.lstsq(left[:cut], y[:cut].astype(np.float64))[0]
    judged = y[cut:].astype(np.float64)
    error = ((left[cut:] @ weight - judged) ** 2).sum()
    return float(1 - error / ((judged - judged.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_r2_is_that_of_least_squares_on_rows_kept_back(noise: float) -> None:
    x = drawn(0, 800, 7) + 3
    y = related(1, x, 5, noise)
    ((found, donors),) = AffineRanking(samples(x=x, y=y), ["x"], ridge=1e-9).best("y")
    assert donors == ("x",)
    assert found == pytest.approx(direct_r2(x, y), abs=2e-4)


def test_r2_of_several_donors_is_that_of_their_channels_together() -> None:
    parts = {name: drawn(seed, 800, 4) for seed, name in enumerate("abc")}
    every = np.concatenate(list(parts.values()), axis=1)
    y = related(9, every, 5, 1.0)
    ranking = AffineRanking(samples(**parts, y=y), list(parts), ridge=1e-9)
    found = ranking.best("y", count=3)
    assert [len(donors) for _, donors in found] == [1, 2, 3]
    for r2, donors in found:
        together = np.concatenate([parts[name] for name in donors], axis=1)
        assert r2 == pytest.approx(direct_r2(together, y), abs=2e-4)
    assert found[0][0] == pytest.approx(max(direct_r2(x, y) for x in parts.values()), abs=2e-4)
    assert sorted(r2 for r2, _ in found) == [r2 for r2, _ in found]
    assert [donors[: len(first)] for (_, first), (_, donors) in pairwise(found)] == [
        first for _, first in found[:-1]
    ]


def test_a_donor_that_adds_nothing_is_not_added() -> None:
    x = drawn(0, 800, 4)
    data = samples(x=x, copy=x + 1, noise=drawn(1, 800, 4), y=related(2, x, 3, 0.3))
    assert len(AffineRanking(data, ["x", "copy", "noise"]).best("y", count=3)) == 1


def test_asking_again_gives_the_same() -> None:
    data = samples(**{name: drawn(seed, 400, 4) for seed, name in enumerate("abcd")})
    ranking = AffineRanking(data, ["a", "b", "c"])
    first = ranking.best("d", count=2)
    ranking.best("a", count=2)
    assert ranking.best("d", count=2) == first


@pytest.mark.filterwarnings("error")
def test_values_without_variance_are_no_receivers_and_poor_donors() -> None:
    x = drawn(0, 400, 3)
    data = samples(flat=np.full((400, 4), 2, np.float32), x=x, y=related(1, x, 3, 0.1))
    ranking = AffineRanking(data, ["flat", "x"])
    assert ranking.best("flat") == []
    assert ranking.best("y")[0][1] == ("x",)
    assert AffineRanking(data, ["flat"]).best("y")[0][0] < 0.05


def test_no_rows_no_donors() -> None:
    assert AffineRanking(Samples({}, {}, {}), []).donors == ()
    assert AffineRanking(samples(x=drawn(0, 80, 2)), []).best("x") == []


@pytest.mark.parametrize(
    ("donor", "receiver", "fits"),
    [
        ((8, 8), (8, 8), True),
        ((8, 8), (4, 4), True),
        ((4, 4), (8, 8), True),
        ((8, 8), (4, 8), True),
        ((8, 8), (3, 3), False),
        ((6, 6), (4, 4), False),
        ((8, 4), (4, 8), False),  # smaller here and larger there
        ((8, 8), (8,), False),
        ((8,), (8,), True),
        ((8,), (4,), False),  # tokens correspond one to one
        ((), (), True),
        ((), (8,), False),
    ],
)
def test_comparable_sizes(donor: tuple[int, ...], receiver: tuple[int, ...], fits: bool) -> None:
    rows = drawn(0, 20, 2)
    data = Samples({"d": rows, "r": rows}, {"d": donor, "r": receiver}, {"d": 2, "r": 2})
    assert data.comparable("d", "r") is fits


def test_values_of_other_row_counts_are_not_comparable() -> None:
    data = Samples(
        {"d": drawn(0, 20, 2), "r": drawn(0, 10, 2)},
        {"d": (2,), "r": (2,)},
        {"d": 2, "r": 2},
    )
    assert not data.comparable("d", "r")


# -- sampled rows -----------------------------------------------------------------------------


def test_row_k_of_every_value_is_the_same_place_of_the_same_frame() -> None:
    net = Net()
    same = net.node("Identity", "x", out="same")
    pooled = net.node("MaxPool", same, out="pooled", kernel_shape=[2, 2], strides=[2, 2])
    net.node("Flatten", net.node("GlobalAveragePool", pooled), out="flat")
    program = program_of(net.model(["same", "pooled", "flat"], x=("N", 3, 8, 8)))
    # Blocks of 2 x 2 equal pixels: pooling changes nothing but the size.
    x = np.repeat(np.repeat(smooth_images(21, size=4), 2, axis=2), 2, axis=3)
    frames = ArrayFrames({"a/x": x}, batch=5)
    found = sample_values(program, ["a/same", "a/pooled", "a/flat", "a/missing"], frames)
    assert set(found.rows) == {"a/same", "a/pooled", "a/flat"}
    assert found.spatial == {"a/same": (8, 8), "a/pooled": (4, 4), "a/flat": ()}
    assert found.channels["a/same"] == 3
    assert found.rows["a/same"].shape == (21 * POSITIONS, 3)
    np.testing.assert_array_equal(found.rows["a/same"], found.rows["a/pooled"])
    means = x.mean(axis=(2, 3))
    np.testing.assert_allclose(found.rows["a/flat"][::POSITIONS], means, rtol=1e-4, atol=1e-6)
    again = sample_values(program, ["a/same"], frames, seed=1)
    assert not np.array_equal(again.rows["a/same"], found.rows["a/same"])


def test_tokens_carry_their_channels_last() -> None:
    net = Net()
    net.linear("x", 6, 4, out="y")
    program = program_of(net.model(x=("N", 5, 6)))
    frames = ArrayFrames(
        {"a/x": np.random.default_rng(0).normal(size=(9, 5, 6)).astype(np.float32)}
    )
    found = sample_values(program, ["a/y"], frames)
    assert (found.spatial["a/y"], found.channels["a/y"]) == ((5,), 4)
    assert found.rows["a/y"].shape == (9 * POSITIONS, 4)


def test_values_that_do_not_count_frames_are_left_out() -> None:
    model = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4, 4] x) => (float[N, 4, 4] y, float[4, N, 4] z, float[N] s)
    { y = Relu (x)
      z = Transpose<perm=[1, 0, 2]> (x)
      s = ReduceSum<keepdims=0> (x, axes)
    }"""
    model = model.replace("{ y =", "<int64[2] axes = {1, 2}> { y =")
    frames = ArrayFrames({"a/x": np.ones((9, 4, 4), np.float32)})
    found = sample_values(program_of(model), ["a/y", "a/z", "a/s"], frames)
    assert set(found.rows) == {"a/y"}


def test_wide_values_are_mixed_down_alike() -> None:
    wide = MAX_CHANNELS + 64
    net = Net(1)
    net.node("Relu", "x", out="y")
    proto = net.model(x=("N", wide))
    program = joined([[("a", "x"), ("b", "x")]], a=proto, b=proto)
    x = np.random.default_rng(0).standard_normal((60, wide)).astype(np.float32)
    found = sample_values(program, ["a/y", "b/y"], ArrayFrames({"x": x}))
    rows = found.rows["a/y"]
    assert rows.shape == (60 * POSITIONS, MAX_CHANNELS)
    assert found.channels["a/y"] == wide
    np.testing.assert_array_equal(rows, found.rows["b/y"])
    # Johnson-Lindenstrauss: lengths are kept to within some percent.
    lengths = np.linalg.norm(rows[::POSITIONS], axis=1)
    true = np.linalg.norm(np.maximum(x, 0), axis=1)
    assert np.abs(lengths / true - 1).max() < 0.25
    assert abs(np.mean(lengths / true) - 1) < 0.02
