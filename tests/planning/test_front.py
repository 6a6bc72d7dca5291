"""The front: what dominates what, and the search for its points."""

from __future__ import annotations

from typing import Any

import pytest

from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.planning.front import Explorer, FrontPoint, front_of
from repsimc.compiler.planning.limits import bill_of
from repsimc.compiler.planning.plan import Plan
from repsimc.compiler.planning.trial import Trial
from repsimc.compiler.progress import NoProgress
from tests.nets.six_blocks import bench
from tests.planning.test_trial import comparison


def point(nbytes: int, macs: int, lost: float, trial: Trial | None = None) -> FrontPoint:
    return FrontPoint(Plan({}), Bill(nbytes, macs), {("a", "y"): lost}, trial)


EXACT = point(100, 100, 0.0)


def test_a_point_that_another_beats_in_every_way_is_left_out() -> None:
    small, fast, beaten = point(50, 90, 0.1), point(90, 50, 0.1), point(95, 90, 0.1)
    assert small.dominates(beaten) and fast.dominates(beaten)
    assert not small.dominates(fast) and not fast.dominates(small)
    assert front_of(EXACT, [beaten, small, fast]) == (EXACT, fast, small)
    assert front_of(EXACT, [small, beaten, fast]) == (EXACT, fast, small)


def test_of_equal_points_the_first_stays() -> None:
    one, other = point(50, 50, 0.1), point(50, 50, 0.1)
    assert not one.dominates(other)
    assert front_of(EXACT, [one, other]) == (EXACT, one)


def test_what_was_measured_counts_for_more_than_what_was_predicted() -> None:
    worse = Trial((), None, Bill(50, 50), (comparison("explained variance", 0.6, 0.6),))
    measured = point(50, 50, 0.0, worse)
    assert measured.lost == pytest.approx(0.4)
    assert front_of(EXACT, [measured, point(40, 50, 0.3)])[1:] == (point(40, 50, 0.3),)


def test_the_exact_program_stays_though_something_free_is_smaller() -> None:
    free = point(90, 90, 0.0)
    assert front_of(EXACT, [free]) == (EXACT, free)


def test_a_search_keeps_its_promises() -> None:
    seen: list[tuple[Any, ...]] = []

    def look(trial: Trial) -> None:
        seen.append((trial.actions, bill_of(trial.program)))

    source = bench()
    front = Explorer(source, NoProgress(), look).front(5, 2)
    first, *others = front.points
    assert first.plan.actions == () and first.trial is not None and first.lost < 1e-6
    assert 1 <= len(others) <= 4
    assert front_of(first, others) == front.points
    sizes = [(one.bill.weights_nbytes, one.bill.macs) for one in front.points]
    assert sizes == sorted(sizes, reverse=True)
    measured = [one for one in front.points if one.trial is not None]
    assert len(measured) <= 1 + 2
    for one in measured:
        assert one.trial is not None
        assert one.trial.fitted is None, "a program for every point would be much memory"
        assert (one.trial.actions, one.bill) in seen
        assert one.trial.actions == tuple(planned.action for planned in one.plan.actions)
    for one in others:
        if one.trial is None:
            assert one.bill == source.bills.bill([each.action for each in one.plan.actions])


def test_one_point_is_the_exact_program() -> None:
    front = Explorer(bench(), NoProgress()).front(1, 0)
    assert [point.plan.actions for point in front.points] == [()]
