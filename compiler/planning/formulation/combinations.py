"""All combinations of candidates beside what is held, as the rows of one linear program."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...actions.action import Action
from ...actions.bill import Bill, Bills
from ...actions.combining import makes_idle
from ...errors import InternalFault
from ..damage import Output
from ..limits import Limits
from .candidates import Candidate
from .carried_errors import CarriedErrors
from .contraction import Contraction
from .exclusions import cliques, exclusions
from .linear_costs import LinearCosts
from .linear_program import LinearProgram
from .moves import Move, bits, mask_of, moves_of

Weights = tuple[float, float]
"""What a share of the weight bytes counts for, and one of the MACs."""


@dataclass(frozen=True)
class Priced:
    """Candidates' moves with the exact bill of the program then, and its outputs' errors."""

    moves: frozenset[int]
    bill: Bill
    errors: Mapping[Output, float]


class Combinations:
    """What may be chosen together, what it costs and what it does to the outputs.

    Move i of the first `count` is that of a candidate, and variable `choices[i]` says whether it is
    chosen. `whole` is the bill of the program as it is, `base` that beside what is held.
    """

    def __init__(
        self, bills: Bills, candidates: Sequence[Candidate], held: Sequence[Action]
    ) -> None:
        whole, base = bills.bill(()), bills.bill(held)
        if whole is None or base is None:
            raise InternalFault(f"actions that are held exclude each other: {list(map(str, held))}")
        self.whole, self.base = whole, base
        self.moves = moves_of(bills, candidates, held)
        self.count = sum(move.candidate is not None for move in self.moves)
        self.program = LinearProgram()
        self.choices = [self.program.variable(whole=True) for _ in self.moves]
        self._bills = bills
        self._held = tuple(held)
        contraction = Contraction(bills, self.moves)
        self._beside = exclusions(self.moves, contraction, bills)
        self._hold()
        for clique in cliques(self._beside):
            self.program.at_most([(self.choices[move], 1.0) for move in clique], 1.0)
        self.costs = LinearCosts(
            self.program, self.choices, self.moves, self._beside, contraction, bills
        )
        outputs = {
            (name, own): value
            for name, model in bills.program.models.items()
            for own, value in model.outputs.items()
        }
        self.errors = CarriedErrors(self.moves, self._beside, contraction, outputs)

    def candidate(self, move: int) -> Candidate:
        """The candidate whose move it is."""
        found = self.moves[move].candidate
        assert found is not None
        return found

    def combination(self, moves: Collection[int], scales: Sequence[float]) -> Priced | None:
        """The moves with what is held; None where the exact bill says that they exclude another."""
        bill = self._bill(sorted(moves))
        if bill is None:
            return None
        everything = {*moves, *range(self.count, len(self.moves))}
        return Priced(frozenset(moves), bill, self.errors.errors(everything, scales))

    def conflict(self, moves: Collection[int]) -> list[int]:
        """Of moves without a bill as few as have none together."""
        core = sorted(moves)
        for move in sorted(moves):
            others = [one for one in core if one != move]
            if self._bill(others) is None:
                core = others
        return core

    def exclude_each_other(self, moves: Collection[int]) -> bool:
        """Whether two of them are never chosen together."""
        mask = mask_of(moves)
        return any(self._beside[move] & mask for move in moves)

    def sets(self, forbidden: Iterable[frozenset[Action]]) -> list[frozenset[int]]:
        """Sets of actions as sets of moves, but for those that are in none, or in all."""
        numbers = {self.moves[index].action: index for index in range(self.count)}
        mine = [actions - set(self._held) for actions in forbidden]
        return [
            frozenset(numbers[action] for action in actions)
            for actions in mine
            if actions and actions <= numbers.keys()
        ]

    def shares(self, weigh: Weights) -> dict[int, float]:
        """The shares of the whole bytes and MACs that a combination costs, as an expression."""
        total: dict[int, float] = {}
        parts = (
            (self.costs.nbytes, weigh[0] / max(self.whole.weights_nbytes, 1)),
            (self.costs.macs, weigh[1] / max(self.whole.macs, 1)),
        )
        for expression, weight in parts:
            for variable, amount in expression.items() if weight else ():
                total[variable] = total.get(variable, 0.0) + weight * amount
        return total

    def share(self, bill: Bill, weigh: Weights) -> float:
        """The same of a bill."""
        nbytes = bill.weights_nbytes / max(self.whole.weights_nbytes, 1)
        return weigh[0] * nbytes + weigh[1] * bill.macs / max(self.whole.macs, 1)

    def limit(self, program: LinearProgram, limits: Limits) -> None:
        """Rows of the program that admit all combinations within the limits, and hardly others."""
        costs, whole = self.costs, self.whole
        for expression, most, slack, unit in (
            (costs.nbytes, limits.weights_nbytes, costs.slack.weights_nbytes, whole.weights_nbytes),
            (costs.macs, limits.macs, costs.slack.macs, whole.macs),
        ):
            if most is not None:
                unit = max(unit, 1)
                row = ((variable, amount / unit) for variable, amount in expression.items())
                program.at_most(row, (most + slack) / unit)

    def _bill(self, moves: Sequence[int]) -> Bill | None:
        return self._bills.bill([*self._held, *(self.moves[move].action for move in moves)])

    def _hold(self) -> None:
        """What is held is chosen, or something beside which it changes nothing."""
        held = range(self.count, len(self.moves))
        mine = mask_of(held)
        for move in held:
            self._beside[move] &= ~mine
            instead = [
                (self.choices[other], 1.0)
                for other in bits(self._beside[move])
                if _supersedes(self.moves[other], self.moves[move])
            ]
            self.program.at_least([(self.choices[move], 1.0), *instead], 1.0)


def _supersedes(one: Move, other: Move) -> bool:
    """Whether the other may be there, and changes nothing beside the one."""
    if not one.folds:
        return other.folds and not other.swaps
    if not other.folds:
        return False
    return one.action.covers(other.action) or makes_idle(one.effect, other.effect)
