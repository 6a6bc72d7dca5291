"""The order in which actions are carried out."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.carry_out import in_order
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.share_prefix import (
    SharePrefixAction,
)
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.graph.adapters import Link
from tests.nets.foldable import (
    carried_out,
    images,
    sometimes_dead,
)
from tests.programs import program_of


def take(donor: str, receiver: str, value: str = "s2") -> SharePrefixAction:
    return SharePrefixAction(donor, receiver, (Link(f"{receiver}/{value}", (f"{donor}/s2",)),), 1)


def test_donors_come_before_their_receivers() -> None:
    for names in ("abcd", "dcba", "cadb"):
        chain = [take(donor, receiver) for donor, receiver in pairwise(names)]
        for order in permutations(chain):
            assert in_order(order) == chain


def test_the_order_does_not_depend_on_the_order_given() -> None:
    actions = [take("d", "c"), take("d", "a"), take("c", "b"), take("a", "d", "s1")]
    found = {tuple(in_order(order)) for order in permutations(actions)}
    assert len(found) == 1
    (order,) = found
    assert sorted(map(str, order)) == sorted(map(str, actions))  # a circle of models loses none


GONE: list[Action] = [
    FoldActivationAction("a", "a/q", "a/r"),
    PruneChannelsAction("a", "a/q", (0,)),
    PruneChannelsAction("a", "a/y", (0,)),
    PruneChannelsAction("a", "a/r", (99,)),
    FreezeBranchAction("a", "a/q"),
    FreezeBranchAction("a", "a/r"),  # a convolution cannot take a constant
    TieWeightsAction("a", ("a/n_c2", "a/q")),
    ReuseAttentionAction("a", "a/r", "a/q"),
    ReuseAttentionAction("a", "a/r", "a/c2"),
]


@pytest.mark.parametrize("action", GONE, ids=str)
def test_what_an_earlier_action_took_away_is_left_alone(action: Action) -> None:
    program = program_of(sometimes_dead())
    before = {node.name: node.op for node in program.graph.nodes}
    carried_out(program, action, images())
    assert {node.name: node.op for node in program.graph.nodes} == before
