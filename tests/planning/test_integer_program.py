"""The integer program against brute force on small cases, and random plans on a large one."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.errors import InternalFault
from repsimc.compiler.planning.formulation.candidates import Candidate
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


@settings(max_examples=25, deadline=None)
@cases
def test_no_combination_does_less_damage(name: str, seed: int) -> None:
    draws, found = random.Random(seed), candidates_of(name)
    candidates = with_errors(found, draws, draws.randint(1, 8))
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


@settings(max_examples=15, deadline=None)
@cases
def test_no_combination_is_smaller_within_the_allowances(name: str, seed: int) -> None:
    draws, found = random.Random(seed), candidates_of(name)
    candidates = with_errors(found, draws, draws.randint(1, 7))
    allowance = {output: draws.choice([0.0, 0.05, 0.3, 2.0]) for output in found.outputs}
    weigh = draws.choice([(1.0, 1.0), (1.0, 0.0), (0.3, 1.0)])
    price = draws.choice([0.0, 0.005, 0.1])
    program = IntegerProgram(found.bills, candidates)
    choice = program.smallest(allowance, weigh=weigh, price=price)
    whole = found.bills.bill(())
    assert whole is not None

    def cost(bill: Bill, actions: int) -> float:
        nbytes, macs = bill.weights_nbytes / whole.weights_nbytes, bill.macs / whole.macs
        return weigh[0] * nbytes + weigh[1] * macs + price * actions

    assert choice.proven
    assert_as_said(found, choice, candidates)
    assert all(choice.errors[o] <= most * (1 + 1e-6) for o, most in allowance.items())
    costs = [
        cost(one.bill, len(one.candidates))
        for one in allowed(found, candidates)
        if all(one.errors[o] <= most for o, most in allowance.items())
    ]
    # Shrunk weights are billed in whole bytes, which the program does not see.
    assert cost(choice.bill, len(choice.candidates)) <= min(costs) + 0.02


@settings(max_examples=15, deadline=None)
@cases
def test_the_least_bytes_and_macs_of_any_combination(name: str, seed: int) -> None:
    draws, found = random.Random(seed), candidates_of(name)
    candidates = with_errors(found, draws, draws.randint(1, 7))
    least = IntegerProgram(found.bills, candidates).least()
    bills = [one.bill for one in allowed(found, candidates)]
    assert least.weights_nbytes == pytest.approx(min(b.weights_nbytes for b in bills), rel=0.02)
    assert least.macs == pytest.approx(min(b.macs for b in bills), rel=0.02)


@settings(max_examples=15, deadline=None)
@cases
def test_what_is_held_is_in_every_combination(name: str, seed: int) -> None:
    draws, found = random.Random(seed), candidates_of(name)
    held = [draws.choice(found.sites).action]
    candidates = [c for c in with_errors(found, draws, 6) if c.action not in held]
    tried = list(allowed(found, candidates, held))
    limits = limits_between(draws, tried)
    choice = IntegerProgram(found.bills, candidates, held).least_damage(limits)
    within = [one for one in tried if limits.excess(one.bill) == 0]
    if within:
        assert choice is not None and choice.bill == found.bills.bill([*held, *choice.actions])
        mine = Tried(choice.candidates, choice.bill, choice.errors).damage()
        assert mine <= min(one.damage() for one in within) * (1 + 1e-6) + 1e-12
    else:
        assert choice is None


def some_case(name: str = "one trunk", count: int = 9) -> tuple[Given, list[Candidate]]:
    found = candidates_of(name)
    return found, with_errors(found, random.Random(3), count)


def test_nothing_is_within_impossible_limits() -> None:
    found, candidates = some_case()
    program = IntegerProgram(found.bills, candidates)
    least = program.least()
    assert program.least_damage(Limits(least.weights_nbytes - 1)) is None
    assert program.least_damage(Limits(None, least.macs - 1)) is None
    assert program.least_damage(Limits(-1)) is None
    assert program.least_damage(Limits(least.weights_nbytes)) is not None


def test_forbidden_sets_are_not_chosen_together() -> None:
    found, candidates = some_case()
    whole = found.bills.bill(())
    assert whole is not None
    program = IntegerProgram(found.bills, candidates)
    limits = Limits((whole.weights_nbytes + program.least().weights_nbytes) // 2)
    forbidden: list[frozenset[Action]] = []
    damages: list[float] = []
    for _ in range(5):
        choice = program.least_damage(limits, forbidden=forbidden)
        if choice is None:
            break
        assert not any(actions <= {*choice.actions} for actions in forbidden)
        forbidden.append(frozenset(choice.actions))
        damages.append(Tried(choice.candidates, choice.bill, choice.errors).damage())
    assert len(damages) > 2 and damages == sorted(damages)


def test_more_room_never_costs_more_damage() -> None:
    found, candidates = some_case("three residual siblings", 20)
    program = IntegerProgram(found.bills, candidates)
    whole, least = found.bills.bill(()), program.least()
    assert whole is not None
    damages: list[float] = []
    for step in range(6):
        nbytes = least.weights_nbytes + (whole.weights_nbytes - least.weights_nbytes) * step // 5
        choice = program.least_damage(Limits(nbytes))
        assert choice is not None and choice.proven
        damages.append(Tried(choice.candidates, choice.bill, choice.errors).damage())
    assert damages == sorted(damages, reverse=True) and damages[0] > damages[-1]


def test_scales_multiply_errors_and_infinite_ones_leave_out() -> None:
    found, candidates = some_case()
    whole = found.bills.bill(())
    assert whole is not None
    limits = Limits(round(0.8 * whole.weights_nbytes))
    program = IntegerProgram(found.bills, candidates)
    plain = program.least_damage(limits)
    double = program.least_damage(limits, scale=lambda candidate: 2.0)
    assert plain is not None and double is not None
    assert double.actions == plain.actions
    assert double.errors == pytest.approx({o: 2 * error for o, error in plain.errors.items()})
    first = plain.candidates[0]
    without = program.least_damage(
        limits, scale=lambda candidate: math.inf if candidate is first else 1.0
    )
    assert without is None or first not in without.candidates


@pytest.mark.parametrize("factor", [math.nan, -1.0])
def test_factors_that_are_none_are_refused(factor: float) -> None:
    found, candidates = some_case()
    program = IntegerProgram(found.bills, candidates)
    with pytest.raises(InternalFault, match="multiplied by"):
        program.least_damage(Limits(), scale=lambda candidate: factor)
    with pytest.raises(InternalFault, match="multiplied by"):
        program.least_damage(Limits(), importance={found.outputs[0]: factor})


def test_out_of_time_the_answer_is_greedy() -> None:
    found, candidates = some_case("three residual siblings", 40)
    whole = found.bills.bill(())
    assert whole is not None
    limits = Limits(round(0.6 * whole.weights_nbytes))
    program = IntegerProgram(found.bills, candidates)
    best, late = program.least_damage(limits), program.least_damage(limits, seconds=0.0)
    assert best is not None and late is not None
    assert best.proven and not late.proven
    assert limits.excess(late.bill) == 0
    assert_as_said(found, late, candidates)
    allowance = dict.fromkeys(found.outputs, 0.2)
    small = program.smallest(allowance, seconds=0.0)
    assert not small.proven and 0 < small.bill.weights_nbytes < whole.weights_nbytes
    assert max(small.errors.values()) <= 0.2


def test_better_than_a_thousand_random_combinations() -> None:
    found = candidates_of("four of attention")
    draws = random.Random(1)
    candidates = [
        Candidate(one.site, {output: error + 0.001 for output, error in one.errors.items()})
        for one in with_errors(found, draws, len(found.sites))
    ]
    assert len(candidates) > 64
    whole = found.bills.bill(())
    assert whole is not None
    limits = Limits(round(0.6 * whole.weights_nbytes))
    program = IntegerProgram(found.bills, candidates)
    choice = program.least_damage(limits)
    assert choice is not None and limits.excess(choice.bill) == 0
    mine = Tried(choice.candidates, choice.bill, choice.errors).damage()
    damages: list[float] = []
    for _ in range(20_000):
        chosen: list[Candidate] = []
        for one in draws.sample(candidates, draws.randint(2, 6)):
            if found.bills.bill([*(other.action for other in chosen), one.action]) is not None:
                chosen.append(one)
        bill = found.bills.bill([one.action for one in chosen])
        if bill is not None and limits.excess(bill) == 0:
            damages.append(Tried(tuple(chosen), bill, predicted(found, chosen)).damage())
        if len(damages) == 1000:
            break
    assert len(damages) == 1000
    assert 0 < mine < min(damages) * (1 + 1e-3)


def test_the_same_question_has_the_same_answer() -> None:
    found, candidates = some_case("three residual siblings", 30)
    whole = found.bills.bill(())
    assert whole is not None
    limits = Limits(round(0.5 * whole.weights_nbytes), round(0.8 * whole.macs))
    answers = [IntegerProgram(found.bills, candidates).least_damage(limits) for _ in range(2)]
    assert answers[0] is not None and answers[1] is not None
    assert answers[0].candidates == answers[1].candidates


def test_without_candidates_the_program_is_what_it_is() -> None:
    found = candidates_of("twins")
    program, whole = IntegerProgram(found.bills, []), found.bills.bill(())
    assert whole is not None and program.least() == whole
    for choice in (program.least_damage(Limits()), program.smallest({})):
        assert choice is not None and choice.candidates == () and choice.bill == whole
    assert program.least_damage(Limits(whole.weights_nbytes - 1)) is None


def test_what_is_held_has_to_stand_together() -> None:
    found = candidates_of("pyramids")
    sharing = [one.action for one in found.sites if len(one.action.models) > 1]
    twice = next(pair for pair in combinations(sharing, 2) if found.bills.bill(pair) is None)
    with pytest.raises(InternalFault, match="exclude each other"):
        IntegerProgram(found.bills, [], twice)
