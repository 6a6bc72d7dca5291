"""Rounding on grids: codes that are exactly the weights, and errors made up for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.compiler.errors import InternalFault
from repsimc.compiler.fitting.rounding import (
    Rounded,
    WeightGrid,
    round_to_nearest,
    round_with_feedback,
)
from repsimc.compiler.graph.arrays import Float64

EIGHT, FOUR = WeightGrid(8), WeightGrid(4)


def correlated(groups: int, inputs: int, seed: int, rows: int = 400) -> Float64:
    """Gram matrices [groups, inputs, inputs] of rows in which inputs go along with each other."""
    random = np.random.default_rng(seed)
    rows_of = random.normal(size=(groups, rows, inputs)) @ random.normal(
        size=(groups, inputs, inputs)
    )
    return np.asarray(rows_of.transpose(0, 2, 1) @ rows_of)


def weights(groups: int, inputs: int, outputs: int, seed: int = 0) -> Float64:
    return np.random.default_rng(seed).normal(size=(groups, inputs, outputs))


def check(found: Rounded, grid: WeightGrid) -> None:
    """Codes are in range, and the weight is exactly what they make in float32."""
    assert int(np.abs(found.codes.astype(int)).max()) <= grid.steps
    made = found.codes.astype(np.float32) * found.scales[:, None]
    assert np.array_equal(made.astype(np.float64), found.weight)


def off(weight: Float64, found: Rounded, gram: Float64) -> float:
    """The squared error of the outputs."""
    lost = found.weight - weight
    return float(np.einsum("gio,gij,gjo->", lost, gram, lost))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 9),
    groups=st.sampled_from([1, 1, 3]),
    bits=st.sampled_from([8, 4]),
)
def test_feedback_is_never_worse_than_the_nearest(
    seed: int, inputs: int, outputs: int, groups: int, bits: int
) -> None:
    grid, gram = WeightGrid(bits), correlated(groups, inputs, seed)
    weight = weights(groups, inputs, outputs, seed)
    fed, plain = round_with_feedback(weight, gram, grid), round_to_nearest(weight, grid, gram)
    for found in (fed, plain):
        check(found, grid)
        assert found.error == pytest.approx(off(weight, found, gram), rel=1e-6, abs=1e-9)
    assert fed.error <= plain.error * (1 + 1e-9)


@pytest.mark.parametrize(("bits", "most"), [(8, 0.6), (4, 0.7)])
def test_feedback_makes_up_for_much_where_inputs_go_along(bits: int, most: float) -> None:
    grid, gram, weight = WeightGrid(bits), correlated(1, 64, 1), weights(1, 64, 32, 2)
    fed, plain = round_with_feedback(weight, gram, grid), round_to_nearest(weight, grid, gram)
    assert fed.error < most * plain.error


def test_inputs_that_go_each_its_own_way_are_rounded_to_the_nearest() -> None:
    weight, gram = weights(1, 20, 6), np.eye(20)[None]
    fed, plain = round_with_feedback(weight, gram, FOUR), round_to_nearest(weight, FOUR, gram)
    assert np.array_equal(fed.codes, plain.codes)


@pytest.mark.parametrize("inputs", [9, 150])
def test_groups_side_by_side_are_rounded_as_alone(inputs: int) -> None:
    weight, gram = weights(3, inputs, 2, 5), correlated(3, inputs, 6)
    together = round_with_feedback(weight, gram, FOUR)
    apart = [
        round_with_feedback(weight[g : g + 1], gram[g : g + 1], FOUR) for g in range(len(weight))
    ]
    # Of several groups the better of two ways is taken for all.
    assert together.error == pytest.approx(sum(one.error for one in apart), rel=0.05)


def test_the_order_of_inputs_is_of_no_account() -> None:
    weight, gram = weights(1, 30, 4, 3), correlated(1, 30, 4)
    order = np.random.default_rng(0).permutation(30)
    found = round_with_feedback(weight, gram, FOUR)
    turned = round_with_feedback(weight[:, order], gram[:, order][:, :, order], FOUR)
    assert np.array_equal(found.codes[:, order], turned.codes)


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0, 1e-30, 1e6])
@pytest.mark.parametrize("grid", [EIGHT, FOUR])
def test_weights_that_are_all_equal(value: float, grid: WeightGrid) -> None:
    weight, gram = np.full((1, 12, 3), value), correlated(1, 12, 7)
    found = round_with_feedback(weight, gram, grid)
    check(found, grid)
    assert np.isfinite(found.weight).all() and (found.scales > 0).all()
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6, atol=1e-36)


def test_an_outlier_costs_its_own_output_only() -> None:
    weight = weights(1, 16, 4)
    weight[0, 3, 1] = 1e6
    found = round_to_nearest(weight, EIGHT)
    others = [0, 2, 3]
    assert np.abs(found.weight - weight)[:, :, others].max() < 0.02
    assert found.weight[0, 3, 1] == pytest.approx(1e6, rel=0.01)


def test_inputs_that_are_never_on_and_few_rows_do_no_harm() -> None:
    weight = weights(1, 24, 5)
    for gram in (np.zeros((1, 24, 24)), correlated(1, 24, 8, rows=3)):
        check(round_with_feedback(weight, gram, FOUR), FOUR)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_a_fault(wrong: float) -> None:
    weight, gram = weights(1, 4, 2), correlated(1, 4, 0)
    weight[0, 1, 1] = wrong
    with pytest.raises(InternalFault, match="not finite"):
        round_to_nearest(weight, EIGHT)
    gram[0, 1, 1] = wrong
    with pytest.raises(InternalFault, match="not finite"):
        round_with_feedback(weights(1, 4, 2), gram, EIGHT)


def test_of_two_inputs_no_codes_are_much_better() -> None:
    weight, gram = weights(1, 2, 1, 9), correlated(1, 2, 10)
    found = round_with_feedback(weight, gram, FOUR)
    codes = np.arange(-FOUR.steps, FOUR.steps + 1)
    scale = float(found.scales[0, 0])
    pairs = np.stack(np.meshgrid(codes, codes), axis=-1).reshape(-1, 2, 1) * scale
    lost = pairs - weight[0]
    least = float(np.einsum("nio,ij,njo->n", lost, gram[0], lost).min())
    assert least <= found.error <= 4 * least + 1e-9
