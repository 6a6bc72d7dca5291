"""What the kinds of actions have in common: names that are not there are refused."""

from __future__ import annotations

import pytest

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.errors import ModelError
from tests.nets.foldable import (
    sometimes_dead,
)
from tests.programs import program_of


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
