"""Which parts of a network are needed under a combination of swaps, as rows of a program.

What reads a terminal is served by what makes it, or by one of the swaps that stand in its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from .contraction import Contraction
from .linear_program import ONE, LinearProgram
from .moves import Move, Placed, bits

# Terminals on the way from a swap's source to its value, that may be swapped themselves: of more
# of them the rows say nothing that the others do not.
_MOST_BETWEEN = 8


class Life:
    """Variables that are 1 where a combination needs a terminal, and bounded by that from below."""

    def __init__(
        self,
        program: LinearProgram,
        choices: Sequence[int],
        moves: Sequence[Move],
        contraction: Contraction,
    ) -> None:
        self._program = program
        self._contraction = contraction
        # By value: the choices by which another stands in its place, with what they take.
        self._swaps: dict[str, list[tuple[int, tuple[str, ...], int]]] = {}
        self._taken: dict[tuple[int, str], int] = {}
        for index, move in enumerate(moves):
            for swap in move.swaps:
                taken = self._taken[index, swap.value] = program.variable()
                known = self._swaps.setdefault(swap.value, [])
                known.append((choices[index], swap.sources, taken))
        self._read: dict[str, int] = {}
        self._made: dict[str, int] = {}
        self._any: dict[frozenset[int], int] = {}
        # From the outputs up: what is always needed needs no variable.
        for number, value in reversed([*enumerate(contraction.terminals)]):
            readers = [contraction.terminals[i] for i in bits(contraction.readers[number])]
            always = value in contraction.outputs or any(self._made[i] == ONE for i in readers)
            self._read[value] = ONE if always else program.variable()
            self._made[value] = self._read[value]
            if value in self._swaps:
                self._made[value] = program.variable()
                self._serve(value)
        for number, value in enumerate(contraction.terminals):
            for reader in bits(contraction.readers[number]):
                self._need(value, contraction.terminals[reader], True)
        for value, swaps in self._swaps.items():
            for source in dict.fromkeys(name for _, sources, _ in swaps for name in sources):
                reads = contraction.readers[contraction.number[source]]
                if not reads >> contraction.number[value] & 1:
                    self._need(source, value, False)

    def taken(self, move: int, swap: Placed) -> int:
        """Whether what a move puts in a value's place is needed."""
        return self._taken[move, swap.value]

    def of(self, mask: int) -> int:
        """Whether any terminal of the mask is made."""
        terminals = self._contraction.terminals
        needing = frozenset(self._made[terminals[number]] for number in bits(mask))
        if ONE in needing:
            return ONE
        if len(needing) == 1:
            return next(iter(needing))
        if needing not in self._any:
            found = self._any[needing] = self._program.variable()
            for variable in sorted(needing):
                self._program.at_least([(found, 1.0), (variable, -1.0)])
        return self._any[needing]

    def _serve(self, value: str) -> None:
        """What is read is made or taken: taken where a swap is chosen, and only there."""
        made, swaps = self._made[value], self._swaps[value]
        served = [(made, 1.0), *((taken, 1.0) for _, _, taken in swaps)]
        self._program.at_least([*served, (self._read[value], -1.0)])
        self._program.at_most([(made, 1.0), *((choice, 1.0) for choice, _, _ in swaps)], 1.0)
        for choice, _, taken in swaps:
            self._program.at_most([(taken, 1.0), (choice, -1.0)], 0.0)

    def _need(self, source: str, value: str, direct: bool) -> None:
        """What makes a value, and what is taken in its place, reads the source.

        `direct`: to make the value the source is read, whatever is chosen.
        """
        if self._read[source] == ONE:
            return
        swaps = self._swaps.get(value, ())
        wanting = [(taken, -1.0) for _, sources, taken in swaps if source in sources]
        apart: list[tuple[int, float]] = []
        if direct:
            wanting.append((self._made[value], -1.0))
        elif self._contraction.is_above(source, value):
            # It is, unless something between the two is swapped.
            between = self._contraction.between(source, value)
            names = [self._contraction.terminals[number] for number in bits(between)]
            swapped = [name for name in names if name in self._swaps]
            if len(swapped) <= _MOST_BETWEEN:
                wanting.append((self._made[value], -1.0))
                apart = [(one, 1.0) for name in swapped for one, _, _ in self._swaps[name]]
        self._program.at_least([(self._read[source], 1.0), *wanting, *apart])
