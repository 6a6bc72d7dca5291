"""The integer program against brute force on small cases, and random plans on a large one."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.compiler.actions.action import Action
from repsimc.compiler.planning.candidates import Candidate
from repsimc.compiler.planning.integer_program import Choice, IntegerProgram
from repsimc.compiler.planning.limits import Limits
from tests.nets.candidates import PROGRAMS, Given, candidates_of
from tests.planning.brute_force import Tried, allowed, predicted


def with_errors(found: Given, draws: random.Random, count: int) -> list[Candidate]:
    """So many of the sites, with errors of all sizes for the outputs that they reach."""
    sites = draws.sample(found.sites, min(count, len(found.sites)))
    candidates: list[Candidate] = []
    for site in sites:
        reached = set(found.bills.affected(site.action))
        size = draws.choice([0.0, 10 ** draws.uniform(-5, 0), draws.random()])
        errors = {o: size * draws.random() for o in found.outputs if o[0] in reached}
        candidates.append(Candidate(site, errors))
    return candidates


def limits_between(draws: random.Random, tried: Sequence[Tried]) -> Limits:
    """Limits on bytes, MACs or both, between the least and the most that a combination costs."""

    def between(figures: Sequence[int]) -> int:
        return round(draws.uniform(min(figures) - 1, max(figures)))

    nbytes = between([one.bill.weights_nbytes for one in tried])
    macs = between([one.bill.macs for one in tried])
    return draws.choice([Limits(nbytes), Limits(None, macs), Limits(nbytes, macs)])


def assert_as_said(
    found: Given, choice: Choice, candidates: Sequence[Candidate], held: Sequence[Action] = ()
) -> None:
    """The bill and the errors are those of its actions, and it is allowed."""
    assert choice.bill == found.bills.bill([*held, *choice.actions])
    assert choice.errors == pytest.approx(predicted(found, choice.candidates, held))
    assert list(choice.candidates) == [one for one in candidates if one in choice.candidates]
    assert any(
        one.candidates == choice.candidates for one in allowed(found, choice.candidates, held)
    )


cases = given(name=st.sampled_from(sorted(PROGRAMS)), seed=st.integers(0, 10**6))


@settings(max_examples=60, deadline=None)
@cases
def test_no_combination_does_less_damage(name: str, seed: int) -> None:
    draws, found = random.Random(seed), candidates_of(name)
    candidates = with_errors(found, draws, draws.randint(1, 9))
    tried = list(allowed(found, candidates))
    limits = limits_between(draws, tried)
    importance = {output: draws.choice([0.3, 1.0, 2.0]) for output in found.outputs}
    choice = IntegerProgram(found.bills, candidates).least_damage(limits, importance=importance)
    within = [one for one in tried if limits.excess(one.bill) == 0]
    if not within:
        assert choice is None
        return
    assert choice is not None and choice.proven
    assert limits.excess(choice.bill) == 0
    assert_as_said(found, choice, candidates)
    least = min(one.damage(importance) for one in within)
    mine = Tried(choice.candidates, choice.bill, choice.errors).damage(importance)
    assert mine == pytest.approx(least, rel=1e-6, abs=1e-12)
