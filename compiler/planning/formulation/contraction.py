"""The network contracted to what actions can tell apart: which terminals need which nodes.

A terminal is an output, a value that a move swaps, or one that a swap reads. A node is needed if
one of its terminals is: those that its values lead to on a way without another terminal. Nodes with
the same terminals live and die together, whatever is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...actions.bill import Bills
from .moves import Move, bits


class Contraction:
    """Terminals in topological order, and masks of them by number.

    `needed_by[i]` are those of the program's node i. `readers[t]` are the terminals that need
    terminal t as long as what reads it reads it itself.
    """

    def __init__(self, bills: Bills, moves: Sequence[Move]) -> None:
        program = bills.program
        self.outputs = tuple(dict.fromkeys(value.name for value in program.graph.outputs))
        ends = {*self.outputs}
        for move in moves:
            for swap in move.swaps:
                ends |= {swap.value, *swap.sources}
        self._reads = [bone.reads for bone in bills.bones]
        self._makes = [
            tuple(tensor.name for tensor in node.outputs if tensor.name)
            for node in program.graph.nodes
        ]
        inputs = [value.name for value in program.graph.inputs]
        order = [*inputs, *(value for made in self._makes for value in made)]
        self.terminals = tuple(value for value in dict.fromkeys(order) if value in ends)
        self.number = {value: index for index, value in enumerate(self.terminals)}
        self.needed_by, self.readers = self._backward()
        changed = ((value, index) for index, move in enumerate(moves) for value in move.made)
        self._upstream = self._forward(changed, inputs)
        self._above = self._forward(self.number.items(), inputs)

    def upstream(self, value: str) -> int:
        """The moves, as a mask, that make the value or something it depends on anew."""
        return self._upstream.get(value, 0)

    def between(self, first: str, last: str) -> int:
        """The terminals, as a mask, on ways from one terminal to another; without the two."""
        start, end = self.number[first], self.number[last]
        mask = 0
        for number in bits(self._above[last] & -(2 << start) & ~(1 << end)):
            if self._above[self.terminals[number]] >> start & 1:
                mask |= 1 << number
        return mask

    def is_above(self, first: str, last: str) -> bool:
        """Whether the last of two terminals depends on the first."""
        return bool(self._above[last] >> self.number[first] & 1)

    def _backward(self) -> tuple[list[int], list[int]]:
        reached: dict[str, int] = {}  # by value: the terminals that its readers lead to
        needed = [0] * len(self._makes)
        for index in range(len(self._makes) - 1, -1, -1):
            for value in self._makes[index]:
                number = self.number.get(value)
                needed[index] |= reached.get(value, 0) if number is None else 1 << number
            for value in self._reads[index]:
                reached[value] = reached.get(value, 0) | needed[index]
        return needed, [reached.get(value, 0) for value in self.terminals]

    def _forward(self, marks: Iterable[tuple[str, int]], inputs: Sequence[str]) -> dict[str, int]:
        """By value, as a mask, the marks of all values that it depends on, and its own."""
        own: dict[str, int] = {}
        for value, mark in marks:
            own[value] = own.get(value, 0) | 1 << mark
        found = {value: own.get(value, 0) for value in inputs}
        for reads, makes in zip(self._reads, self._makes):
            before = 0
            for value in reads:
                before |= found.get(value, 0)
            for value in makes:
                found[value] = before | own.get(value, 0)
        return found
