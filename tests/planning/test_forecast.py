"""Forecasts: scales of predictions and of fidelity, learned from what was measured."""

from __future__ import annotations

import math

import pytest

from repsimc.compiler.execution.fidelity import TOP1, VARIANCE
from repsimc.compiler.execution.outputs import OutputComparison
from repsimc.compiler.planning.damage import cost_of, error_of
from repsimc.compiler.planning.forecast import Forecast

OUTPUT = ("a", "y")


def seen(
    explained: float, metric: str = VARIANCE, value: float | None = None, floor: float = 0.9
) -> OutputComparison:
    kept = explained if value is None else value
    return OutputComparison("a", "y", metric, kept, floor, 100, explained, 0.0)


def test_what_was_measured_scales_what_is_predicted() -> None:
    forecast = Forecast()
    assert forecast.scale("collapse") == 1
    goal = cost_of(0.02) / cost_of(0.04)
    off: list[float] = []
    for _ in range(3):
        forecast.learn([("collapse", {OUTPUT: cost_of(0.04)})], [seen(0.98)])
        off.append(forecast.scale("collapse") / goal - 1)
    # Held to where it began by a hundredth of one measurement; the more of them say so, the closer.
    assert 0 < off[2] < off[1] < off[0] < 0.01
    assert forecast.scale("narrow-layer") == 1


def test_one_combination_moves_all_of_its_kinds_by_their_part() -> None:
    forecast = Forecast()
    forecast.learn([("collapse", {OUTPUT: 0.09}), ("narrow-layer", {OUTPUT: 0.01})], [seen(0.8)])
    large, small = forecast.scale("collapse"), forecast.scale("narrow-layer")
    assert 1 < small < large
    assert 0.09 * large + 0.01 * small == pytest.approx(cost_of(0.2), rel=0.01)


def test_several_combinations_tell_kinds_apart() -> None:
    forecast = Forecast()
    for collapsed, narrowed in ((0.08, 0.02), (0.02, 0.08), (0.05, 0.05)):
        lost = collapsed / 2 + narrowed * 2
        chosen = [("collapse", {OUTPUT: collapsed}), ("narrow-layer", {OUTPUT: narrowed})]
        forecast.learn(chosen, [seen(math.exp(-lost))])
    assert forecast.scale("collapse") < 0.7 and forecast.scale("narrow-layer") > 1.5


def test_what_was_learned_earlier_is_where_scales_begin() -> None:
    forecast = Forecast({"collapse": 3.0, "narrow-layer": 0.5})
    assert forecast.scale("collapse") == 3 and forecast.scale("narrow-layer") == 0.5
    chosen = [("collapse", {OUTPUT: cost_of(0.04)})]
    # As it is predicted with these scales: nothing to learn.
    forecast.learn(chosen, [seen(1 - error_of(3 * cost_of(0.04)))])
    assert forecast.scale("collapse") == pytest.approx(3)
    assert forecast.scale("narrow-layer") == 0.5


def test_nothing_is_learned_from_no_error() -> None:
    forecast = Forecast()
    forecast.learn([("collapse", {OUTPUT: 0.0})], [seen(0.9)])
    forecast.learn([("collapse", {OUTPUT: 0.1})], [seen(1.0)])
    assert forecast.scales == {}


def test_measurements_move_a_scale_by_no_more_than_eight_times() -> None:
    forecast = Forecast()
    for _ in range(3):
        forecast.learn([("collapse", {OUTPUT: 1e-5})], [seen(0.5)])
        assert forecast.scale("collapse") == pytest.approx(8)


def test_an_allowance_is_the_error_at_which_the_floor_is_met() -> None:
    forecast = Forecast()
    assert forecast.allowance(seen(1.0)) == pytest.approx(0.1)
    scores = seen(0.9975, TOP1, 0.99)
    guessed = forecast.allowance(scores)
    assert forecast.fidelity(scores, guessed) > 0.9
    # Scores that agree by chance: of their variance no more than a quarter may go.
    assert guessed == 0.25 == forecast.allowance(scores, factor=3)
    # 1 % of the frames went with 0.25 % of the variance, its root 5 %: half as many roots again.
    for _ in range(100):
        forecast.learn([("collapse", {OUTPUT: 0.02})], [scores])
    assert forecast.fidelity(scores, 0.0025) == pytest.approx(0.99, abs=2e-4)
    tight = seen(0.9975, TOP1, 0.99, floor=0.98)
    assert forecast.allowance(tight) == pytest.approx(0.01, rel=0.05)
    assert forecast.allowance(tight, factor=2) == pytest.approx(0.02, rel=0.05)
    assert forecast.fidelity(tight, forecast.allowance(tight)) == pytest.approx(0.98)


def test_few_frames_move_what_an_agreement_is_expected_to_lose_by_their_weight() -> None:
    few, many = Forecast(), Forecast()
    none_lost = seen(0.99, TOP1, 1.0, floor=0.995)
    before = few.allowance(none_lost)
    few.learn([("collapse", {OUTPUT: 0.01})], [none_lost])
    for _ in range(20):
        many.learn([("collapse", {OUTPUT: 0.01})], [none_lost])
    assert before < few.allowance(none_lost) <= many.allowance(none_lost) == 0.25


def test_hopeless_is_what_no_fit_wins_back() -> None:
    forecast = Forecast()
    assert not forecast.hopeless(seen(1.0), 0.25)
    assert forecast.hopeless(seen(1.0), 0.35)
    # Agreement outlasts variance.
    assert not forecast.hopeless(seen(1.0, TOP1, 1.0, floor=0.99), 0.45)
    assert forecast.hopeless(seen(1.0, TOP1, 1.0, floor=0.99), 0.55)
    assert not forecast.hopeless(seen(1.0, TOP1, 1.0, floor=0.5), 0.9)
    assert forecast.hopeless(seen(1.0, TOP1, 1.0, floor=0.99), 0.9)
    assert not forecast.hopeless(seen(1.0, floor=0.0), 1.0)
