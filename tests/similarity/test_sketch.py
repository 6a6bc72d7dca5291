"""Sketches: what they keep, on average and at most."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repsimc.compiler.similarity.extraction import features_of_arrays
from repsimc.compiler.similarity.features import Recipe
from repsimc.compiler.similarity.pairs import compare
from repsimc.compiler.similarity.sketch import WIDTH, sketch
from tests.similarity import one_pair as measures
from tests.similarity.activations import blended, maps


def test_a_sketch_keeps_inner_products_on_average() -> None:
    x = np.random.default_rng(0).normal(size=(2, 4000)).astype("f4")
    exact = float(x[0] @ x[1]), float(x[0] @ x[0])
    error = math.sqrt(2 / WIDTH)
    errors: list[float] = []
    for seed in range(60):
        s = sketch(x, seed, "layer")
        assert s.shape == (2, WIDTH)
        errors.append((float(s[0] @ s[0]) / 2 - exact[1]) / exact[1])
    assert abs(np.mean(errors)) < 3 * error / math.sqrt(60)
    assert np.std(errors) < 1.5 * error


def test_sketches_of_two_layers_are_independent_and_repeatable() -> None:
    x = np.random.default_rng(0).normal(size=(1, 2000)).astype("f4")
    np.testing.assert_array_equal(sketch(x, 0, "p"), sketch(x, 0, "p"))
    assert not np.array_equal(sketch(x, 0, "p"), sketch(x, 0, "q"))
    assert not np.array_equal(sketch(x, 0, "p")[:, :127], sketch(x, 0, "p")[:, 127:])


def test_the_stated_sketch_error_is_honest() -> None:
    x = maps(0, 128, 8)
    arrays = [{"x": x, "z": blended(x, 4, 2.0)}, {"y": blended(x, 2), "w": blended(x, 3, 1.0)}]
    exact = [features_of_arrays(n, a, Recipe(batch=128)) for n, a in zip("ab", arrays)]
    truth = compare(exact[0], exact[1], ["cka-maps"])["cka-maps"].values
    errors: list[float] = []
    stated: list[float] = []
    for seed in range(6):
        sketched = [features_of_arrays(n, a, Recipe(True, seed)) for n, a in zip("ab", arrays)]
        found = compare(sketched[0], sketched[1], ["cka-maps"])["cka-maps"]
        errors += list((found.values - truth).reshape(-1))
        stated.append(found.sketch_error)
        assert found.sketch_error > 0
    root = float(np.sqrt(np.mean(np.square(errors))))
    assert root < 2.5 * float(np.mean(stated))
    assert abs(float(np.mean(errors))) < 2 * root / math.sqrt(6)


def test_wide_pooled_features_are_sketched_without_bias() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 10)) @ random.normal(size=(10, 600))
    y = x + 2 * random.normal(size=x.shape)
    truth = measures.debiased_cka(x, y)
    values = [
        compare(
            features_of_arrays("a", {"x": x.astype("f4")}, Recipe(True, seed)),
            features_of_arrays("b", {"y": y.astype("f4")}, Recipe(True, seed)),
            ["cka"],
        )["cka"].values[0, 0]
        for seed in range(5)
    ]
    assert np.mean(values) == pytest.approx(truth, abs=0.05)
