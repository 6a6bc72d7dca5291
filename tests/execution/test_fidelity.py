"""Fidelity metrics, streamed, against NumPy on everything at once; and which metric is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repsimc.compiler.errors import UsageError
from repsimc.compiler.execution.confidence import variance_bound
from repsimc.compiler.execution.fidelity import TOP1, VARIANCE, FidelityMeter, LossMeter, metric_for

Array = NDArray[Any]


def metered(metric: str, original: Array, compiled: Array, batch: int = 7) -> float:
    meter = FidelityMeter(metric)
    for start in range(0, len(original), batch):
        meter.update(original[start : start + batch], compiled[start : start + batch])
    assert meter.frames == len(original)
    return meter.value


def pair(seed: int, *shape: int, noise: float = 0.3) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    original = random.standard_normal(shape) + random.standard_normal(shape[1:]) * 3
    return (
        original.astype(np.float32),
        (original + noise * random.standard_normal(shape)).astype(np.float32),
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 60), noise=st.floats(0.001, 3))
def test_top1_is_the_share_of_equal_arg_max(seed: int, batch: int, noise: float) -> None:
    original, compiled = pair(seed, 50, 4, noise=noise)
    wanted = np.mean(original.argmax(1) == compiled.argmax(1))
    assert metered(TOP1, original, compiled, batch) == pytest.approx(float(wanted), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 60), noise=st.floats(0.001, 3))
def test_explained_variance_is_around_the_mean_of_each_element(
    seed: int, batch: int, noise: float
) -> None:
    original, compiled = pair(seed, 50, 3, 2, noise=noise)
    exact = original.astype(np.float64)
    error = np.square(compiled.astype(np.float64) - exact).sum()
    wanted = 1 - error / np.square(exact - exact.mean(axis=0)).sum()
    assert metered(VARIANCE, original, compiled, batch) == pytest.approx(wanted, rel=1e-6)


def test_a_constant_output_explains_nothing() -> None:
    original, _ = pair(0, 50, 6)
    mean = np.broadcast_to(original.mean(axis=0), original.shape)
    assert metered(VARIANCE, original, mean) == pytest.approx(0, abs=1e-6)


def test_float_noise_is_no_loss() -> None:
    original, _ = pair(0, 50, 6)
    assert metered(VARIANCE, original, original * np.float32(1 + 1e-6)) == 1.0
    assert metered(VARIANCE, original, original * np.float32(1 + 1e-3)) < 1.0


def test_scores_per_pixel_are_rows() -> None:
    original, compiled = pair(0, 10, 5, 3)
    wanted = np.mean(original.argmax(-1) == compiled.argmax(-1))
    assert 0.5 < wanted < 1
    assert metered(TOP1, original, compiled) == pytest.approx(float(wanted))


@pytest.mark.parametrize("metric", [TOP1, VARIANCE])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_breaks_counts_as_a_total_loss(metric: str, value: float) -> None:
    original, compiled = pair(0, 50, 4, noise=0)
    assert metered(metric, original, compiled) == 1
    compiled[17, 2] = value
    meter = FidelityMeter(metric)
    meter.update(original[:25], compiled[:25])
    assert meter.value == 0
    meter.update(original[25:], compiled[25:])  # nothing afterwards makes up for it
    assert meter.value == 0


@pytest.mark.parametrize("metric", [TOP1, VARIANCE])
def test_what_was_broken_before_is_no_loss(metric: str) -> None:
    original, compiled = pair(0, 50, 4, noise=0)
    original[17, 2] = compiled[17, 2] = np.nan
    assert metered(metric, original, compiled) == pytest.approx(1, abs=0.03)


def test_another_shape_is_a_total_loss() -> None:
    meter = FidelityMeter(VARIANCE)
    meter.update(np.zeros((4, 3)), np.zeros((4, 2)))
    assert meter.value == 0


def test_nothing_seen_is_nothing_kept() -> None:
    assert FidelityMeter(TOP1).value == 0
    assert FidelityMeter(VARIANCE).value == 0


def test_an_output_without_variance_is_kept_only_by_its_value() -> None:
    original = np.full((20, 3), 5, np.float32)
    assert metered(VARIANCE, original, original) == 1
    assert metered(VARIANCE, original, original + 1e-6) == 1
    assert metered(VARIANCE, original, original + 0.1) == 0
    assert metered(VARIANCE, original * 0, original * 0) == 1


def test_integers_are_compared_exactly_and_without_overflow() -> None:
    original = np.arange(100, dtype=np.uint8).reshape(50, 2)
    assert metered(VARIANCE, original, original) == 1
    assert metered(VARIANCE, original, original[::-1]) < 0
    labels = np.arange(20, dtype=np.int64)
    assert metered(VARIANCE, labels, labels) == 1


@pytest.mark.parametrize(
    ("shape", "dtype", "metric"),
    [
        (("N", 10), np.float32, TOP1),
        ((None, None), np.float32, TOP1),
        ((1, 10), np.float16, TOP1),
        (("N", 1), np.float32, VARIANCE),
        (("N",), np.float32, VARIANCE),
        (("N", 10, 4), np.float32, VARIANCE),
        (("N", 3, 8, 8), np.float32, VARIANCE),
        (None, np.float32, VARIANCE),
        (("N", 10), np.int64, VARIANCE),
        (("N", 10), np.bool_, VARIANCE),
    ],
)
def test_class_scores_are_judged_by_their_largest(shape: Any, dtype: Any, metric: str) -> None:
    assert metric_for(shape, None, dtype) == metric


@pytest.mark.parametrize(
    ("wish", "metric"),
    [("top1", TOP1), ("Top-1", TOP1), (TOP1, TOP1), ("variance", VARIANCE),
     ("explained-variance", VARIANCE)],
)  # fmt: skip
def test_a_wish_comes_before_the_shape(wish: str, metric: str) -> None:
    assert metric_for(("N", 10), wish) == metric
    assert metric_for(("N", 3, 8, 8), wish) == metric


def test_an_unknown_metric_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'accuracy' is not a fidelity metric") as error:
        metric_for(("N", 10), "accuracy")
    assert "top1" in error.value.hint


# -- expected loss ---------------------------------------------------------------------------


def lost(original: Array, compiled: Array, batch: int = 7) -> float:
    meter = LossMeter()
    for start in range(0, len(original), batch):
        meter.update(original[start : start + batch], compiled[start : start + batch])
    return meter.value


def test_the_expected_loss_is_the_original_s_own_doubt() -> None:
    sure, unsure = np.log([[0.9, 0.1]]), np.log([[0.6, 0.4]])
    flipped = np.array([[0.0, 1.0]])
    assert lost(sure, flipped) == pytest.approx(0.8 / 0.9)
    assert lost(unsure, flipped) == pytest.approx(0.2 / 0.6)
    both = np.concatenate([sure, unsure])
    assert lost(both, np.concatenate([sure, flipped]), 1) == pytest.approx(0.2 / 1.5)
    assert lost(both, both * 3 + 1) == 0  # the same classes, whatever the scores


def test_probabilities_are_taken_as_they_are() -> None:
    certain = np.array([[0.7, 0.2, 0.1]] * 3)
    other = np.array([[0.1, 0.8, 0.1]] * 3)
    assert lost(certain, other) == pytest.approx(0.5 / 0.7)
    assert lost(np.log(certain), other) == pytest.approx(0.5 / 0.7)


def test_what_cannot_be_compared_is_lost() -> None:
    scores = np.log([[0.9, 0.1]])
    assert lost(scores, np.array([[np.nan, 1.0]])) == 1
    assert lost(scores, np.zeros((1, 3))) == 1
    assert LossMeter().value == 1


def test_the_bound_of_agreement_counts_frames_alike_once() -> None:
    original = np.eye(4, dtype=np.float32)[np.arange(80) % 4]
    meter = FidelityMeter(TOP1)
    for start in range(0, 80, 7):
        meter.update(original[start : start + 7], original[start : start + 7])
    assert meter.bound(0.95) == pytest.approx(0.05 ** (1 / 80))
    assert meter.bound(0.95, np.arange(80) // 4) == pytest.approx(0.05 ** (1 / 20))
    assert meter.bound(0.95, np.arange(80) // 4, of=299) == pytest.approx(0.99003, abs=1e-5)
    assert FidelityMeter(TOP1).bound(0.95) == 0


def test_the_bound_of_agreement_counts_frames_not_their_tokens() -> None:
    tokens = np.random.default_rng(0).standard_normal((30, 16, 5))
    meter = FidelityMeter(TOP1)
    meter.update(tokens.reshape(480, 5), tokens.reshape(480, 5))
    assert meter.bound(0.95, np.arange(30)) == pytest.approx(0.05 ** (1 / 30))


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_the_bound_of_explained_variance_is_that_of_the_ratio(batch: int) -> None:
    original, compiled = pair(3, 400, 3, 2, noise=0.4)
    meter = FidelityMeter(VARIANCE)
    for start in range(0, 400, batch):
        meter.update(original[start : start + batch], compiled[start : start + batch])
    exact = original.astype(np.float64)
    errors = np.square(compiled.astype(np.float64) - exact).sum((1, 2))
    totals = np.square(exact - exact.mean(0)).sum((1, 2))
    wanted = variance_bound(errors, totals, 0.95)
    assert meter.bound(0.95) == pytest.approx(wanted, abs=2e-3)
    assert meter.bound(0.95) < meter.value
    four = variance_bound(errors.reshape(4, 100).sum(1), totals.reshape(4, 100).sum(1), 0.95)
    assert meter.bound(0.95, np.arange(400) // 100) == pytest.approx(four, abs=3e-3)
    assert meter.value - meter.bound(0.95, None, of=1600) == pytest.approx(
        (meter.value - meter.bound(0.95)) / 2
    )


def test_an_equal_output_needs_no_sample() -> None:
    original, _ = pair(0, 20, 3)
    meter = FidelityMeter(VARIANCE)
    meter.update(original, original)
    assert meter.bound(0.95) == 1
    meter.update(original, np.full_like(original, np.nan))
    assert meter.bound(0.95) == 0


def test_the_largest_changes() -> None:
    scores = np.array([[0.0, 0.0], [4.0, 0.0]], np.float32)
    moved = scores + np.array([[0, np.log(3)], [0.5, 0]], np.float32)
    meter, loss = FidelityMeter(TOP1), LossMeter()
    meter.update(scores, moved)
    loss.update(scores, moved)
    assert meter.max_difference == pytest.approx(np.log(3), rel=1e-6)
    assert loss.change == pytest.approx(0.25)  # 1 / 2 became 3 / 4
    shares = np.array([[0.5, 0.5]], np.float32)
    loss = LossMeter()
    loss.update(shares, np.array([[0.9, 0.1]], np.float32))
    assert loss.change == pytest.approx(0.4)
