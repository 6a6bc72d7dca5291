"""For every kind of action one small network and one action on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.compute_in_eight_bits import ComputeInEightBitsAction
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.narrow_attention import NarrowAttentionAction
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.store_in_few_bits import StoreInFewBitsAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.graph.program import Program
from tests.nets.attention import attention_layer
from tests.nets.by_pass import donor_and_receiver
from tests.nets.foldable import (
    attention_net,
    gelu_mlp,
    quiet_channels,
    sometimes_dead,
    still_branch,
    tokens,
    twins,
)
from tests.nets.networks import ArrayFrames, smooth_images
from tests.nets.residual import residual_net
from tests.programs import program_of


def on_images(program: Program) -> ArrayFrames:
    """Frames of the program's one input."""
    (value,) = program.graph.inputs
    return ArrayFrames({value.name: smooth_images(192)})


class Example(NamedTuple):
    """`program` makes the program before; `frames` those that fits may see."""

    program: Callable[[], Program]
    action: Action
    frames: Callable[[Program], ArrayFrames] = on_images


EXAMPLES: dict[str, Example] = {
    "share-prefix": Example(
        donor_and_receiver, SharePrefixAction("a", "b", (Link("b/r", ("a/r",)),), 1)
    ),
    "collapse": Example(lambda: program_of(residual_net(2)), CollapseAction("a", "a/stem", "a/b0")),
    "fold-activation": Example(
        lambda: program_of(gelu_mlp(0.15)),
        FoldActivationAction("a", "a/h", "a/g"),
        lambda program: tokens(),
    ),
    "prune-channels": Example(
        lambda: program_of(quiet_channels()), PruneChannelsAction("a", "a/r", (2, 5, 6, 9))
    ),
    "freeze-branch": Example(lambda: program_of(still_branch()), FreezeBranchAction("a", "a/d")),
    "reuse-attention": Example(
        lambda: program_of(attention_net()),
        ReuseAttentionAction("a", "a/s0", "a/s1"),
        lambda program: tokens(),
    ),
    "tie-weights": Example(
        lambda: program_of(twins()), TieWeightsAction("a", ("a/n_t0", "a/n_t1"))
    ),
    "store-in-few-bits": Example(
        lambda: program_of(twins()), StoreInFewBitsAction("a", ("a/n_t0", "a/n_t1"), 8)
    ),
    "compute-in-eight-bits": Example(
        lambda: program_of(residual_net(1)),
        ComputeInEightBitsAction(
            "a", ("a/x", "a/stem", "a/b0_h"), ((-4.0, 4.0), (0.0, 6.0), (0.0, 5.0)), "cpu"
        ),
    ),
    "narrow-layer": Example(lambda: program_of(sometimes_dead()), NarrowLayerAction("a", "a/r", 7)),
    "narrow-attention": Example(
        lambda: program_of(attention_layer()),
        NarrowAttentionAction("a", "a/s", 4),
        lambda program: tokens(),
    ),
}
"""By the name of the kind."""
