"""The passes that carry out actions of folding, pruning, freezing, tying and reuse."""

from __future__ import annotations

from collections.abc import Sequence

from ...passes.base import Pass
from ...passes.drop_dead import DropDead
from ...passes.fold_activation import FoldActivation
from ...passes.freeze_branch import FreezeBranch
from ...passes.merge_linear import MergeLinear
from ...passes.prune_channels import PruneChannels
from ...passes.refit_around import RefitAround
from ...passes.reuse_attention import ReuseAttention
from ...passes.tie_weights import TieWeights
from ..fitting.operators import linear_operator
from ..fitting.reference import Reference
from ..graph.program import Program
from ..structure.channel_groups import group_of
from .fold_actions import (
    FoldAction,
    FoldActivationAction,
    FreezeBranchAction,
    NarrowLayerAction,
    PruneChannelsAction,
    TieWeightsAction,
    widest,
)
from .fold_effects import without_outdone

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
