"""Which moves exclude each other, worked out from their effects, and as few cliques as say so."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

from ...actions.bill import Bills
from .contraction import Contraction
from .moves import Move, bits, mask_of


def exclusions(moves: Sequence[Move], contraction: Contraction, bills: Bills) -> list[int]:
    """By move the mask of those that are not chosen beside it.

    What `Bills` refuses as a pair, what `check_together` refuses, several prefixes of one receiver,
    several sites of one look, and moves of which one is idle, or changes nothing, beside the other.
    """
    pairs = _Pairs(len(moves))
    _one_for_each(pairs, moves)
    _regions(pairs, moves)
    _owners(pairs, moves)
    _idle(pairs, moves)
    _circles(pairs, moves, contraction, bills)
    return pairs.beside


def cliques(beside: Sequence[int]) -> list[tuple[int, ...]]:
    """Sets of moves of which one may be chosen, that together hold every pair of exclusions."""
    left = list(beside)
    found: list[tuple[int, ...]] = []
    for one in range(len(left)):
        while left[one]:
            clique, common = 1 << one, beside[one]
            while common:
                # First those whose exclusion is not yet in a clique.
                near = common & left[one] or common
                other = (near & -near).bit_length() - 1
                clique |= 1 << other
                common &= beside[other]
            members = tuple(bits(clique))
            for member in members:
                left[member] &= ~clique
            found.append(members)
    return found


class _Pairs:
    """By move, the mask of the moves that it excludes."""

    def __init__(self, count: int) -> None:
        self.beside = [0] * count

    def exclude(self, some: int, others: int) -> None:
        """Each of some from each of the others; none from itself."""
        for index in bits(some):
            self.beside[index] |= others & ~(1 << index)
        for index in bits(others):
            self.beside[index] |= some & ~(1 << index)


def _where(moves: Sequence[Move], keys: Iterable[Iterable[Hashable]]) -> dict[Hashable, int]:
    """By key the mask of the moves that have it."""
    found: dict[Hashable, int] = {}
    for index, (_, mine) in enumerate(zip(moves, keys)):
        for key in mine:
            found[key] = found.get(key, 0) | 1 << index
    return found


def _one_for_each(pairs: _Pairs, moves: Sequence[Move]) -> None:
    """One move for a swapped value, for a receiver, for a look; no action twice."""
    # An action that gives way changes nothing where another takes its value.
    swapped = _where(moves, ([swap.value for swap in move.swaps] for move in moves))
    receivers = _where(moves, ([move.action.models[-1]] * move.is_sharing for move in moves))
    looks = _where(moves, (_looks(move) for move in moves))
    actions = _where(moves, ([move.action] for move in moves))
    for group in (swapped, receivers, looks, actions):
        for mask in group.values():
            if mask & (mask - 1):
                pairs.exclude(mask, mask)


def _looks(move: Move) -> list[Hashable]:
    site = None if move.candidate is None else move.candidate.site
    return [] if site is None or site.look is None else [site.look]


def _regions(pairs: _Pairs, moves: Sequence[Move]) -> None:
    """What goes with a region is neither swapped nor read by a swap; regions do not overlap."""
    used = _where(
        moves,
        (
            [name for swap in move.swaps for name in (swap.value, swap.named, *swap.sources)]
            for move in moves
        ),
    )
    named = _where(moves, ([swap.named for swap in move.swaps] for move in moves))
    nodes = _where(moves, (move.nodes if move.is_region else () for move in moves))
    folding = mask_of(index for index, move in enumerate(moves) if move.folds)
    changed = _where(moves, (_nodes_changed(move) if move.folds else () for move in moves))
    for index, move in enumerate(moves):
        if not move.is_region:
            continue
        mine = 1 << index
        for value in move.gone:
            pairs.exclude(mine, used.get(value, 0))
        for swap in move.swaps:
            pairs.exclude(mine, named[swap.named])
        touched = 0
        for node in move.nodes:
            pairs.exclude(mine, nodes[node])
            touched |= changed.get(node, 0)
        for other in bits(touched & folding):
            if _is_useless(moves[other], move.nodes):
                pairs.exclude(mine, 1 << other)


def _nodes_changed(move: Move) -> list[str]:
    merging = move.effect.merging
    merged = [] if merging is None else [node.name for node in merging.nodes]
    return [*move.effect.shrunk, *move.effect.tied, *move.effect.stored, *merged]


def _is_useless(move: Move, gone: frozenset[str]) -> bool:
    """Whether it has nothing left to save without these nodes, whatever else is chosen."""
    effect = move.effect
    if move.swaps or any(node not in gone for node in (*effect.shrunk, *effect.stored)):
        return False
    if sum(node not in gone for node in effect.tied) > 1:
        return False
    return effect.merging is None or any(node.name in gone for node in effect.merging.nodes)


def _owners(pairs: _Pairs, moves: Sequence[Move]) -> None:
    """What one owns no other owns or touches: they exclude each other, or one makes one idle."""
    owns = _where(moves, (move.effect.owns if move.folds else () for move in moves))
    touches = _where(moves, (move.effect.touches if move.folds else () for move in moves))
    for name, mask in owns.items():
        others = mask | touches.get(name, 0)
        if others & (others - 1):
            pairs.exclude(mask, others)
    stored = _where(moves, (move.effect.stored if move.folds else () for move in moves))
    for index, move in enumerate(moves):
        merging = move.effect.merging
        merged = () if merging is None else merging.nodes
        for name in (*move.effect.tied, *(node.name for node in merged)) if move.folds else ():
            pairs.exclude(1 << index, stored.get(name, 0))


def _idle(pairs: _Pairs, moves: Sequence[Move]) -> None:
    """Channels that a merge does away with, or that a swap leaves one end of, are not taken out."""
    owns = _where(
        moves,
        (move.effect.owns if move.folds and move.effect.shrunk else () for move in moves),
    )
    for index, move in enumerate(moves):
        if move.folds and move.effect.merging is not None:
            inner = move.effect.merging.inner
            within = _any(owns, inner)
            idle = [other for other in bits(within) if moves[other].effect.owns <= inner]
            pairs.exclude(1 << index, mask_of(idle))
        for swap in move.swaps:
            if swap.as_it_is:
                ends = [owns.get(value, 0) for value in (swap.value, *swap.sources)]
                split = 0
                for mask in ends:
                    split |= mask ^ ends[0]
                pairs.exclude(1 << index, split)


def _any(where: Mapping[Hashable, int], names: Iterable[str]) -> int:
    mask = 0
    for name in names:
        mask |= where.get(name, 0)
    return mask


def _circles(pairs: _Pairs, moves: Sequence[Move], contraction: Contraction, bills: Bills) -> None:
    """Two swaps whose sources wait for each other, where the exact bill says so too."""
    upstream = [0] * len(moves)
    for index, move in enumerate(moves):
        for swap in move.swaps:
            for source in swap.sources:
                upstream[index] |= contraction.upstream(source)
    taking = mask_of(index for index, move in enumerate(moves) if move.swaps)
    for one in bits(taking):
        for other in bits(upstream[one] & taking & ~pairs.beside[one] & -(2 << one)):
            if upstream[other] >> one & 1:
                pair = [moves[one].action, moves[other].action]
                if bills.bill(pair) is None:
                    pairs.exclude(1 << one, 1 << other)
