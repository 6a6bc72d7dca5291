"""Costs as linear expressions against exact bills, for random combinations of all kinds."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from repsimc.compiler.actions.kinds import KINDS
from repsimc.compiler.planning.formulation.candidates import Candidate
from repsimc.compiler.planning.formulation.combinations import Combinations
from repsimc.compiler.planning.formulation.linear_program import Ending
from tests.nets.candidates import PROGRAMS, candidates_of


def least_costs(space: Combinations, moves: list[int]) -> tuple[float, float]:
    """The least bytes and MACs that the expressions allow for exactly these moves."""
    program = space.program.copy()
    for move in range(space.count):
        chosen = float(move in moves)
        program.at_least([(space.choices[move], 1.0)], chosen)
        program.at_most([(space.choices[move], 1.0)], chosen)
    least: list[float] = []
    for expression in (space.costs.nbytes, space.costs.macs):
        minimum = program.minimum(expression, size=max(map(abs, expression.values()), default=1.0))
        assert minimum.ending is Ending.PROVEN and minimum.values is not None
        least.append(sum(x * minimum.values[i] for i, x in expression.items()))
    return least[0], least[1]


def some_together(space: Combinations, draws: random.Random) -> list[int]:
    """A few moves that do not exclude each other, in random order of trying."""
    chosen: list[int] = []
    for move in draws.sample(range(space.count), min(space.count, draws.randint(1, 12))):
        if not space.exclude_each_other([*chosen, move]):
            chosen.append(move)
    return sorted(chosen)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_least_of_the_expressions_is_the_bill(name: str) -> None:
    found = candidates_of(name)
    space = Combinations(found.bills, [Candidate(site, {}) for site in found.sites], ())
    draws = random.Random(name)
    compared = 0
    for _ in range(15):
        moves = some_together(space, draws)
        combination = space.combination(moves, [1.0] * space.count)
        if combination is None:
            continue
        compared += 1
        nbytes, macs = least_costs(space, moves)
        slack = space.costs.slack
        names = [str(space.moves[move].action) for move in moves]
        assert nbytes == pytest.approx(
            combination.bill.weights_nbytes, abs=slack.weights_nbytes + 1e-3
        ), names
        assert macs == pytest.approx(combination.bill.macs, abs=slack.macs + 1e-3), names
    assert compared > 5


def test_draws_have_weights_in_few_bits_beside_every_other_kind() -> None:
    beside: Counter[str] = Counter()
    for name in PROGRAMS:
        found = candidates_of(name)
        space = Combinations(found.bills, [Candidate(site, {}) for site in found.sites], ())
        draws = random.Random(name)
        for _ in range(15):
            kinds = {space.moves[move].action.kind for move in some_together(space, draws)}
            beside.update(kinds if "store-in-few-bits" in kinds else ())
    assert {kind.name for kind in KINDS} <= set(beside), beside
