"""Runs passes one after another and verifies the program before the first and after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import zip_longest
from time import perf_counter

from ..compiler.analysis.reconstruction import Reference
from ..compiler.graph.program import Program
from ..compiler.graph.text import text
from ..compiler.graph.verifier import VerificationError, verify
from ..compiler.planning.plan import SharePrefixAction
from .base import Change, Pass
from .drop_dead import DropDead
from .normalise import Normalise
from .refit import Refit
from .share_equal_prefixes import ShareEqualPrefixes
from .share_equal_weights import ShareEqualWeights
from .share_prefix import SharePrefix, adapter_name

EXACT: tuple[Pass, ...] = (Normalise(), ShareEqualWeights(), ShareEqualPrefixes(), DropDead())
"""The exact passes in the order that makes them find the most."""

CLEANING: tuple[Pass, ...] = (DropDead(), Normalise(), DropDead())
"""What tidies up after inexact passes: prefixes nobody reads, adapters that became identities."""

OnPass = Callable[[Pass, list[Change], float], None]


def passes_of(
    actions: Iterable[SharePrefixAction], reference: Callable[[SharePrefixAction], Reference]
) -> list[Pass]:
    """The inexact passes that carry out `actions`, in their order.

    `reference` gives each action the original program on the frames its fit may see.
    """
    passes: list[Pass] = []
    for action in actions:
        measured = reference(action)
        fed = tuple(adapter_name(link) for link in action.links)
        passes += [SharePrefix(action, measured), Refit(fed, measured)]
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
