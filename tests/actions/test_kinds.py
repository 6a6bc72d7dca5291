"""Actions of every kind as JSON and back, and refused where an entry is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.kinds import action_from_json
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.errors import ModelError

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
    assert action_from_json(entry, "plan") == action
    assert str(action).startswith("a ") and "a/" not in str(action)


@pytest.mark.parametrize("entry", [{"kind": "merge"}, {}])
def test_an_unknown_kind_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="plan is of unknown kind"):
        action_from_json(entry, "plan")


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_every_entry_is_needed(action: Action) -> None:
    for key in set(action.to_json()) - {"kind"}:
        for wrong in (None, 3, "", [], [None], [True]):
            entry: dict[str, Any] = {**action.to_json(), key: wrong}
            with pytest.raises(ModelError, match="action 7"):
                action_from_json(entry, "action 7")
