"""Actions of folding as JSON and back, and refused where they do not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.kinds import action_from_json
from repsimc.compiler.actions.plan_reader import PlanReader
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.errors import ModelError
from tests.nets.foldable import sometimes_dead
from tests.programs import program_of

ACTIONS: list[Action] = [
    FoldActivationAction("a", "a/h", "a/r"),
    PruneChannelsAction("a", "a/r", (0, 3)),
    FreezeBranchAction("a", "a/r"),
    TieWeightsAction("a", ("a/n_c1", "a/n_c2")),
    ReuseAttentionAction("a", "a/s0", "a/s1"),
]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_an_action_is_json_and_comes_back(action: Action) -> None:
    entry = json.loads(json.dumps(action.to_json()))
    assert action_from_json(PlanReader("plan", "", entry)) == action
    assert str(action).startswith("a ") and "a/" not in str(action)


@pytest.mark.parametrize("entry", [{"kind": "merge"}, {}])
def test_an_unknown_kind_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="plan is of unknown kind"):
        action_from_json(PlanReader("plan", "", entry))


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_every_entry_is_needed(action: Action) -> None:
    for key in set(action.to_json()) - {"kind"}:
        for wrong in (None, 3, "", [], [None], [True]):
            entry: dict[str, Any] = {**action.to_json(), key: wrong}
            with pytest.raises(ModelError, match="action 7"):
                action_from_json(PlanReader("action 7", "", entry))


def test_negative_channels_are_refused() -> None:
    entry = {**ACTIONS[1].to_json(), "channels": [0, -1]}
    with pytest.raises(ModelError, match="whole numbers"):
        action_from_json(PlanReader("plan", "", entry))


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (FreezeBranchAction("b", "a/r"), "'b', which was not given"),
        (FreezeBranchAction("a", "a/q"), "value 'a/q'"),
        (FoldActivationAction("a", "a/q", "a/r"), "value 'a/q'"),
        (TieWeightsAction("a", ("a/n_c2", "a/q")), "node 'a/q'"),
        (PruneChannelsAction("a", "a/r", (12,)), "channel 12"),
    ],
)
def test_what_the_program_does_not_have_is_refused(action: Action, problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        action.check(program_of(sometimes_dead()))


def test_what_it_has_is_fine() -> None:
    program = program_of(sometimes_dead())
    PruneChannelsAction("a", "a/r", (11,)).check(program)
    TieWeightsAction("a", ("a/n_c2", "a/n_r")).check(program)
