"""Runs passes one after another and verifies the program before the first and after each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import zip_longest
from time import perf_counter

from ..compiler.graph.program import Program
from ..compiler.graph.text import text
from ..compiler.graph.verifier import VerificationError, verify
from .base import Change, Pass
from .collapse import Collapse
from .compute_in_eight_bits import ComputeInEightBits
from .drop_dead import DropDead
from .fold_activation import FoldActivation
from .fold_linear_activations import FoldLinearActivations
from .freeze_branch import FreezeBranch
from .freeze_constant_branches import FreezeConstantBranches
from .merge_linear import MergeLinear
from .normalise import Normalise
from .prune_channels import PruneChannels
from .prune_constant_channels import PruneConstantChannels
from .refit import Refit
from .refit_around import RefitAround
from .reuse_attention import ReuseAttention
from .share_equal_prefixes import ShareEqualPrefixes
from .share_equal_weights import ShareEqualWeights
from .share_prefix import SharePrefix
from .store_in_few_bits import StoreInFewBits
from .tie_weights import TieWeights

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

MEASURED: tuple[type[Pass], ...] = (
    Collapse,
    FoldActivation,
    PruneChannels,
    FreezeBranch,
    TieWeights,
    ReuseAttention,
    RefitAround,
    SharePrefix,
    Refit,
    ComputeInEightBits,
    StoreInFewBits,
)
"""The inexact passes, which actions of a plan ask for."""

CLEANING: tuple[Pass, ...] = (DropDead(), Normalise(), DropDead())
"""What tidies up after inexact passes: prefixes nobody reads, adapters that became identities."""

OnPass = Callable[[Pass, list[Change], float], None]


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


def run_exact(
    program: Program, on_pass: OnPass | None = None, without: Collection[str] = ()
) -> list[Change]:
    """Run the exact passes until they find nothing more, but those named; see `run_passes`.

    One folding makes room for another: operators that merged leave a weight to fewer readers, or
    make a value that is never negative.
    """
    everything: list[Change] = []
    while True:
        equal, folding = (
            [step for step in steps if step.name not in without] for steps in (_EQUAL, _FOLDED)
        )
        changes = run_passes(program, equal, on_pass)
        folded = run_passes(program, folding, on_pass)
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
    lines += [f"note {name} {program.notes[name]}" for name in sorted(program.notes)]
    return lines + [f"doc {name} {program.docs[name]}" for name in sorted(program.docs)]


def _first_difference(before: list[str], after: list[str]) -> str:
    for old, new in zip_longest(before, after, fillvalue="nothing"):
        if old != new:
            return f"'{old.strip()}' became '{new.strip()}'"
    raise AssertionError("unreachable")
