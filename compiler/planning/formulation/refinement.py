"""The best combination of all: the linear program proposes, the exact bill decides.

The program admits every combination that is within the limits and underrates none, so that the
first of its proposals that the exact bill admits is the best. One that is refused is cut off; where
that happens again and again the limits are tightened instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ...actions.bill import Bill
from ..damage import Output
from ..limits import Limits
from .combinations import Combinations, Priced
from .greedy import greedily
from .linear_program import Ending, LinearProgram

# Of up to so many candidates the best combination is found. Of more, one that is within the share
# of the best, or the best of so many nodes of the search tree.
FEW = 64
_GAP = 1e-3
_NODES, _NODES_OF_FEW = 100, 20_000
# The first look, for an idea of the value: what would do more by itself is then left out.
_FIRST_GAP = 0.1
# Combinations that are cut off one by one; of many candidates fewer, as each has many like it.
_CUTS, _CUTS_OF_MANY = 12, 2
_ROUNDS = 24
# What all that a program costs adds to the value: it decides among equals.
_EVEN = 1e-7
# A value this much smaller than was expected is looked for again, on its own scale.
_FINER = 1e-2
# What sums of floats in another order, or the solver's tolerances, make of a difference.
_ROUNDING, _TOLERANCE = 1e-9, 1e-6

Errors = Mapping[Output, float]
Row = tuple[list[tuple[int, float]], float]
"""Terms, and what they add up to at least."""


@dataclass(frozen=True)
class Statement:
    """A program without the limits, and in it the expression of which the least is asked for."""

    program: LinearProgram
    objective: Mapping[int, float]
    barred: Collection[int] = ()


@dataclass(frozen=True)
class Aim:
    """What is asked for: the combination of least value that limits and allowances admit.

    `statement(most)` states it for combinations whose value is at most that; `bounded` says that
    this makes a difference. The value will be about `size`, its expression may be off by `blur`.
    `damage` is what errors are compared by, which `scales` multiplies by move.
    """

    statement: Callable[[float], Statement]
    value: Callable[[Priced], float]
    damage: Callable[[Errors], float]
    scales: Sequence[float]
    forbidden: Sequence[frozenset[int]] = ()
    limits: Limits = field(default_factory=Limits)
    allowance: Errors = field(default_factory=dict[Output, float])
    size: float = 1.0
    blur: float = 0.0
    bounded: bool = False

    def admits(self, found: Priced) -> bool:
        """Whether it is within the limits, and every output within its allowance."""
        return self.limits.excess(found.bill) == 0 and all(
            found.errors[output] <= most * (1 + _ROUNDING)
            for output, most in self.allowance.items()
        )


def best(space: Combinations, aim: Aim, seconds: float) -> tuple[Priced, bool] | None:
    """The best combination, and whether that is proven; None where none is admitted."""
    refinement = _Refinement(space, aim)
    found, proven = refinement.search(time.perf_counter() + seconds)
    if found is None and not proven:
        found = _greedy(space, aim)
    return None if found is None else (_without_idle(space, aim, found), proven)


class _Refinement:
    """The rounds of one question."""

    def __init__(self, space: Combinations, aim: Aim) -> None:
        self._space = space
        self._aim = aim
        self._few = space.count <= FEW
        self._limits = aim.limits
        self._rows = [self._not_all(moves) for moves in aim.forbidden]
        self._cuts = _CUTS if self._few else _CUTS_OF_MANY
        self._size = aim.size
        self._most = math.inf

    def search(self, until: float) -> tuple[Priced | None, bool]:
        """The best that was found until then, and whether it is the best that there is."""
        aim, space = self._aim, self._space
        found: Priced | None = None
        statement = aim.statement(math.inf)
        for _ in range(_ROUNDS):
            first = aim.bounded and math.isinf(self._most)
            minimum = self._program(statement).minimum(
                self._objective(statement),
                size=self._size,
                gap=_FIRST_GAP if first else 0.0 if self._few else _GAP,
                nodes=_NODES_OF_FEW if self._few else _NODES,
                seconds=until - time.perf_counter(),
            )
            exact = self._limits == aim.limits
            if minimum.ending is Ending.INFEASIBLE:
                return found, exact
            if minimum.values is None:
                return found, False
            values = minimum.values
            least = sum(x * float(values[i]) for i, x in statement.objective.items())
            margin = aim.blur + _TOLERANCE * self._size
            moves = [i for i in range(space.count) if values[space.choices[i]] > 0.5]
            one = space.combination(moves, aim.scales)
            if one is None:
                self._rows.append(self._not_all(space.conflict(moves)))
                continue
            value, admitted = aim.value(one), aim.admits(one)
            if admitted and (found is None or value < aim.value(found)):
                found = one
            late = minimum.ending is Ending.FAILED
            if not late and (first or 0 < value < _FINER * self._size):
                self._size = value or self._size
                if found is not None and aim.bounded:
                    self._most = aim.value(found) * (1 + _TOLERANCE)
                    statement = aim.statement(self._most)
                if admitted:
                    continue
            if late:
                return found, False
            if found is not None and aim.value(found) <= least + margin:
                return found, exact and minimum.ending is Ending.PROVEN
            self._refuse(one)
        return found, False

    def _program(self, statement: Statement) -> LinearProgram:
        """The statement with the limits and all that was refused."""
        program = statement.program.copy()
        self._space.limit(program, self._limits)
        for terms, least in self._rows:
            program.at_least(terms, least)
        program.at_most([(self._space.choices[move], 1.0) for move in statement.barred], 0.0)
        return program

    def _objective(self, statement: Statement) -> dict[int, float]:
        total = dict(statement.objective)
        for variable, share in self._space.shares((1.0, 1.0)).items():
            total[variable] = total.get(variable, 0.0) + _EVEN * self._size * share
        return total

    def _not_all(self, moves: Collection[int]) -> Row:
        return [(self._space.choices[move], -1.0) for move in sorted(moves)], 1.0 - len(moves)

    def _refuse(self, one: Priced) -> None:
        """Rule a combination out, or all that are as much over the limits as it is."""
        self._cuts -= 1
        chosen = one.moves
        row = [
            (self._space.choices[i], -1.0 if i in chosen else 1.0) for i in range(self._space.count)
        ]
        self._rows.append((row, 1.0 - len(chosen)))
        if self._cuts < 0:
            now, asked, bill = self._limits, self._aim.limits, one.bill
            self._limits = Limits(
                _tighter(now.weights_nbytes, asked.weights_nbytes, bill.weights_nbytes),
                _tighter(now.macs, asked.macs, bill.macs),
            )


def _tighter(limit: int | None, wanted: int | None, used: int) -> int | None:
    """The limit less what was used beyond the one that is wanted."""
    return None if limit is None or wanted is None else limit - max(0, used - wanted)


def _greedy(space: Combinations, aim: Aim) -> Priced | None:
    """A combination that no solver was asked for; None where it is not admitted."""
    scales, limits = aim.scales, aim.limits

    def price(moves: frozenset[int]) -> float | None:
        if space.exclude_each_other(moves) or any(one <= moves for one in aim.forbidden):
            return None
        found = space.combination(moves, scales)
        if found is None or any(found.errors[o] > most for o, most in aim.allowance.items()):
            return None
        return limits.excess(found.bill) if limits.any else aim.value(found)

    def damage(moves: Collection[int]) -> float:
        return aim.damage(space.errors.errors(moves, scales))

    def saved(bill: Bill) -> float:
        if not limits.any:
            return space.share(bill, (1.0, 1.0))
        return limits.excess(space.base) - limits.excess(space.base - bill)

    barred = {*aim.statement(math.inf).barred}
    first = {i: saved(space.candidate(i).site.saved) for i in range(space.count) if i not in barred}
    found = space.combination(greedily(first, price, damage), scales)
    return found if found is not None and aim.admits(found) else None


def _without_idle(space: Combinations, aim: Aim, found: Priced) -> Priced:
    """The combination without moves that change nothing beside the others."""
    for move in sorted(found.moves, reverse=True):
        less = space.combination(found.moves - {move}, aim.scales)
        if (
            less is not None
            and aim.admits(less)
            and less.bill.weights_nbytes <= found.bill.weights_nbytes
            and less.bill.macs <= found.bill.macs
            and aim.value(less) <= aim.value(found)
        ):
            found = less
    return found
