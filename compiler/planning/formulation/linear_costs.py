"""Bills as linear expressions: weight bytes and MACs of any combination of moves.

Every variable beside the choices is bounded from below only, by what makes it necessary, so that
the least of an expression is what `Bills` says (but for the rounding of shrunk weights). Products
of choices are chains of rows that are tight where all choices are whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...actions.action import Merging
from ...actions.bill import NOTHING, Bill, Bills
from .contraction import Contraction
from .life import Life
from .linear_program import ONE, LinearProgram
from .moves import Move, mask_of

Chain = tuple[tuple[int, float], ...]
"""Moves that shrink something, each with the share that it leaves."""

Kind = tuple[tuple[int, ...], Chain]
"""What may become of a weight where it is read: moves that tie it, and those that shrink it."""

# So many ways to read one weight are told apart pairwise. With more of them (biases of zeros) the
# expression says less than it costs once some of them shrink, which the exact bill then corrects.
_MOST_KINDS = 4


class LinearCosts:
    """`nbytes` and `macs`: coefficients by variable of the least that a combination costs.

    `choices[i]` is the variable of move i, and `beside[i]` the mask of the moves that it excludes.
    The expressions may be off by `slack`, since shrunk weights are billed in whole bytes.
    """

    def __init__(
        self,
        program: LinearProgram,
        choices: Sequence[int],
        moves: Sequence[Move],
        beside: Sequence[int],
        contraction: Contraction,
        bills: Bills,
    ) -> None:
        self.nbytes: dict[int, float] = {}
        self.macs: dict[int, float] = {}
        self._program = program
        self._choices = choices
        self._moves = moves
        self._beside = beside
        self._life = Life(program, choices, moves, contraction)
        self._fractions: dict[tuple[int, Kind], int] = {}
        self._shrinking, self._tying = _by_node(moves)
        self._storing = _storing(moves)
        bones = bills.bones
        masks = {bone.name: mask for bone, mask in zip(bones, contraction.needed_by)}
        rounded = 0
        readers: dict[str, list[tuple[str, int, int]]] = {}
        for bone in bones:
            chain = self._chain(bone.name, None)
            rounded += bool(chain)
            if bone.macs:
                self._pay(self._fraction(masks[bone.name], ((), chain)), Bill(0, bone.macs))
            for index, key, nbytes in bone.weights:
                readers.setdefault(key, []).append((bone.name, index, nbytes))
        for reads in readers.values():
            masks_by_kind: dict[Kind, int] = {}
            for node, index, _ in reads:
                ties = self._tying.get(node, ()) if index == 1 else ()
                kind = ties, self._chain(node, index)
                rounded += bool(kind[1])
                masks_by_kind[kind] = masks_by_kind.get(kind, 0) | masks[node]
            parts = {kind: self._fraction(mask, kind) for kind, mask in masks_by_kind.items()}
            self._pay(self._read_apart(parts), Bill(reads[0][2], 0))
        self.slack = Bill(rounded, rounded)
        sizes = {(bone.name, i): nbytes for bone in bones for i, _, nbytes in bone.weights}
        for index, move in enumerate(moves):
            self._adapters(index, move)
            if not move.folds:
                continue
            tied = [node for node in move.effect.tied if node in masks]
            if tied:
                mask = 0
                for node in tied:
                    mask |= masks[node]
                nbytes = max(sizes.get((node, 1), 0) for node in tied)
                self._pay(self._both(index, self._life.of(mask)), Bill(nbytes, 0))
            if move.effect.merging is not None:
                self._merge(index, move.effect.merging, masks)

    def _pay(self, variable: int, bill: Bill) -> None:
        for expression, amount in ((self.nbytes, bill.weights_nbytes), (self.macs, bill.macs)):
            if amount:
                expression[variable] = expression.get(variable, 0.0) + amount

    def _chain(self, node: str, index: int | None) -> Chain:
        """The moves that shrink a node's weight at that input, or (None) its MACs."""
        found: list[tuple[int, float]] = []
        for move in self._shrinking.get(node, ()):
            shares = self._moves[move].effect.shrunk[node]
            if index is None:
                found.append((move, min(shares.values())))
            elif index in shares:
                found.append((move, shares[index]))
        if index is not None:
            for move in self._storing.get(node, ()):
                shares = self._moves[move].effect.stored[node]
                found += [(move, shares[index])] if index in shares else []
        return tuple(found)

    def _fraction(self, mask: int, kind: Kind) -> int:
        """The share that is left of what is there where a terminal of the mask is made."""
        key = mask, kind
        if key not in self._fractions:
            ties, chain = kind
            left = self._life.of(mask)
            if ties:
                untied = self._program.variable()
                ties_on = [(self._choices[move], 1.0) for move in ties]
                self._program.at_least([(untied, 1.0), (left, -1.0), *ties_on])
                left = untied
            for stage in self._stages(chain):
                left = self._shrunk(left, stage)
            self._fractions[key] = left
        return self._fractions[key]

    def _shrunk(self, before: int, stage: Chain) -> int:
        """The share that at most one move of a stage leaves of a share."""
        left = self._program.variable()
        # For each of them: as much as it leaves, but for what one that leaves less saves of 1.
        for most in sorted({1.0, *(share for _, share in stage)}):
            less = [(self._choices[move], most - share) for move, share in stage if share < most]
            self._program.at_least([(left, 1.0), (before, -most), *less])
        return left

    def _stages(self, chain: Chain) -> list[Chain]:
        """The moves of a chain in groups that exclude each other."""
        stages: list[list[tuple[int, float]]] = []
        for move, share in chain:
            for stage in stages:
                others = mask_of(other for other, _ in stage)
                if not others & ~self._beside[move]:
                    stage.append((move, share))
                    break
            else:
                stages.append([(move, share)])
        return [tuple(stage) for stage in stages]

    def _read_apart(self, parts: dict[Kind, int]) -> int:
        """How often a weight is held that is read in several ways: as one, until they differ."""
        if len(parts) == 1:
            return next(iter(parts.values()))
        held = self._program.variable(upper=len(parts))
        kinds = list(parts)
        for place, (kind, part) in enumerate(parts.items()):
            self._program.at_least([(held, 1.0), (part, -1.0)])
            for other in kinds[place + 1 :] if len(parts) <= _MOST_KINDS else ():
                for move in sorted(_moves_in(kind) ^ _moves_in(other)):
                    both = [(part, -1.0), (parts[other], -1.0), (self._choices[move], -1.0)]
                    self._program.at_least([(held, 1.0), *both], -1.0)
        return held

    def _both(self, move: int, other: int) -> int:
        """Whether a move is chosen and another variable is 1."""
        if other == ONE:
            return self._choices[move]
        both = self._program.variable()
        self._program.at_least([(both, 1.0), (self._choices[move], -1.0), (other, -1.0)], -1.0)
        return both

    def _adapters(self, index: int, move: Move) -> None:
        for swap in move.swaps:
            if swap.bill != NOTHING:
                self._pay(self._life.taken(index, swap), swap.bill)

    def _merge(self, index: int, merging: Merging, masks: dict[str, int]) -> None:
        """What a merge saves where all of its nodes are there, and no swap has an end inside."""
        saved = self._program.variable()
        against = [(self._life.of(masks[node.name]), 1.0) for node in merging.nodes]
        ends = [
            (self._choices[other], -1.0)
            for other, move in enumerate(self._moves)
            if not self._beside[index] >> other & 1
            for swap in move.swaps
            if merging.inner & {swap.value, *swap.sources}
        ]
        for variable, coefficient in [(self._choices[index], 1.0), *dict.fromkeys(against)]:
            self._program.at_most([(saved, 1.0), (variable, -coefficient)], 0.0)
        for variable, _ in dict.fromkeys(ends):
            self._program.at_most([(saved, 1.0), (variable, 1.0)], 1.0)
        if min(merging.nbytes_saved, merging.macs_saved) < 0:
            # It may cost something, too: then it is there wherever nothing is against it.
            present = [(variable, -1.0) for variable, _ in dict.fromkeys(against)]
            absent = [(variable, 1.0) for variable, _ in dict.fromkeys(ends)]
            self._program.at_least(
                [(saved, 1.0), (self._choices[index], -1.0), *present, *absent], -len(present)
            )
        self._pay(saved, Bill(-merging.nbytes_saved, -merging.macs_saved))


def _by_node(moves: Sequence[Move]) -> tuple[dict[str, list[int]], dict[str, tuple[int, ...]]]:
    """By node the moves that shrink it, and those that tie its weight."""
    shrinking: dict[str, list[int]] = {}
    tying: dict[str, tuple[int, ...]] = {}
    for index, move in enumerate(moves):
        for node in move.effect.shrunk if move.folds else ():
            shrinking.setdefault(node, []).append(index)
        for node in move.effect.tied if move.folds else ():
            tying[node] = (*tying.get(node, ()), index)
    return shrinking, tying


def _storing(moves: Sequence[Move]) -> dict[str, list[int]]:
    """By node the moves that store its weight in fewer bits."""
    found: dict[str, list[int]] = {}
    for index, move in enumerate(moves):
        for node in move.effect.stored if move.folds else ():
            found.setdefault(node, []).append(index)
    return found


def _moves_in(kind: Kind) -> set[int]:
    ties, chain = kind
    return {*ties, *(move for move, _ in chain)}
