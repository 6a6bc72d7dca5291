"""The front: what dominates what, and the search for its points."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.planning.front import (
    Explorer,
    Front,
    FrontPoint,
    _geometric,
    _thinned,
    front_of,
)
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
        assert one.plan.predicted == pytest.approx(max(one.predicted.values()), abs=1e-6)
        assert all(each.predicted is not None for each in one.plan.actions)
        if one.trial is None:
            assert one.bill == source.bills.bill([each.action for each in one.plan.actions])
            assert not any(one.dominates(other) for other in measured)


def test_as_many_points_as_asked_for_are_spread_over_the_sizes() -> None:
    front = Explorer(bench(), NoProgress()).front(7, 0)
    assert len(front.points) == 7 and not front.notes
    assert [one.trial is None for one in front.points] == [False] + 6 * [True]
    macs = [one.bill.macs for one in front.points]
    assert macs[-1] < 0.6 * macs[0]
    gaps = [before - after for before, after in pairwise(macs)]
    assert max(gaps) < 0.5 * (macs[0] - macs[-1])


def test_what_was_measured_teaches_the_others() -> None:
    def lost_by(front: Front) -> dict[tuple[object, ...], float]:
        return {
            tuple(each.action for each in one.plan.actions): one.lost
            for one in front.points[1:]
            if one.trial is None
        }

    naive = lost_by(Explorer(bench(), NoProgress()).front(12, 0))
    taught = lost_by(Explorer(bench(), NoProgress()).front(12, 3))
    assert naive != taught


def test_thinning_keeps_the_ends_and_what_is_fixed() -> None:
    sizes = [2.0, 1.9, 1.5, 1.45, 1.0, 0.5, 0.45]
    assert _thinned(sizes, 7) == [*range(7)]
    assert _thinned(sizes, 4) == [0, 3, 4, 6]
    assert _thinned(sizes, 3, {5}) == [0, 5, 6]
    assert _thinned(sizes, 1) == [6]
    assert _thinned(sizes, 2, {2, 3}) == [2, 3]


def test_losses_are_swept_geometrically() -> None:
    assert _geometric(0.001, 0.1, 3) == pytest.approx([0.001, 0.01, 0.1])
    assert _geometric(0.9, 0.7, 2) == [0.7, 0.7]


def test_one_point_is_the_exact_program() -> None:
    front = Explorer(bench(), NoProgress()).front(1, 0)
    assert [point.plan.actions for point in front.points] == [()]
