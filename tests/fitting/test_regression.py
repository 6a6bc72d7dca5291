"""Closed-form least squares: what is recovered, what is kept, and what a ReLU forgives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from repsimc.compiler.fitting.regression import (
    Affine,
    Normal,
    Problem,
    cross_matrix,
    fit,
    gram_matrix,
    products_in_threads,
)

Array = NDArray[Any]


def drawn(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def affine(seed: int, groups: int, fan_in: int, fan_out: int, bias: bool = True) -> Affine:
    random = np.random.default_rng(seed)
    offset = random.standard_normal((groups, fan_out)) * 3 if bias else np.zeros((groups, fan_out))
    return Affine(random.standard_normal((groups, fan_in, fan_out)), offset)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(1, 3),
    fan_in=st.integers(1, 9),
    fan_out=st.integers(1, 4),
    bias=st.booleans(),
)
def test_an_exact_affine_map_is_recovered(
    seed: int, groups: int, fan_in: int, fan_out: int, bias: bool
) -> None:
    truth = affine(seed, groups, fan_in, fan_out, bias)
    # Inputs far from zero: without centring the ridge would eat into the bias.
    x = drawn(seed, 400, groups, fan_in) + 2
    found = fit(Problem(x.copy(), truth(x)), fit_bias=bias, ridge=1e-9)
    np.testing.assert_allclose(found.weight, truth.weight, atol=2e-3)
    np.testing.assert_allclose(found.bias, truth.bias, atol=5e-3)
    np.testing.assert_allclose(found(x), truth(x), atol=5e-3)


def test_groups_are_solved_apart() -> None:
    truth = affine(0, 2, 3, 2)
    x = drawn(1, 300, 2, 3)
    target = truth(x)
    both = fit(Problem(x.copy(), target))
    for group in (0, 1):
        alone = fit(Problem(x[:, group : group + 1].copy(), target[:, group : group + 1]))
        np.testing.assert_allclose(both.weight[group], alone.weight[0], atol=1e-6)
        np.testing.assert_allclose(both.bias[group], alone.bias[0], atol=1e-6)


def test_the_result_is_that_of_ridge_regression_on_centred_data() -> None:
    x, target = drawn(0, 200, 1, 6) + 1, drawn(1, 200, 1, 3)
    ridge = 0.05
    centred = (x[:, 0] - x[:, 0].mean(axis=0)).astype(np.float64)
    gram = centred.T @ centred
    wanted = np.linalg.solve(
        gram + ridge * np.trace(gram) / 6 * np.eye(6),
        centred.T @ (target[:, 0] - target[:, 0].mean(axis=0)),
    )
    found = fit(Problem(x.copy(), target), ridge=ridge)
    np.testing.assert_allclose(found.weight[0], wanted, atol=1e-5)


def test_the_ridge_does_not_shrink_the_bias() -> None:
    x = drawn(0, 500, 1, 4)
    target = drawn(1, 500, 1, 2) + np.array([100.0, -40.0], np.float32)
    strong = fit(Problem(x.copy(), target), ridge=1e4)
    assert np.abs(strong.weight).max() < 1e-2
    np.testing.assert_allclose(strong.bias[0], target.mean(axis=(0, 1)), rtol=1e-4)


def test_directions_that_the_rows_do_not_excite_keep_their_weights() -> None:
    start = affine(0, 1, 5, 3)
    x = drawn(1, 300, 1, 5)
    x[:, 0, 3:] = 7.0  # inputs 3 and 4 are constant, input 2 follows inputs 0 and 1
    x[:, 0, 2] = x[:, 0, 0] + x[:, 0, 1]
    truth = affine(2, 1, 5, 3)
    found = fit(Problem(x.copy(), truth(x)), start=start, ridge=1e-3)
    np.testing.assert_allclose(found(x), truth(x), atol=0.05)
    np.testing.assert_allclose(found.weight[0, 3:], start.weight[0, 3:], atol=1e-6)
    unseen = np.array([1.0, 1.0, -1.0, 0, 0])
    np.testing.assert_allclose(unseen @ found.weight[0], unseen @ start.weight[0], atol=1e-2)
    fresh = fit(Problem(x.copy(), truth(x)), ridge=1e-3)
    assert np.abs(fresh.weight[0, 3:]).max() < 1e-6  # without a start they are zero


def test_a_perfect_start_is_kept_whatever_the_ridge() -> None:
    truth = affine(0, 2, 4, 3)
    x = drawn(1, 300, 2, 4)
    found = fit(Problem(x.copy(), truth(x)), start=truth, ridge=10.0)
    np.testing.assert_allclose(found.weight, truth.weight, atol=1e-5)
    np.testing.assert_allclose(found.bias, truth.bias, atol=1e-5)


def test_without_a_bias_the_start_keeps_its_own() -> None:
    start = affine(0, 1, 4, 2)
    x = drawn(1, 300, 1, 4)
    truth = Affine(affine(2, 1, 4, 2).weight, start.bias)
    found = fit(Problem(x.copy(), truth(x)), start=start, fit_bias=False, ridge=1e-9)
    np.testing.assert_array_equal(found.bias, start.bias)
    np.testing.assert_allclose(found.weight, truth.weight, atol=1e-3)


def test_the_other_addend_is_taken_off_the_target() -> None:
    truth = affine(0, 1, 4, 2)
    x, other = drawn(1, 300, 1, 4), drawn(2, 300, 1, 2) * 5
    for rectified in (False, True):
        found = fit(Problem(x.copy(), truth(x) + other, other, rectified), ridge=1e-9)
        np.testing.assert_allclose(found.weight, truth.weight, atol=2e-3)


@pytest.mark.parametrize("with_other", [False, True])
def test_asymmetric_targets_lower_the_error_behind_a_relu(with_other: bool) -> None:
    # Affine where it is positive, and three times as steep where a ReLU will cut it off.
    x = drawn(0, 4000, 1, 8)
    other = drawn(4, 4000, 1, 5) if with_other else None
    total = affine(1, 1, 8, 5, bias=False)(x) + (0 if other is None else other)
    target = np.where(total > 0, total, 3 * total)

    def error(rectified: bool) -> float:
        found = fit(Problem(x.copy(), target, other, rectified))
        total = found(x) if other is None else found(x) + other
        return float(np.mean((np.maximum(total, 0) - np.maximum(target, 0)) ** 2))

    assert error(True) < 0.6 * error(False)


def test_sums_over_many_rows_are_exact_enough() -> None:
    # Ten chunks of rows around 100: sums in float32 alone would be off in the fourth digit.
    x = (drawn(0, 160_000, 2) + 100).astype(np.float32)
    wanted = x.astype(np.float64).T @ x.astype(np.float64)
    np.testing.assert_allclose(cross_matrix(x, x), wanted, rtol=2e-6)


def test_a_constant_input_gives_the_mean() -> None:
    x = np.full((50, 1, 3), 4.0, np.float32)
    target = drawn(0, 50, 1, 2)
    found = fit(Problem(x.copy(), target))
    assert np.isfinite(found.weight).all()
    np.testing.assert_allclose(found(x)[0, 0], target.mean(axis=(0, 1)), atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 4096, 9000])
def test_products_do_not_depend_on_threads(rows: int) -> None:
    x, t = drawn(0, rows, 7), drawn(1, rows, 3)
    alone = gram_matrix(x), cross_matrix(x, t)
    # BLAS may use threads, so that there is something to split; and within is the same as once.
    with threadpool_limits(2, user_api="blas"), products_in_threads(), products_in_threads():
        split = gram_matrix(x), cross_matrix(x, t)
    for one, other in zip(alone, split):
        assert np.array_equal(one, other)
    double = x.astype(np.float64)
    np.testing.assert_allclose(alone[0], double.T @ double, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(alone[1], double.T @ t, rtol=1e-4, atol=1e-2)


def test_threads_of_blas_are_as_before_afterwards() -> None:
    before = [pool["num_threads"] for pool in threadpool_info()]
    with products_in_threads():
        fit(Problem(drawn(0, 50, 1, 4), drawn(1, 50, 1, 2)))
    assert [pool["num_threads"] for pool in threadpool_info()] == before


def test_more_rounds_come_nearer_to_what_a_relu_lets_through() -> None:
    x, weight = drawn(0, 3000, 1, 6), drawn(1, 6, 4)
    target = (np.sin(3 * x[:, 0] @ weight) - 0.3)[:, None].astype(np.float32)
    wanted = np.maximum(target, 0)
    errors = [
        float(np.square(np.maximum(found(x), 0) - wanted).mean())
        for rounds in (0, 2, 6)
        for found in [fit(Problem(x.copy(), target, rectified=True), rounds=rounds)]
    ]
    assert errors[0] > errors[1] > errors[2]


def test_sums_are_those_of_all_rows_with_and_without_what_was_taken_off() -> None:
    x, start = drawn(0, 9000, 1, 5) + 3, affine(1, 1, 5, 2)
    target = affine(2, 1, 5, 2)(x) + drawn(3, 9000, 1, 2)
    centre = np.full((1, 5), 2.5, np.float32)
    for fit_bias in (True, False):
        plain = fit(Problem(x.copy(), target), start, fit_bias=fit_bias)
        off = fit(Problem(x - centre, target, centre=centre), start, fit_bias=fit_bias)
        np.testing.assert_allclose(off.weight, plain.weight, atol=1e-5)
        np.testing.assert_allclose(off.bias, plain.bias, atol=1e-4)


def test_an_inverse_is_that_of_the_damped_matrix() -> None:
    problem = Problem(drawn(0, 500, 1, 7) + 1, drawn(1, 500, 1, 2)).centred()
    gram = gram_matrix(problem.x[:, 0])
    gram += 0.1 * np.trace(gram) / 7 * np.eye(7)
    inverse = Normal(problem, ridge=0.1).inverse()
    np.testing.assert_allclose(inverse @ gram, np.eye(7), atol=1e-4)


def test_a_narrowed_problem_has_the_inputs_that_are_kept() -> None:
    x, columns = drawn(0, 5000, 1, 6), np.array([1, 2, 5])
    target = drawn(1, 5000, 1, 2)
    alone = fit(Problem(x[:, :, columns], target))
    narrow = fit(Problem(x.copy(), target).centred().narrowed(columns))
    np.testing.assert_allclose(narrow.weight, alone.weight, atol=1e-6)
    np.testing.assert_allclose(narrow.bias, alone.bias, atol=1e-6)


def test_some_rows_are_from_everywhere_and_no_copies() -> None:
    problem = Problem(drawn(0, 1000, 1, 2), drawn(1, 1000, 1, 1), drawn(2, 1000, 1, 1))
    some = problem.some(100)
    assert len(some.x) == len(some.wanted) == 100
    assert some.other is not None and len(some.other) == 100
    assert np.shares_memory(some.x, problem.x)
    np.testing.assert_array_equal(some.x[-1], problem.x[990])
