"""From actions to passes: stage by stage, each ending in one refit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ...passes.base import Pass
from ...passes.drop_dead import DropDead
from ...passes.merge_linear import MergeLinear
from ...passes.refit import Refit
from ...passes.refit_around import RefitAround
from ...passes.store_in_few_bits import StoreInFewBits
from ..fitting.reference import Reference
from ..graph.program import Program
from .action import Action, Stage
from .combining import widest, without_outdone

AnyAction = TypeVar("AnyAction", bound=Action)


def passes_of(
    actions: Iterable[AnyAction], reference: Callable[[AnyAction], Reference]
) -> list[Pass]:
    """The inexact passes that carry out `actions`: regions, then sharing, folds, and few bits.

    `reference` gives each action the original program on the frames its fit may see. All
    regions that go by one reference are repaired by one walk, and so are all folds; where folds
    are narrower layers only and nothing is shared, one walk does both.
    """
    planned = list(actions)
    shared = [action for action in planned if action.stage is Stage.SHARING]
    folds = [action for action in planned if Stage.SHARING < action.stage < Stage.PRECISION]
    rounded = [action for action in planned if action.stage is Stage.PRECISION]
    passes, mended = _regions(planned, reference)
    one_walk = not shared and all(action.stage is Stage.WIDTHS for action in folds)
    for measured, values in mended:
        mine = [action for action in folds if one_walk and reference(action) is measured]
        passes.append(_mending(values, measured, mine))
        folds = [action for action in folds if action not in mine]
    for action in shared:
        measured = reference(action)
        fed = action.disturbed(measured.program).values
        passes += [*action.rewrites(measured), Refit(fed, measured)]
    # Last: a fold of what an earlier action took away does nothing, but a link to a value that a
    # fold merged away would find none.
    for measured, together in _by_reference(folds, reference):
        passes += _folds(together, measured)
    for measured, together in _by_reference(rounded, reference):
        stored = [action.disturbed(measured.program).stored for action in widest(together)]
        passes.append(StoreInFewBits(tuple(one for some in stored for one in some), measured))
    last = [action for action in planned if action.stage is Stage.ARITHMETIC]
    for action in sorted(last, key=lambda one: _place(one, reference(one).program)):
        passes += action.rewrites(reference(action))
    return passes


def _place(action: Action, program: Program) -> int:
    """The place of the model that the action rewrites, among the program's."""
    return list(program.models).index(action.models[-1])


def _regions(
    actions: Sequence[AnyAction], reference: Callable[[AnyAction], Reference]
) -> tuple[list[Pass], list[tuple[Reference, list[str]]]]:
    """What takes regions out, and the values whose refit each reference is due."""
    regions = [action for action in actions if action.stage is Stage.REGIONS]
    passes = [step for action in regions for step in action.rewrites(reference(action))]
    mended: list[tuple[Reference, list[str]]] = []
    for measured, gone in _by_reference(regions, reference):
        disturbed = [action.disturbed(measured.program) for action in gone]
        mended.append((measured, [value for one in disturbed for value in one.values]))
    return [*passes, DropDead()] if regions else [], mended


def _mending(values: Sequence[str], measured: Reference, narrow: Sequence[AnyAction]) -> Pass:
    """The refit around gaps, which may choose the units of narrower layers at once."""
    if not narrow:
        return Refit(tuple(values), measured)
    kept = [action.disturbed(measured.program).widths for action in widest(narrow)]
    widths = tuple(width for one in kept for width in one)
    return RefitAround(tuple(values), measured, widths=widths)


def _folds(actions: Sequence[AnyAction], reference: Reference) -> list[Pass]:
    """The rewrites, what makes them pay, and one refit of all that is downstream, in order."""
    original = reference.program
    kept = without_outdone(original, actions)
    passes = [step for action in kept for step in action.rewrites(reference)]
    disturbed = [action.disturbed(original) for action in kept]
    if not kept:
        return []
    values = dict.fromkeys(value for one in disturbed for value in one.values)
    made = dict.fromkeys(value for one in disturbed for value in one.made)
    widths = tuple(width for one in disturbed for width in one.widths)
    around = RefitAround(tuple(values), reference, tuple(made), widths)
    # Fewer units make nothing dead and nothing linear.
    return [*passes, DropDead(), MergeLinear(), around] if passes else [around]


def _by_reference(
    actions: Sequence[AnyAction], reference: Callable[[AnyAction], Reference]
) -> list[tuple[Reference, list[AnyAction]]]:
    """The actions by the reference that their fits go by, in order of the first of each."""
    groups: dict[int, tuple[Reference, list[AnyAction]]] = {}
    for action in actions:
        measured = reference(action)
        groups.setdefault(id(measured), (measured, []))[1].append(action)
    return list(groups.values())


def in_order(actions: Sequence[AnyAction]) -> list[AnyAction]:
    """Donors before their receivers, so that an adapter is fitted on what its donor has become."""
    by_receiver: dict[str, list[AnyAction]] = {}
    for action in actions:
        by_receiver.setdefault(action.models[-1], []).append(action)
    ordered: list[AnyAction] = []
    done: set[str] = set()

    def visit(receiver: str) -> None:
        if receiver in done:
            return
        done.add(receiver)
        for action in by_receiver.get(receiver, ()):
            for donor in action.models[:-1]:
                visit(donor)
        ordered.extend(by_receiver.get(receiver, ()))

    for receiver in sorted(by_receiver):
        visit(receiver)
    return ordered
