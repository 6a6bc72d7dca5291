"""Runs passes one after another and verifies the program before the first and after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import zip_longest
from time import perf_counter
from typing import TypeVar

from ..compiler.actions.fold_actions import FoldAction, NarrowLayerAction
from ..compiler.actions.fold_passes import fold_passes, widths_of
from ..compiler.fitting.reference import Reference
from ..compiler.graph.adapters import adapter_name
from ..compiler.graph.program import Program
from ..compiler.graph.text import text
from ..compiler.graph.verifier import VerificationError, verify
from ..compiler.planning.plan import Action, CollapseAction, SharePrefixAction
from .base import Change, Pass
from .collapse import Collapse
from .drop_dead import DropDead
from .fold_linear_activations import FoldLinearActivations
from .freeze_constant_branches import FreezeConstantBranches
from .merge_linear import MergeLinear
from .normalise import Normalise
from .prune_constant_channels import PruneConstantChannels
from .refit import Refit
from .refit_around import RefitAround
from .share_equal_prefixes import ShareEqualPrefixes
from .share_equal_weights import ShareEqualWeights
from .share_prefix import SharePrefix

_EQUAL: tuple[Pass, ...] = (Normalise(), ShareEqualWeights(), ShareEqualPrefixes())
_FOLDED: tuple[Pass, ...] = (
    FoldLinearActivations(),
    FreezeConstantBranches(),
    DropDead(),  # what is dead reads values that only then can be pruned and merged
    PruneConstantChannels(),
    MergeLinear(),  # after sharing: a trunk that a merge would make a model's own stays shared
    ShareEqualWeights(),
    ShareEqualPrefixes(),
    DropDead(),
)
EXACT = (*_EQUAL, *_FOLDED)
"""The exact passes in the order that makes them find the most; see `run_exact`."""

CLEANING: tuple[Pass, ...] = (DropDead(), Normalise(), DropDead())
"""What tidies up after inexact passes: prefixes nobody reads, adapters that became identities."""

OnPass = Callable[[Pass, list[Change], float], None]


AnyAction = TypeVar("AnyAction", bound=Action | FoldAction)


def passes_of(
    actions: Iterable[AnyAction], reference: Callable[[AnyAction], Reference]
) -> list[Pass]:
    """The inexact passes that carry out `actions`: regions go first, then sharing, then folds.

    `reference` gives each action the original program on the frames its fit may see. All
    regions that go by one reference are repaired by one walk, and so are all folds; where folds
    are narrower layers only and nothing is shared, one walk does both.
    """
    passes: list[Pass] = []
    planned = list(actions)
    narrow = [action for action in planned if isinstance(action, NarrowLayerAction)]
    together = all(isinstance(one, CollapseAction | NarrowLayerAction) for one in planned)
    regions = [action for action in planned if isinstance(action, CollapseAction)]
    gone: dict[int, tuple[Reference, list[str]]] = {}
    for action in regions:
        passes.append(Collapse(action))
        measured = reference(action)
        fed = gone.setdefault(id(measured), (measured, []))[1]
        fed += [adapter_name(link.receiver_value) for link in action.links]
    if regions:
        passes.append(DropDead())
    for measured, fed in gone.values():
        mine = [one for one in narrow if together and reference(one) is measured]
        if mine:
            passes.append(RefitAround(tuple(fed), measured, widths=widths_of(mine)))
            planned = [one for one in planned if one not in mine]
        else:
            passes.append(Refit(tuple(fed), measured))
    for action in planned:
        if isinstance(action, SharePrefixAction):
            measured = reference(action)
            fed = tuple(adapter_name(link.receiver_value) for link in action.links)
            passes += [SharePrefix(action, measured), Refit(fed, measured)]
    # Last: a fold of what an earlier action took away does nothing, but a link to a value that a
    # fold merged away would find none.
    folds: dict[int, tuple[Reference, list[FoldAction]]] = {}
    for action in planned:
        if not isinstance(action, SharePrefixAction | CollapseAction):
            measured = reference(action)
            folds.setdefault(id(measured), (measured, []))[1].append(action)
    for measured, together in folds.values():
        passes += fold_passes(together, measured)
    return passes


def run_passes(
    program: Program, passes: Iterable[Pass], on_pass: OnPass | None = None
) -> list[Change]:
    """Every change that the passes made to `program`, in order.

    `on_pass(pass, changes, seconds)` is called after each pass that verified: for timing, dumps
    and comparison. Raises VerificationError naming the guilty pass and the broken rule; a pass
    that changed the program without reporting a change breaks the rule 'changes-reported'.
    """
    _verify(program, "before any pass")
    everything: list[Change] = []
    before = _fingerprint(program)
    for step in passes:
        start = perf_counter()
        changes = step.run(program)
        seconds = perf_counter() - start
        _verify(program, f"after pass '{step.name}'")
        after = _fingerprint(program)
        if not changes and after != before:
            raise VerificationError(
                "changes-reported",
                f"it reported no change, but {_first_difference(before, after)}",
                f"after pass '{step.name}': ",
            )
        before = after
        everything += changes
        if on_pass is not None:
            on_pass(step, changes, seconds)
    return everything


def run_exact(program: Program, on_pass: OnPass | None = None) -> list[Change]:
    """Run the exact passes until they find nothing more; see `run_passes`.

    One folding makes room for another: operators that merged leave a weight to fewer readers, or
    make a value that is never negative.
    """
    everything: list[Change] = []
    while True:
        changes = run_passes(program, _EQUAL, on_pass)
        folded = run_passes(program, _FOLDED, on_pass)
        everything += changes + folded
        if not folded:
            return everything


def _verify(program: Program, when: str) -> None:
    try:
        verify(program)
    except VerificationError as error:
        raise VerificationError(error.rule, error.problem, f"{when}: ") from error


def _fingerprint(program: Program) -> list[str]:
    lines = text(program).splitlines()
    for name in sorted(program.metadata):
        lines.append(f"metadata {name} {sorted(program.metadata[name].items())}")
    return lines + [f"doc {name} {program.docs[name]}" for name in sorted(program.docs)]


def _first_difference(before: list[str], after: list[str]) -> str:
    for old, new in zip_longest(before, after, fillvalue="nothing"):
        if old != new:
            return f"'{old.strip()}' became '{new.strip()}'"
    raise AssertionError("unreachable")
