"""Deadlines: what is left of a time limit, and what is said where it is over."""

from __future__ import annotations

import math

from repsimc.compiler.planning.deadline import Deadline


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_limit_runs_from_when_it_was_made() -> None:
    clock = Clock()
    deadline = Deadline(600, clock)
    assert deadline.left() == 600 and not deadline.over
    clock.now += 599
    assert deadline.left() == 1 and not deadline.over
    clock.now += 1
    assert deadline.left() == 0 and deadline.over
    clock.now += 1000
    assert deadline.left() == 0 and deadline.over


def test_without_a_limit_it_is_never_over() -> None:
    clock = Clock()
    deadline = Deadline(None, clock)
    clock.now += 1e9
    assert deadline.left() == math.inf and not deadline.over


def test_what_is_said_names_the_limit_as_users_do() -> None:
    assert Deadline(600).note(3, 5) == (
        "the time limit of 10m ended the search after 3 of 5 rounds; this is the best plan it had"
    )
    error = Deadline(90).refusal("the budget of 60%")
    assert error.exit_code == 5
    assert error.message == (
        "the time limit of 90s ended the search before any plan met the budget of 60%"
    )
    assert "--resume" in error.hint
