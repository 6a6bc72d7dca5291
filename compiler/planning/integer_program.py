"""The integer program: the best combination of candidates of all kinds, within limits.

What a combination costs and what its outputs lose are linear expressions of the choices
(`formulation/`), and HiGHS finds the best one; the exact bill has the last word.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..actions.action import Action
from ..actions.bill import LEAST_SHARE, Bill, Bills
from ..errors import InternalFault
from .damage import Output
from .formulation.candidates import Candidate
from .formulation.combinations import Combinations, Weights
from .formulation.refinement import Aim, Errors, Statement, best
from .limits import Limits

# What the mean of the outputs' errors adds to the worst one, so that of two combinations with one
# worst output the milder is chosen.
MEAN_SHARE = 0.1


def _as_predicted(candidate: Candidate) -> float:
    return 1.0


@dataclass(frozen=True)
class Choice:
    """Candidates that were chosen, in the order in which they were given.

    `bill` is exact and includes what is held; `errors` are the predicted shares of the outputs'
    variance. `proven` says that no other combination is better: of more than 64 candidates, by
    more than a thousandth.
    """

    candidates: tuple[Candidate, ...]
    bill: Bill
    errors: Errors
    proven: bool

    @property
    def actions(self) -> tuple[Action, ...]:
        """The candidates' actions."""
        return tuple(candidate.action for candidate in self.candidates)


