"""The order in which actions are carried out."""

from __future__ import annotations

from itertools import pairwise, permutations

from repsimc.compiler.actions.carry_out import in_order
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.graph.adapters import Link


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
