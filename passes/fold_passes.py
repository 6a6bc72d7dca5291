"""The passes that carry out actions of folding, pruning, freezing, tying and reuse."""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.analysis.channel_groups import group_of
from ..compiler.analysis.linear import linear_operator
from ..compiler.analysis.reconstruction import Reference
from ..compiler.graph.program import Program
from ..compiler.planning.fold_actions import (
    FoldAction,
    FoldActivationAction,
    FreezeBranchAction,
    NarrowLayerAction,
    PruneChannelsAction,
    TieWeightsAction,
    widest,
)
from ..compiler.planning.fold_effects import without_outdone
from .base import Pass
from .drop_dead import DropDead
from .fold_activation import FoldActivation
from .freeze_branch import FreezeBranch
from .merge_linear import MergeLinear
from .prune_channels import PruneChannels
from .refit_around import RefitAround
from .reuse_attention import ReuseAttention
from .tie_weights import TieWeights

FOLDING = (
    FoldActivation,
    PruneChannels,
    FreezeBranch,
    TieWeights,
    ReuseAttention,
    RefitAround,
)
"""The kinds of inexact passes that `fold_passes` makes, for listings."""


def widths_of(actions: Sequence[NarrowLayerAction]) -> tuple[tuple[str, int], ...]:
    """How many units are left of which layers: (what the operator behind reads, units)."""
    kept = [one for one in widest(actions) if isinstance(one, NarrowLayerAction)]
    return tuple((action.value, action.units) for action in kept)


def fold_passes(actions: Sequence[FoldAction], reference: Reference) -> list[Pass]:
    """The rewrites, what makes them pay, and one refit of all that is downstream, in order.

    `reference` has the program that the actions were planned on, and the frames fits may see.
    """
    original = reference.program
    passes: list[Pass] = []
    values: list[str] = []
    made: list[str] = []
    narrow: list[NarrowLayerAction] = []
    for action in without_outdone(original, actions):
        if isinstance(action, FoldActivationAction):
            passes.append(FoldActivation(action, reference))
            made += _results(original, action.value)
        elif isinstance(action, PruneChannelsAction):
            passes.append(PruneChannels(action, reference))
            known = action.value in original.values()
            group = group_of(original, action.value) if known else ""
            values += [action.value] if isinstance(group, str) else group.values
        elif isinstance(action, NarrowLayerAction):
            narrow.append(action)
        elif isinstance(action, FreezeBranchAction):
            passes.append(FreezeBranch(action, reference))
            values += _read_into(original, action.value)
        elif isinstance(action, TieWeightsAction):
            passes.append(TieWeights(action, reference))
            nodes = [node for node in original.graph.nodes if node.name in action.nodes]
            operators = [linear_operator(node) for node in nodes]
            values += [op.result.name for op in operators if op is not None]
        else:
            passes.append(ReuseAttention(action))
            values += _read_into(original, action.value)
    if not passes and not narrow:
        return []
    unique = tuple(dict.fromkeys(values)), tuple(dict.fromkeys(made))
    around = RefitAround(unique[0], reference, unique[1], widths_of(narrow))
    # Fewer units make nothing dead and nothing linear.
    return [*passes, DropDead(), MergeLinear(), around] if passes else [around]


def _results(program: Program, value: str) -> tuple[str, ...]:
    """What the linear operators that read the value make: names that a merge keeps."""
    known = program.values().get(value)
    readers = [] if known is None else known.outputs
    operators = [linear_operator(node) for node in readers]
    return tuple(dict.fromkeys(op.result.name for op in operators if op is not None))


def _read_into(program: Program, value: str) -> tuple[str, ...]:
    """What the readers of the value make."""
    known = program.values().get(value)
    readers = [] if known is None else known.outputs
    return tuple(dict.fromkeys(t.name for node in readers for t in node.outputs if t.name))
