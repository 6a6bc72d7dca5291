"""All pairs at once against each pair on its own; nulls, spreads, what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repsimc.compiler.similarity.extraction import features_of_arrays
from repsimc.compiler.similarity.features import ModelFeatures, Recipe
from repsimc.compiler.similarity.measures import CATALOG
from repsimc.compiler.similarity.pairs import compare
from repsimc.compiler.similarity.row_pairs import affine_r2_of
from tests.similarity import one_pair as measures
from tests.similarity.activations import blended, maps

EXACT = Recipe(batch=16)


@pytest.fixture(scope="module")
def models() -> tuple[ModelFeatures, ModelFeatures]:
    x = maps(0)
    tokens = maps(5).reshape(96, 5, 36).transpose(0, 2, 1).copy()
    flat = np.random.default_rng(1).normal(size=(96, 30)).astype("f4")
    constant = np.full_like(x, 0.1)
    a = {"x": x, "half": x[:, :, ::2, ::2].copy(), "tokens": tokens, "flat": flat}
    b = {"y": blended(x, 2), "x": x, "constant": constant, "flat": flat @ np.eye(30, 8, dtype="f4")}
    return features_of_arrays("a", a, EXACT), features_of_arrays("b", b, EXACT)


def test_cka_of_all_pairs_is_that_of_each(models: tuple[ModelFeatures, ModelFeatures]) -> None:
    a, b = models
    found = compare(a, b, ["cka", "cka-minibatch"])
    for i, p in enumerate(a.layers):
        for j, q in enumerate(b.layers):
            expected = measures.debiased_cka(p.pooled, q.pooled)
            batched = measures.minibatch_cka(p.pooled, q.pooled, 48)
            if q.layer.name == "constant":
                expected = batched = math.nan
            assert found["cka"].values[i, j] == pytest.approx(expected, abs=1e-6, nan_ok=True)
            value = found["cka-minibatch"].values[i, j]
            assert value == pytest.approx(batched, abs=1e-6, nan_ok=True)


def test_wide_layers_take_the_other_way_to_the_same_values() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 24, 300)).astype("f4")
    a = features_of_arrays("a", {str(k): x[k] for k in range(3)}, EXACT)
    b = features_of_arrays("b", {str(k): x[k] + x[0] for k in range(3)}, EXACT)
    values = compare(a, b, ["cka"])["cka"].values
    for i in range(3):
        for j in range(3):
            expected = measures.debiased_cka(x[i], x[j] + x[0])
            assert values[i, j] == pytest.approx(expected, abs=1e-6)


def test_whole_maps_are_compared_batch_by_batch(
    models: tuple[ModelFeatures, ModelFeatures],
) -> None:
    a, b = models
    x, y = maps(0), blended(maps(0), 2)
    expected = measures.minibatch_cka(x, y, 16)
    assert compare(a, b, ["cka-maps"])["cka-maps"].values[0, 0] == pytest.approx(expected, abs=1e-5)


def test_batches_of_different_size_meet_on_the_smaller() -> None:
    x = maps(0)
    a = features_of_arrays("a", {"x": x}, Recipe(batch=32))
    b = features_of_arrays("b", {"y": blended(x, 2)}, Recipe(batch=16))
    expected = measures.minibatch_cka(x, blended(x, 2), 16)
    assert compare(a, b, ["cka-maps"])["cka-maps"].values[0, 0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["svcca", "pwcca", "procrustes", "r2", "cosine", "swap"])
def test_row_measures_of_all_pairs_are_those_of_each(
    models: tuple[ModelFeatures, ModelFeatures], name: str
) -> None:
    a, b = models
    rows = (a.layers[0].rows, b.layers[0].rows)
    call = {
        "svcca": measures.svcca,
        "pwcca": measures.pwcca,
        "procrustes": measures.angular_distance,
        "r2": measures.affine_r2,
        "cosine": measures.cosine,
        "swap": measures.swap_error,
    }[name]
    found = compare(a, b, [name])[name]
    assert found.values[0, 0] == pytest.approx(call(*rows), abs=1e-6)
    if name == "r2":
        r2 = affine_r2_of([(a.layers[0], b.layers[0])], 96)[0]
        assert r2 == pytest.approx(found.values[0, 0], abs=1e-9)


@pytest.mark.parametrize("name", list(CATALOG))
def test_null_and_spread(models: tuple[ModelFeatures, ModelFeatures], name: str) -> None:
    a, b = models
    found = compare(a, b, [name])[name]
    value, null, spread = (part[0, 0] for part in (found.values, found.null, found.spread))
    assert 0 < spread < 0.5
    if found.measure.similarity:
        assert value > null + 3 * spread or name == "cosine"
        assert found.null_extreme[0, 0] >= null
    else:
        # Channels that correspond to nothing swap no better for the right frame.
        assert name in ("wasserstein", "swap") or value < null
        assert found.null_extreme[0, 0] <= null
    if name.startswith("cka"):
        assert abs(null) < 0.1


@pytest.mark.parametrize("name", list(CATALOG))
def test_constant_layers_are_undefined_and_unlike_ones_not_applicable(
    models: tuple[ModelFeatures, ModelFeatures], name: str
) -> None:
    a, b = models
    found = compare(a, b, [name])[name]
    assert np.isnan(found.values[:, 2]).all() and np.isnan(found.null[:, 2]).all()
    kinds = CATALOG[name]
    # x, half, tokens, flat beside y, x, constant, flat
    expected = np.ones((4, 4), bool)
    if kinds.on == "rows":
        expected[2:, :3] = expected[:3, 3] = False
    if kinds.equal_shape:
        expected[1], expected[3, 3] = False, False
    np.testing.assert_array_equal(found.applicable, expected)
    assert np.isnan(found.values[~expected]).all()


def test_a_layer_beside_itself_is_alike() -> None:
    a = features_of_arrays("a", {"x": maps(0), "dead": np.zeros_like(maps(0))}, EXACT)
    for name, matrix in compare(a, a, list(CATALOG)).items():
        assert matrix.values[0, 0] == (1.0 if CATALOG[name].similarity else 0.0)
        assert math.isnan(matrix.values[1, 1])


def test_numbers_that_are_not_finite_make_a_layer_undefined() -> None:
    x = maps(0)
    broken = x.copy()
    broken[3, 1, 2, 2] = np.inf
    a = features_of_arrays("a", {"x": x, "broken": broken}, EXACT)
    assert not a.layers[1].statistics.finite
    for matrix in compare(a, a, list(CATALOG)).values():
        assert np.isnan(matrix.values[1]).all() and np.isnan(matrix.values[:, 1]).all()


@pytest.mark.parametrize("frames", [4, 5, 9])
def test_few_frames(frames: int) -> None:
    x = maps(0, frames)
    a = features_of_arrays("a", {"x": x, "y": blended(x, 1)}, EXACT)
    for matrix in compare(a, a, list(CATALOG)).values():
        assert matrix.values.shape == matrix.spread.shape == (2, 2)
        assert not np.isinf(matrix.values).any()


def test_frames_must_be_the_same() -> None:
    a, b = (features_of_arrays(n, {"x": maps(0, k)}, EXACT) for n, k in (("a", 8), ("b", 9)))
    with pytest.raises(ValueError, match="8 frames"):
        compare(a, b, ["cka"])
