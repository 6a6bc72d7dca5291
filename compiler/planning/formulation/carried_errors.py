"""Errors of outputs under any combination: they add up, and go where prefixes are shared.

What an action does to a donor it does to those that take from behind it, too: their outputs lose as
much as the donor's worst one. So do those that take from them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..damage import Output
from .contraction import Contraction
from .linear_program import LinearProgram
from .moves import Move, bits, mask_of

Expression = dict[int, float]


@dataclass(frozen=True)
class _Taking:
    """Moves by which one receiver takes from others: of these at most one is chosen.

    `outputs` are those that what they take leads to.
    """

    moves: tuple[int, ...]
    outputs: tuple[Output, ...]


class CarriedErrors:
    """The errors of outputs, as numbers and as linear expressions.

    `outputs` are all that the program or a candidate names, in order.
    """

    def __init__(
        self,
        moves: Sequence[Move],
        beside: Sequence[int],
        contraction: Contraction,
        outputs: Mapping[Output, str],
    ) -> None:
        self._moves = moves
        self._beside = beside
        named = [output for one in moves if one.candidate for output in one.candidate.errors]
        self.outputs = tuple(dict.fromkeys([*outputs, *named]))
        upstream = {output: contraction.upstream(value) for output, value in outputs.items()}
        # By move the outputs that feel it as the models are.
        self._reached = [
            frozenset(output for output, mask in upstream.items() if mask >> index & 1)
            for index in range(len(moves))
        ]
        # By move the moves upstream of what it takes from another model.
        self._upstream = [0] * len(moves)
        groups: dict[tuple[str, frozenset[Output]], list[int]] = {}
        for index, move in enumerate(moves):
            if not move.is_sharing:
                continue
            for swap in move.swaps:
                for source in swap.sources:
                    self._upstream[index] |= contraction.upstream(source)
            self._upstream[index] &= ~(beside[index] | 1 << index)
            groups.setdefault((move.action.models[-1], self._reached[index]), []).append(index)
        self._takings = [_Taking(tuple(v), tuple(sorted(k[1]))) for k, v in groups.items()]
        self._sharing = mask_of(index for index, move in enumerate(moves) if move.is_sharing)
        self._worst = [self._worst_of(index) for index in range(len(moves))]

    def alone(self, move: int) -> Mapping[Output, float]:
        """What a move is predicted to cost each output by itself; nothing of what is held."""
        candidate = self._moves[move].candidate
        return {} if candidate is None else candidate.errors

    def errors(self, chosen: Collection[int], scales: Sequence[float]) -> dict[Output, float]:
        """The errors of all outputs once these moves are made, each times its scale."""
        total = dict.fromkeys(self.outputs, 0.0)
        together = mask_of(chosen)
        known: dict[int, float] = {}  # what is lost of what each sharing takes

        def lost(sharing: int) -> float:
            if sharing not in known:
                known[sharing] = 0.0  # in a circle, which has no bill
                above = self._upstream[sharing] & together
                known[sharing] = sum(scales[one] * self._worst[one] for one in bits(above))
                known[sharing] += sum(lost(one) for one in bits(above & self._sharing))
            return known[sharing]

        for move in bits(together):
            for output, error in self.alone(move).items():
                total[output] += scales[move] * error
        for move in bits(together & self._sharing):
            above = self._upstream[move] & together
            passed_on = sum(lost(one) for one in bits(above & self._sharing))
            for output in sorted(self._reached[move]):
                total[output] += passed_on
                for one in bits(above):
                    if output not in self._reached[one]:
                        total[output] += scales[one] * self._worst[one]
        return total

    def expressions(
        self,
        program: LinearProgram,
        choices: Sequence[int],
        scales: Sequence[float],
        most: Mapping[Output, float],
    ) -> dict[Output, Expression]:
        """The same as linear expressions of the program's variables, with rows for what carries.

        They are right as long as no output loses more than its `most`.
        """
        total: dict[Output, Expression] = {output: {} for output in self.outputs}
        for move in range(len(self._moves)):
            for output, error in self.alone(move).items():
                if error * scales[move]:
                    total[output][choices[move]] = error * scales[move]
        amounts = [scale * worst for scale, worst in zip(scales, self._worst)]
        carrying = _Carrying(program, choices, amounts, self._upstream, self._takings)
        carrying.limit([move.action.models[-1] for move in self._moves], most)
        for place, taking in enumerate(self._takings):
            for output in taking.outputs:
                # Outputs that feel the same moves by themselves have the same rest.
                own = mask_of(i for i, reached in enumerate(self._reached) if output in reached)
                total[output][carrying.lost(place, own & carrying.above[place])] = 1.0
        return total

    def _worst_of(self, move: int) -> float:
        """What a move costs those that take from behind it: the worst that it costs its model."""
        own = self._moves[move].action.models[-1]
        errors = self.alone(move)
        mine = [error for (model, _), error in errors.items() if model == own]
        return max(mine or errors.values(), default=0.0)


class _Carrying:
    """Rows for what is lost of what receivers take: sums that count where a sharing is chosen.

    `above` are, by taking, all moves upstream of what it takes.
    """

    def __init__(
        self,
        program: LinearProgram,
        choices: Sequence[int],
        amounts: Sequence[float],
        upstream: Sequence[int],
        takings: Sequence[_Taking],
    ) -> None:
        self._program = program
        self._choices = choices
        self._amounts = amounts
        self._upstream = upstream
        self._takings = takings
        self._losses: dict[tuple[int, int], int] = {}
        self._passed: dict[tuple[int, int], int] = {}
        self.above = [0] * len(takings)
        for place, taking in enumerate(takings):
            for one in taking.moves:
                self.above[place] |= upstream[one]
        # The most that moves upstream of each can do, and the most that is passed on by receivers.
        self._limits = [math.fsum(amounts[one] for one in bits(mask)) for mask in upstream]
        self._most = math.fsum(amounts) * len(takings)

    def limit(self, models: Sequence[str], most: Mapping[Output, float]) -> None:
        """Take note of what the outputs lose at most, and of the models that moves rewrite."""
        # What a move does to its model is no more than what all outputs of the model lose.
        by_model: dict[str, float] = {}
        for (model, _), bound in most.items():
            by_model[model] = by_model.get(model, 0.0) + bound
        for index, mask in enumerate(self._upstream):
            donors = sorted({models[one] for one in bits(mask) if self._amounts[one]})
            bound = math.fsum(by_model.get(model, math.inf) for model in donors)
            self._limits[index] = min(self._limits[index], bound)
        self._most = min(self._most, math.fsum(by_model.values()) * len(self._takings))

    def lost(self, place: int, but: int) -> int:
        """What is lost of what a receiver takes, but for what some moves do to it."""
        key = place, but
        if key in self._losses:
            return self._losses[key]
        variable = self._losses[key] = self._program.variable(upper=math.inf)
        for one in self._takings[place].moves:
            above = self._upstream[one]
            lost = [
                (self._choices[move], -self._amounts[move])
                for move in bits(above & ~but)
                if self._amounts[move]
            ]
            limit = self._limits[one]
            for other, before in enumerate(self._takings):
                links = above & mask_of(before.moves)
                if links and other != place:
                    lost.append((self._passed_on(other, links), -1.0))
                    limit += self._most
            if lost:
                row = [(variable, 1.0), *lost, (self._choices[one], -limit)]
                self._program.at_least(row, -limit)
        return variable

    def _passed_on(self, place: int, links: int) -> int:
        """What is lost of what a receiver takes by one of the links."""
        key = place, links
        if key not in self._passed:
            lost = self.lost(place, 0)
            self._passed[key] = lost
            if links != mask_of(self._takings[place].moves):
                passed = self._passed[key] = self._program.variable(upper=math.inf)
                chosen = [(self._choices[move], -self._most) for move in bits(links)]
                self._program.at_least([(passed, 1.0), (lost, -1.0), *chosen], -self._most)
        return self._passed[key]