class IntegerProgram:
    """All combinations of candidates beside the actions `held`, and the best of them.

    Candidates that cannot be carried out, or would lose an infinite share, are left out. The same
    question has the same answer, unless it takes longer than its `seconds`: then it is the best one
    so far, or a greedy one, and not proven. `forbidden` are sets of actions that are not chosen
    together, whatever else is; `scale` is a factor of a candidate's errors.
    """

    def __init__(
        self, bills: Bills, candidates: Sequence[Candidate], held: Sequence[Action] = ()
    ) -> None:
        self._space = Combinations(bills, candidates, held)
        self.held = tuple(held)

    def choice_of(
        self, actions: Sequence[Action], scale: Callable[[Candidate], float] = _as_predicted
    ) -> Choice | None:
        """Some of the candidates' actions with what is held; None where they exclude another."""
        wanted = set(actions)
        moves = [i for i in range(self._space.count) if self._space.moves[i].action in wanted]
        found = self._space.combination(moves, self._scales(scale)[0])
        if found is None:
            return None
        return Choice(tuple(map(self._space.candidate, moves)), found.bill, found.errors, False)

    def least_damage(
        self,
        limits: Limits,
        *,
        forbidden: Sequence[frozenset[Action]] = (),
        scale: Callable[[Candidate], float] = _as_predicted,
        importance: Mapping[Output, float] | None = None,
        seconds: float = 10.0,
    ) -> Choice | None:
        """The combination within the limits whose worst output suffers least.

        Outputs' errors are multiplied by their `importance` (default: 1); a share of the mean
        decides where the worst ones are equal. None where nothing is within.
        """
        space = self._space
        scales, barred = self._scales(scale)
        outputs = space.errors.outputs
        given = importance or {}
        weights = {output: _checked(given.get(output, 1.0), output) for output in outputs}
        share = MEAN_SHARE / max(len(outputs), 1)

        def damage(errors: Errors) -> float:
            felt = [weights[output] * error for output, error in errors.items()]
            return max(felt, default=0.0) + share * math.fsum(felt)

        alone = [
            damage({o: scales[i] * x for o, x in space.errors.alone(i).items()})
            for i in range(space.count)
        ]

        def statement(most: float) -> Statement:
            program = space.program.copy()
            worst = program.variable(upper=most)
            bounds = {o: most / weight if weight else math.inf for o, weight in weights.items()}
            felt = space.errors.expressions(program, space.choices, scales, bounds)
            objective = {worst: 1.0}
            for output, terms in felt.items():
                weighed = {one: weights[output] * x for one, x in terms.items()}
                program.at_least([(worst, 1.0), *((one, -x) for one, x in weighed.items())])
                for one, x in weighed.items():
                    objective[one] = objective.get(one, 0.0) + share * x
            worse = {move for move in range(space.count) if alone[move] > most}
            return Statement(program, objective, barred | worse)

        aim = Aim(
            statement,
            lambda found: damage(found.errors),
            damage,
            scales,
            space.sets(forbidden),
            limits,
            size=statistics.median([x for x in alone if x > 0] or [1.0]),
            bounded=True,
        )
        return self._answer(aim, seconds)

    def smallest(
        self,
        allowance: Mapping[Output, float],
        *,
        weigh: Weights = (1.0, 1.0),
        price: float = LEAST_SHARE,
        forbidden: Sequence[frozenset[Action]] = (),
        scale: Callable[[Candidate], float] = _as_predicted,
        seconds: float = 10.0,
    ) -> Choice:
        """The cheapest combination by whose predicted errors no output exceeds its allowance.

        It costs the shares of the whole weight bytes and MACs that it leaves, times `weigh`, and
        `price` for each action. An output without an allowance may lose nothing.
        """
        space = self._space
        scales, barred = self._scales(scale)
        most = {output: allowance.get(output, 0.0) for output in space.errors.outputs}

        def statement(bound: float) -> Statement:
            program = space.program.copy()
            felt = space.errors.expressions(program, space.choices, scales, most)
            for output, terms in felt.items():
                # In units of the allowance, which the solver keeps to a millionth.
                unit = most[output] or max(terms.values(), default=1.0)
                if math.isfinite(unit):
                    row = ((one, x / unit) for one, x in terms.items())
                    program.at_most(row, 1.0 if most[output] else 0.0)
            objective = space.shares(weigh)
            for choice in space.choices[: space.count]:
                objective[choice] = objective.get(choice, 0.0) + price
            return Statement(program, objective, barred)

        aim = Aim(
            statement,
            lambda found: space.share(found.bill, weigh) + price * len(found.moves),
            _most,
            scales,
            space.sets(forbidden),
            allowance=most,
            blur=space.share(space.costs.slack, weigh),
        )
        choice = self._answer(aim, seconds)
        return choice or Choice((), space.base, dict.fromkeys(space.errors.outputs, 0.0), False)

    def least(self, *, forbidden: Sequence[frozenset[Action]] = (), seconds: float = 10.0) -> Bill:
        """The least weight bytes that any combination needs, and the least MACs that any other.

        Whatever they do to the outputs.
        """
        nbytes = self._cheapest((1.0, 0.0), forbidden, seconds / 2).weights_nbytes
        return Bill(nbytes, self._cheapest((0.0, 1.0), forbidden, seconds / 2).macs)

    def _cheapest(
        self, weigh: Weights, forbidden: Sequence[frozenset[Action]], seconds: float
    ) -> Bill:
        space = self._space
        aim = Aim(
            lambda most: Statement(space.program, space.shares(weigh)),
            lambda found: space.share(found.bill, weigh),
            _most,
            [1.0] * len(space.moves),
            space.sets(forbidden),
            blur=space.share(space.costs.slack, weigh),
        )
        choice = self._answer(aim, seconds)
        return space.base if choice is None else choice.bill

    def _answer(self, aim: Aim, seconds: float) -> Choice | None:
        answer = best(self._space, aim, seconds)
        if answer is None:
            return None
        found, proven = answer
        candidates = tuple(self._space.candidate(move) for move in sorted(found.moves))
        return Choice(candidates, found.bill, found.errors, proven)

    def _scales(self, scale: Callable[[Candidate], float]) -> tuple[list[float], frozenset[int]]:
        """By move the factor of its errors, and the moves for which it is infinite."""
        space = self._space
        found = [0.0] * len(space.moves)  # what is held has no errors here
        barred: set[int] = set()
        for index in range(space.count):
            candidate = space.candidate(index)
            factor = _checked(scale(candidate), candidate.action)
            if math.isfinite(factor):
                found[index] = factor
            else:
                barred.add(index)
        return found, frozenset(barred)


def _checked(factor: float, what: object) -> float:
    """A factor of errors. Raises InternalFault where it is negative, or no number."""
    if math.isnan(factor) or factor < 0:
        raise InternalFault(f"the predicted errors of {what} are multiplied by {factor}")
    return factor


def _most(errors: Errors) -> float:
    return max(errors.values(), default=0.0)
