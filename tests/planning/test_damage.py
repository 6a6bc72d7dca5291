"""Damage as numbers: what combinations are compared by, and what adds up."""

from __future__ import annotations

import math

import pytest

from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.execution.outputs import OutputComparison
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.planning.damage import (
    cost_of,
    described,
    error_of,
    errors_of,
    spread,
    unexplained,
    worst,
)
from repsimc.compiler.planning.limits import Limits


def compared(model: str, explained: float, loss: float) -> OutputComparison:
    return OutputComparison(model, "y", "top-1 agreement", 1 - loss, 0.9, 100, explained, loss)


def shared(donor: str, receiver: str) -> SharePrefixAction:
    return SharePrefixAction(donor, receiver, (Link(f"{receiver}/x", (f"{donor}/x",)),), 1)


REGION = CollapseAction("a", "a/b0", "a/b1")


def test_the_output_that_suffers_most_decides() -> None:
    even = [compared("a", 0.9, 0.02), compared("b", 0.9, 0.02)]
    uneven = [compared("a", 1.0, 0.0), compared("b", 0.9, 0.03)]
    assert worst(even) < worst(uneven)
    assert worst([]) == 0


def test_variance_tells_apart_what_the_loss_does_not() -> None:
    assert worst([compared("a", 0.85, 0.0)]) > worst([compared("a", 0.95, 0.0)])


def test_a_loss_weighs_more_than_as_much_variance() -> None:
    assert worst([compared("a", 1.0, 0.1)]) > worst([compared("a", 0.9, 0.0)])


@pytest.mark.parametrize("explained", [math.nan, -3.0, 0.0])
def test_an_output_that_explains_nothing_is_a_whole_error(explained: float) -> None:
    assert unexplained(compared("a", explained, 0.0)) == 1


def test_one_large_error_spreads_wider_than_two_small_ones() -> None:
    one, two = {("a", "y"): 0.2, ("b", "y"): 0.0}, {("a", "y"): 0.1, ("b", "y"): 0.1}
    assert spread(one, 2) > spread(two, 2)
    assert spread(errors_of([compared("a", 0.7, 0.0)]), 1) == pytest.approx(0.3)


def test_costs_add_up_where_what_is_left_multiplies() -> None:
    half = cost_of(0.5)
    assert error_of(2 * half) == pytest.approx(0.75)
    assert cost_of(1e-4) == pytest.approx(1e-4, rel=1e-3)
    for error in (0.0, 1e-9, 0.01, 0.3, 0.9):
        assert error_of(cost_of(error)) == pytest.approx(error)
    # What is lost is lost, and noise below zero is no gain.
    assert cost_of(0.96) == cost_of(1.0) == cost_of(7.0) < 4
    assert cost_of(-0.1) == 0


def test_limits_add_up_what_is_over() -> None:
    limits = Limits(100, 1000)
    assert limits.excess(Bill(100, 900)) == 0
    assert limits.excess(Bill(150, 1100)) == pytest.approx(0.6)
    assert Limits().excess(Bill(10**9, 10**12)) == 0
    assert limits.any and not Limits().any
    # What is needed beside weights is over the budget: then nothing is within, not even no weights.
    assert Limits(-1000).excess(Bill(0, 0)) > 0 == Limits(0).excess(Bill(0, 0))


def test_a_plan_in_words() -> None:
    assert described([]) == "nothing inexact"
    actions = [shared("a", "b"), shared("a", "c"), REGION, FreezeBranchAction("a", "a/x")]
    assert described(actions) == "2 prefixes shared, 1 region out, 1 fold"
