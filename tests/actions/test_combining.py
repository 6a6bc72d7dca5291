"""Actions beside each other: which one covers another."""

from __future__ import annotations

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.combining import widest
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction


def test_a_wider_action_includes_a_narrower_one() -> None:
    tie = TieWeightsAction("a", ("a/n_t0", "a/n_t1"))
    few, more = (PruneChannelsAction("a", "a/r", c) for c in ((0,), (0, 3)))
    assert more.covers(few) and not few.covers(more)
    assert not more.covers(PruneChannelsAction("a", "a/q", (0,)))
    run = TieWeightsAction("a", (*tie.nodes, "a/n_t2"))
    folds: list[Action] = [few, tie, more, run, few]
    assert widest(folds) == [more, run]
