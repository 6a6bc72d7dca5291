"""Errors of outputs under any combination: they add up, and go where prefixes are shared.

What an action does to a donor, it does to those that take from behind it: their outputs lose as
much as the donor's worst one, beside what the sharing costs them by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..damage import Output
from .contraction import Contraction
from .linear_program import LinearProgram
from .moves import Move, bits, mask_of


@dataclass(frozen=True)
class _Taking:
    """Moves by which one receiver takes from others, at most one of them chosen.

    `donors` are the models that they take from, `outputs` those that what they take leads to.
    """

    moves: tuple[int, ...]
    outputs: frozenset[Output]


class CarriedErrors:
    """The errors of outputs, as a number and as linear expressions.

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
        # By move, the moves upstream of what it takes from another model.
        self._upstream = [
            mask_of(
                other
                for swap in move.swaps
                for source in swap.sources
                for other in bits(contraction.upstream(source))
            )
            if move.is_sharing
            else 0
            for move in moves
        ]
        upstream = {output: contraction.upstream(value) for output, value in outputs.items()}
        self._reached = [
            frozenset(output for output, mask in upstream.items() if mask >> index & 1)
            for index in range(len(moves))
        ]
        groups: dict[tuple[str, frozenset[Output]], list[int]] = {}
        for index, move in enumerate(moves):
            if move.is_sharing:
                key = move.action.models[-1], self._reached[index]
                groups.setdefault(key, []).append(index)
        self._takings = [_Taking(tuple(ones), key[1]) for key, ones in groups.items()]

    def alone(self, move: int) -> Mapping[Output, float]:
        """What a move is predicted to cost each output by itself; nothing of what is held."""
        candidate = self._moves[move].candidate
        return {} if candidate is None else candidate.errors

    def carried(self, move: int) -> float:
        """What it costs those that take from behind it: as much as the worst of its own."""
        own = self._moves[move].action.models[-1]
        errors = self.alone(move)
        mine = [error for (model, _), error in errors.items() if model == own]
        return max(mine or errors.values(), default=0.0)

    def errors(self, chosen: Collection[int], scales: Sequence[float]) -> dict[Output, float]:
        """The errors of all outputs once these moves are made, each times its scale."""
        total = dict.fromkeys(self.outputs, 0.0)
        taken = [[one for one in taking.moves if one in chosen] for taking in self._takings]
        for move in sorted(chosen):
            for output, error in self.alone(move).items():
                total[output] += scales[move] * error
            felt = 1 << move
            reached: set[int] = set()
            for _ in self._takings:
                for place, mine in enumerate(taken):
                    if place not in reached and any(self._feels(one, felt) for one in mine):
                        reached.add(place)
                        felt |= mask_of(mine)
            for place in sorted(reached):
                for output in self._moved(move, place):
                    total[output] += scales[move] * self.carried(move)
        return total

    def expressions(
        self, program: LinearProgram, choices: Sequence[int], scales: Sequence[float]
    ) -> dict[Output, dict[int, float]]:
        """The same as linear expressions of the program's variables, with rows for what carries."""
        total: dict[Output, dict[int, float]] = {output: {} for output in self.outputs}
        links = self._links(program, choices)
        for move in range(len(self._moves)):
            for output, error in self.alone(move).items():
                if error:
                    total[output][choices[move]] = scales[move] * error
            amount = scales[move] * self.carried(move)
            if not amount:
                continue
            for place, variable in self._felt(move, program, choices, links).items():
                for output in self._moved(move, place):
                    total[output][variable] = amount
        return total

    def _feels(self, taking: int, moves: int) -> bool:
        return bool(self._upstream[taking] & moves & ~(1 << taking))

    def _moved(self, move: int, place: int) -> frozenset[Output]:
        """The outputs of a taking that the move does not reach by itself."""
        return self._takings[place].outputs - self._reached[move]

    def _links(self, program: LinearProgram, choices: Sequence[int]) -> dict[tuple[int, int], int]:
        """By pair of takings: whether the second takes from behind what the first one took."""
        links: dict[tuple[int, int], int] = {}
        for first, before in enumerate(self._takings):
            for second, after in enumerate(self._takings):
                rows: list[tuple[int, list[int]]] = []
                for one in after.moves if first != second else ():
                    upstream = self._upstream[one] & ~self._beside[one]
                    above = [other for other in before.moves if upstream >> other & 1]
                    if above:
                        rows.append((one, above))
                if not rows:
                    continue
                link = links[first, second] = program.variable()
                for one, above in rows:
                    both = [(choices[move], -1.0) for move in (one, *above)]
                    program.at_least([(link, 1.0), *both], -1.0)
        return links

    def _felt(
        self,
        move: int,
        program: LinearProgram,
        choices: Sequence[int],
        links: Mapping[tuple[int, int], int],
    ) -> dict[int, int]:
        """By taking that may feel the move: the variable that says whether it does."""
        direct: dict[int, list[int]] = {}
        for place, taking in enumerate(self._takings):
            apart = ~self._beside[move]
            mine = [one for one in taking.moves if apart >> one & 1 and one != move]
            mine = [one for one in mine if self._upstream[one] >> move & 1]
            if mine:
                direct[place] = mine
        reached = list(direct)
        for place in reached:
            reached += [b for a, b in links if a == place and b not in reached]
        felt = {place: program.variable() for place in reached}
        for place, mine in direct.items():
            both = [(choices[one], -1.0) for one in (move, *mine)]
            program.at_least([(felt[place], 1.0), *both], -1.0)
        for (first, second), link in links.items():
            if first in felt and second in felt and move not in self._takings[second].moves:
                terms = [(felt[second], 1.0), (felt[first], -1.0), (link, -1.0)]
                program.at_least(terms, -1.0)
        return felt
