"""The best combination of all: the linear program proposes, the exact bill decides.

The program admits every combination that is within the limits and underrates none, so that the
first of its proposals that the exact bill admits is the best. One that is refused is cut off; where
that happens again and again the limits are tightened instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ...actions.bill import Bill
from ..damage import Output
from ..limits import Limits
from .combinations import Combination, Combinations
from .greedy import greedily
from .linear_program import Ending, LinearProgram

# Of up to so many candidates the best combination is found; of more, one within that share of it.
FEW = 64
GAP = 1e-3
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


@dataclass(frozen=True)
class Aim:
    """What is asked for: the combination of least value that limits and allowances admit.

    `objective` is the value as an expression, which is expected to be about `size` and may be off
    by `blur`; `program` has all rows but those of the limits, of the `forbidden` sets and of moves
    that are `barred`. `damage` is what errors are compared by, which `scales` multiplies by move.
    """

    program: LinearProgram
    objective: Mapping[int, float]
    value: Callable[[Combination], float]
    damage: Callable[[Errors], float]
    scales: Sequence[float]
    forbidden: Sequence[frozenset[int]] = ()
    barred: frozenset[int] = frozenset()
    limits: Limits = field(default_factory=Limits)
    allowance: Errors = field(default_factory=dict[Output, float])
    size: float = 1.0
    blur: float = 0.0

    def admits(self, found: Combination) -> bool:
        """Whether it is within the limits, and every output within its allowance."""
        return self.limits.excess(found.bill) == 0 and all(
            found.errors[output] <= most * (1 + _ROUNDING)
            for output, most in self.allowance.items()
        )


def best(space: Combinations, aim: Aim, seconds: float) -> tuple[Combination, bool] | None:
    """The best combination, and whether that is proven; None where none is admitted."""
    refinement = _Refinement(space, aim)
    found, proven = refinement.search(time.perf_counter() + seconds)
    if not proven:
        known = (found, _greedy(space, aim))
        found = min((one for one in known if one is not None), key=aim.value, default=None)
    return None if found is None else (_without_idle(space, aim, found), proven)


class _Refinement:
    """The rounds of one question."""

    def __init__(self, space: Combinations, aim: Aim) -> None:
        self._space = space
        self._aim = aim
        self._program = aim.program.copy()
        self._limits = aim.limits
        for moves in aim.forbidden:
            self._at_most(moves, len(moves) - 1)
        self._at_most(aim.barred, 0)
        space.limit(self._program, aim.limits)
        self._cuts = _CUTS if space.count <= FEW else _CUTS_OF_MANY

    def search(self, until: float) -> tuple[Combination | None, bool]:
        """The best that was found until then, and whether it is the best that there is."""
        aim, space = self._aim, self._space
        found: Combination | None = None
        size = aim.size
        for _ in range(_ROUNDS):
            minimum = self._program.minimum(
                self._objective(size),
                size=size,
                gap=0.0 if space.count <= FEW else GAP,
                seconds=until - time.perf_counter(),
            )
            exact = self._limits == aim.limits
            if minimum.ending is Ending.INFEASIBLE:
                return found, exact
            if minimum.values is None or minimum.ending is Ending.FAILED:
                return found, False
            values = minimum.values
            least = sum(x * float(values[variable]) for variable, x in aim.objective.items())
            margin = aim.blur + _TOLERANCE * size
            if found is not None and least >= aim.value(found) - margin:
                return found, exact
            moves = [i for i in range(space.count) if values[space.choices[i]] > 0.5]
            one = space.combination(moves, aim.scales)
            if one is None:
                core = space.conflict(moves)
                self._at_most(core, len(core) - 1)
                continue
            value = aim.value(one)
            if 0 < value < _FINER * size:
                size = value
                continue
            if aim.admits(one):
                if found is None or value < aim.value(found):
                    found = one
                if value <= least + margin:
                    return found, exact and minimum.ending is Ending.PROVEN
            self._cut(one)
        return found, False

    def _objective(self, size: float) -> dict[int, float]:
        total = dict(self._aim.objective)
        for variable, share in self._space.shares((1.0, 1.0)).items():
            total[variable] = total.get(variable, 0.0) + _EVEN * size * share
        return total

    def _at_most(self, moves: Collection[int], most: int) -> None:
        row = [(self._space.choices[move], 1.0) for move in sorted(moves)]
        self._program.at_most(row, float(most))

    def _cut(self, refused: Combination) -> None:
        """Rule this combination out, or all that are as much over the limits as it is."""
        self._cuts -= 1
        chosen = refused.moves
        row = [
            (self._space.choices[i], -1.0 if i in chosen else 1.0) for i in range(self._space.count)
        ]
        self._program.at_least(row, 1.0 - len(chosen))
        aim = self._aim.limits
        if self._cuts < 0 and aim.excess(refused.bill) > 0:
            now, bill = self._limits, refused.bill
            self._limits = Limits(
                _tighter(now.weights_nbytes, aim.weights_nbytes, bill.weights_nbytes),
                _tighter(now.macs, aim.macs, bill.macs),
            )
            self._space.limit(self._program, self._limits)


def _tighter(limit: int | None, wanted: int | None, used: int) -> int | None:
    """The limit less what was used beyond the one that is wanted."""
    return None if limit is None or wanted is None else limit - max(0, used - wanted)


def _greedy(space: Combinations, aim: Aim) -> Combination | None:
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

    first = {
        i: saved(space.candidate(i).site.saved) for i in range(space.count) if i not in aim.barred
    }
    found = space.combination(greedily(first, price, damage), scales)
    return found if found is not None and aim.admits(found) else None


def _without_idle(space: Combinations, aim: Aim, found: Combination) -> Combination:
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
