"""Actions beside each other: which one another makes idle, and which exclude each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TypeVar

from ..errors import ModelError
from ..graph.program import Program, own_name
from .action import Action, Effect, Stage

AnyAction = TypeVar("AnyAction", bound=Action)

_ONE_OF_THEM = "take one of the two actions out of the plan"


def widest(actions: Iterable[AnyAction]) -> list[AnyAction]:
    """The actions in order, without those that another one covers."""
    unique = list(dict.fromkeys(actions))
    return [
        one for one in unique if not any(other.covers(one) for other in unique if other is not one)
    ]


def makes_idle(one: Effect, other: Effect) -> bool:
    """Whether `other` changes nothing beside `one`.

    It takes channels out of values that are gone once `one` has merged, or `one` leaves as few of
    the same channels and either may choose which.
    """
    if one.merging is not None and bool(other.shrunk) and other.owns <= one.merging.inner:
        return True
    return outdoes(one, other)


def outdoes(one: Effect, other: Effect) -> bool:
    """Whether `one` leaves as few of the same channels as `other`, and either may choose which."""
    if not (one.shrunk and other.shrunk and one.owns & other.owns):
        return False
    return one.left < other.left if other.chooses else one.chooses and one.left <= other.left


def without_outdone(program: Program, actions: Iterable[AnyAction]) -> list[AnyAction]:
    """The actions without those that another one covers or outdoes in this program."""
    kept = widest(actions)
    effects = [action.effect(program) if action.takes_channels else "" for action in kept]
    return [
        action
        for place, (action, mine) in enumerate(zip(kept, effects))
        if isinstance(mine, str)
        or not any(
            outdoes(other, mine)
            for index, other in enumerate(effects)
            if index != place and not isinstance(other, str)
        )
    ]


def conflict_of(one: Effect, other: Effect) -> str | None:
    """A node or value that both want for themselves; None where both can be carried out."""
    if makes_idle(one, other) or makes_idle(other, one):
        return None
    both = one.owns & (other.owns | other.touches) | one.touches & other.owns
    both |= _of_several(one) & set(other.stored) | _of_several(other) & set(one.stored)
    return min(both, default=None)


def _of_several(effect: Effect) -> set[str]:
    """The nodes whose weight is made of several: what is stored of each is not what is left."""
    merged = () if effect.merging is None else effect.merging.nodes
    return {*effect.tied, *(node.name for node in merged)}


def check_together(actions: Sequence[Action], program: Program) -> None:
    """Refuse actions that the program has no place for, or that exclude each other.

    Raises ModelError.
    """
    staged = sorted(actions, key=lambda action: action.stage)
    for action in staged:
        action.check(program)
    _check_what_goes(staged, program)
    hint = "take the action out of the plan, or let repsimc plan by leaving out --plan"
    known: list[tuple[Action, Effect]] = []
    for action in widest(staged):
        effect = action.effect(program)
        if isinstance(effect, str):
            raise ModelError(f"the plan asks for what cannot be done: {action}: {effect}", hint)
        known.append((action, effect))
    for (one, mine), (other, theirs) in combinations(known, 2):
        both = conflict_of(mine, theirs)
        if both is not None:
            raise ModelError(
                f"the plan rewrites '{own_name(both)}' twice: {one}; {other}", _ONE_OF_THEM
            )


def _check_what_goes(actions: Sequence[Action], program: Program) -> None:
    """Refuse swaps of, or from, what a region takes along that goes."""
    swaps = [
        (action, swap)
        for action in actions
        if action.stage <= Stage.SHARING and not isinstance(effect := action.effect(program), str)
        for swap in effect.swaps
    ]
    ends = {swap.value for action, swap in swaps if action.stage is Stage.REGIONS}
    gone = {
        value: swap.value
        for action, swap in swaps
        if action.stage is Stage.REGIONS
        for value in action.takes_out(program)
    }
    for action, swap in swaps:
        if swap.value in ends and action.stage is not Stage.REGIONS:
            raise ModelError(
                f"the plan replaces {swap.value} twice: {action}, and the region that ends there "
                "goes",
                _ONE_OF_THEM,
            )
        for value in (swap.value, *swap.sources):
            if value in gone:
                raise ModelError(
                    f"the plan uses {value} and takes it out with the region that ends in "
                    f"{gone[value]}",
                    _ONE_OF_THEM,
                )
