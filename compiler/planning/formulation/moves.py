"""Moves: actions as the integer program sees them, with all that is asked of their effects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...actions.action import Action, Effect, Stage
from ...actions.bill import Bill, Bills
from .candidates import Candidate


@dataclass(frozen=True)
class Placed:
    """A swap where it stands: what reads `value` reads `sources` instead, which costs `bill`.

    `named` is the value that the swap names; `value` comes before its activation where an adapter
    stands there. `as_it_is` says that there is no adapter.
    """

    value: str
    sources: tuple[str, ...]
    named: str
    as_it_is: bool
    bill: Bill


@dataclass(frozen=True, eq=False)
class Move:
    """A candidate's action, or one that is held (no `candidate`): what it changes.

    `made` are the values that it makes anew: all that depends on them feels it. `gone` and `nodes`
    are the values and nodes that go with a region.
    """

    action: Action
    effect: Effect
    swaps: tuple[Placed, ...]
    candidate: Candidate | None = None
    gone: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()

    @property
    def is_region(self) -> bool:
        """Whether a part of a model goes."""
        return self.action.stage is Stage.REGIONS

    @property
    def is_sharing(self) -> bool:
        """Whether a model takes from another."""
        return self.action.stage is Stage.SHARING

    @property
    def folds(self) -> bool:
        """Whether it gives way to what shares, or goes as a whole."""
        return self.action.stage > Stage.SHARING

    @property
    def made(self) -> frozenset[str]:
        """The values that it makes anew, or others in their place."""
        return self.effect.values | {swap.value for swap in self.swaps}


def moves_of(
    bills: Bills, candidates: Sequence[Candidate], held: Sequence[Action]
) -> tuple[Move, ...]:
    """The candidates' moves and those of what is held, in that order.

    Without candidates that cannot be carried out, that are not to be chosen, or whose action is
    held or that of one before them.
    """
    made = _values_by_node(bills)
    known = set(held)
    found: list[Move] = []
    for candidate in candidates:
        if not candidate.usable or candidate.action in known:
            continue
        known.add(candidate.action)
        move = _move(bills, candidate.action, made, candidate)
        if move is not None:
            found.append(move)
    for action in held:
        move = _move(bills, action, made)
        if move is not None:
            found.append(move)
    return tuple(found)


def _move(
    bills: Bills,
    action: Action,
    made: Mapping[str, Sequence[str]],
    candidate: Candidate | None = None,
) -> Move | None:
    effect = bills.effect(action)
    if isinstance(effect, str):
        return None
    swaps = tuple(
        Placed(
            bills.replaced(swap.value, swap.kernel),
            swap.sources,
            swap.value,
            swap.kernel == 0,
            bills.swap_bill(swap),
        )
        for swap in effect.swaps
    )
    nodes = frozenset(() if candidate is None else candidate.site.nodes)
    gone: frozenset[str] = frozenset()
    if action.stage is Stage.REGIONS:
        # The site knows its nodes; asked for its values the action would look for regions again.
        ends = {swap.named for swap in swaps}
        gone = frozenset(value for node in nodes for value in made[node]) - ends
        gone = gone or action.takes_out(bills.program)
    return Move(action, effect, swaps, candidate, gone, nodes)


def _values_by_node(bills: Bills) -> dict[str, tuple[str, ...]]:
    return {
        node.name: tuple(tensor.name for tensor in node.outputs if tensor.name)
        for node in bills.program.graph.nodes
    }


# -- sets of moves as masks ------------------------------------------------------------------------


def mask_of(indices: Iterable[int]) -> int:
    """Indices as a mask of bits."""
    mask = 0
    for index in indices:
        mask |= 1 << index
    return mask


def bits(mask: int) -> Iterator[int]:
    """The bits that are set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
