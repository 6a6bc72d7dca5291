"""Bills of folds against the cost of the program after really carrying them out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from repsimc.compiler.actions import take_out_region
from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.bill import Bill, Bills
from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.combining import widest
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.site import Site
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.graph.program import Program
from repsimc.compiler.planning.descent import Descent
from repsimc.compiler.structure.cost import program_cost
from repsimc.passes.pipeline import CLEANING, run_passes
from tests.nets.evidence import GivenEvidence
from tests.nets.foldable import (
    always_on,
    attention_net,
    gelu_mlp,
    images,
    quiet_channels,
    sometimes_dead,
    still_branch,
    tokens,
    twins,
)
from tests.nets.networks import ArrayFrames, perturbed
from tests.nets.residual import residual_net
from tests.programs import joined, program_of


def carried_out(program: Program, actions: Sequence[Action], frames: ArrayFrames) -> Bill:
    done = program.copy()
    reference = Reference(program.copy(), frames)
    run_passes(done, passes_of(actions, lambda action: reference))
    run_passes(done, CLEANING)
    cost = program_cost(done)
    return Bill(cost.weights_nbytes, cost.macs)


def assert_billed(skeleton: Bills, actions: Sequence[Action]) -> None:
    bill, found = skeleton.bill(actions), carried_out(skeleton.program, actions, images())
    assert bill is not None and bill.macs == found.macs
    # Biases that were all zero were one constant; refitted they are not.
    assert 0 <= found.weights_nbytes - bill.weights_nbytes <= 72


TIE = TieWeightsAction("a", ("a/n_t0", "a/n_t1"))
CASES = {
    "fold": (always_on, images, FoldActivationAction("a", "a/conv1", "a/r")),
    "fold of several steps": (
        lambda: gelu_mlp(0.15), tokens, FoldActivationAction("a", "a/h", "a/g")
    ),
    "prune": (sometimes_dead, images, PruneChannelsAction("a", "a/r", (0, 3, 4, 7, 11))),
    "prune before a 3x3": (quiet_channels, images, PruneChannelsAction("a", "a/r", (2, 5, 6))),
    "narrow": (sometimes_dead, images, NarrowLayerAction("a", "a/r", 7)),
    "narrow with a bias apart": (gelu_mlp, tokens, NarrowLayerAction("a", "a/g", 16)),
    "freeze": (still_branch, images, FreezeBranchAction("a", "a/d")),
    "tie": (twins, images, TIE),
    "reuse": (attention_net, tokens, ReuseAttentionAction("a", "a/s0", "a/s1")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_fold_costs_what_it_was_billed(name: str) -> None:
    build, frames, action = CASES[name]
    program, feeds = program_of(build()), frames()
    if name == "fold":
        action = FoldActivationAction("a", program.node("a/n_r").inputs[0].name, "a/r")
    skeleton = GivenEvidence(program, feeds).bills
    bill, found = skeleton.bill([action]), carried_out(program, [action], feeds)
    before = skeleton.bill([])
    assert bill is not None and before is not None
    assert bill.weights_nbytes < before.weights_nbytes
    assert bill.macs == found.macs
    # What is frozen goes into a bias that is there already.
    slack = 24 if name == "freeze" else 0
    assert 0 <= bill.weights_nbytes - found.weights_nbytes <= slack


def test_two_prunes_that_meet_in_one_weight() -> None:
    program = program_of(residual_net(1))
    first = PruneChannelsAction("a", "a/b0_h", (0, 1))
    second = PruneChannelsAction("a", "a/stem", (2, 3, 4))
    skeleton = Bills(program)
    bill = skeleton.bill([first, second])
    found = carried_out(program, [first, second], ArrayFrames({"a/x": images().arrays["a/x"]}))
    assert bill == found


def test_a_region_that_goes_takes_what_a_fold_saved() -> None:
    program = program_of(residual_net(3))
    skeleton = Bills(program)
    gone = CollapseAction("a", "a/b0", "a/b1")
    inside = PruneChannelsAction("a", "a/b1_h", (0, 1))
    beside = PruneChannelsAction("a", "a/b2_h", (0, 1))
    assert skeleton.bill([gone, inside]) == skeleton.bill([gone])
    assert skeleton.without_idle([inside, gone, beside]) == (gone, beside)
    one, both = skeleton.bill([beside]), skeleton.bill([inside, beside])
    assert one is not None and both is not None and both.weights_nbytes < one.weights_nbytes
    assert_billed(skeleton, [gone, inside, beside])


def test_a_trunk_is_pruned_where_a_part_of_it_is_gone() -> None:
    skeleton = Bills(program_of(residual_net(3)))
    gone = CollapseAction("a", "a/b0", "a/b1")
    assert_billed(skeleton, [gone, PruneChannelsAction("a", "a/b1_s", (0, 1))])


def test_a_tie_of_which_one_layer_is_left_saves_nothing() -> None:
    program = program_of(residual_net(4))
    skeleton = Bills(program)
    gone = CollapseAction("a", "a/b0", "a/b1")
    tie = TieWeightsAction("a", ("a/n_b1_c", "a/n_b2_c"))
    three = TieWeightsAction("a", ("a/n_b1_c", "a/n_b2_c", "a/n_b3_c"))
    assert skeleton.without_idle([tie, gone]) == (gone,)
    assert_billed(skeleton, [gone, three])


def test_a_dead_prefix_has_nothing_to_fold() -> None:
    model = sometimes_dead()
    program = joined([[("a", "x"), ("b", "x")]], a=model, b=perturbed(model, 0.05))
    skeleton = Bills(program)
    share = SharePrefixAction("a", "b", (Link("b/c2", ("a/c2",)),), 1)
    prune = PruneChannelsAction("b", "b/r", (0, 3))
    assert skeleton.without_idle([prune, share]) == (share,)
    assert skeleton.affected(prune) == ("b",)


def test_what_a_donor_gives_is_not_folded_away() -> None:
    model = always_on()
    program = joined([[("a", "x"), ("b", "x")]], a=model, b=perturbed(model, 0.05))
    given = program.node("a/n_r").inputs[0].name
    other = program.node("b/n_r").inputs[0].name
    fold = FoldActivationAction("a", given, "a/r")
    share = SharePrefixAction("a", "b", (Link(other, (given,)),), 1)
    skeleton = Bills(program)
    assert skeleton.bill([share, fold]) == skeleton.bill([share])


def test_folds_that_exclude_each_other_have_no_bill() -> None:
    skeleton = Bills(program_of(twins()))
    assert skeleton.bill([TIE, PruneChannelsAction("a", "a/t0", (0,))]) is None
    assert skeleton.bill([TIE]) is not None


def test_a_wider_action_includes_a_narrower_one() -> None:
    few, more = (PruneChannelsAction("a", "a/r", c) for c in ((0,), (0, 3)))
    assert more.covers(few) and not few.covers(more)
    assert not more.covers(PruneChannelsAction("a", "a/q", (0,)))
    run = TieWeightsAction("a", (*TIE.nodes, "a/n_t2"))
    folds: list[Action] = [few, TIE, more, run, few]
    assert widest(folds) == [more, run]


# -- in the descent -------------------------------------------------------------------------------


def descent(errors: dict[str, float]) -> list[str]:
    """The order in which two folds and a collapse go, by the errors measured for each."""
    program = program_of(residual_net(3))
    skeleton = Bills(program)
    kinds = {"gone": "b0 .. b1", "first": "b0_h", "second": "b2_h"}
    regions = [
        one
        for one in take_out_region.find(GivenEvidence(program, images()), ("a",)).found
        if str(one.action).endswith(".. b1")
    ]
    folds = [
        Site(PruneChannelsAction("a", f"a/{kinds[name]}", (0, 1)), Bill(1, 1), 0.0)
        for name in ("first", "second")
    ]
    known: dict[object, float] = {regions[0].action: errors["gone"]}
    known |= {site.action: errors[name] for name, site in zip(("first", "second"), folds)}

    def measure(actions: tuple[Action, ...]) -> float:
        return float(np.sum([known[action] for action in actions]))

    steps = Descent(
        regions, skeleton.bill, measure, lambda bill: float(bill.macs), folds=folds
    ).steps()
    names = {str(regions[0].action): "gone"}
    names |= {str(site.action): name for name, site in zip(("first", "second"), folds)}
    return [names[str(step.chosen.action)] for step in steps]


def test_folds_and_regions_go_by_error_per_saving() -> None:
    assert descent({"gone": 0.1, "first": 0.0, "second": 1.0}) == ["first", "gone", "second"]
    assert descent({"gone": 0.0, "first": 0.1, "second": 0.2}) == ["gone", "first", "second"]


def test_what_could_not_be_carried_out_is_not_taken() -> None:
    infinite = float("inf")
    assert descent({"gone": 0.1, "first": infinite, "second": 0.0}) == ["second", "gone"]
