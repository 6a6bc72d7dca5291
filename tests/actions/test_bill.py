"""Bills without graphs against the cost of the program after really applying the actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from repsimc.compiler.actions.bill import Bill, Bills
from repsimc.compiler.actions.carry_out import in_order
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.share_prefix import (
    SharePrefixAction,
)
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.structure.cost import program_cost
from repsimc.passes.drop_dead import DropDead
from repsimc.passes.pipeline import run_exact
from repsimc.passes.share_prefix import SharePrefix
from tests.actions.costs import assert_billed as assert_billed_on_images
from tests.actions.costs import cost_after
from tests.nets import foldable
from tests.nets.evidence import GivenEvidence
from tests.nets.foldable import (
    always_on,
    attention_net,
    gelu_mlp,
    quiet_channels,
    sometimes_dead,
    still_branch,
    tokens,
    twins,
)
from tests.nets.networks import (
    ArrayFrames,
    branches,
    features_net,
    perturbed,
    pyramid,
    smooth_images,
    tokens_net,
)
from tests.nets.residual import residual_net
from tests.programs import joined, program_of


def take(donor: str, receiver: str, *links: tuple[str, str], kernel: int = 1) -> SharePrefixAction:
    """'s2' from 's1+s2': own value names, donors joined by '+'."""
    return SharePrefixAction(
        donor,
        receiver,
        tuple(
            Link(f"{receiver}/{value}", tuple(f"{donor}/{name}" for name in given.split("+")))
            for value, given in links
        ),
        kernel,
    )


def tied(names: str) -> list[list[tuple[str, str]]]:
    return [[(name, "x") for name in names]]


def images() -> Program:
    return joined(tied("abc"), a=pyramid(0), b=pyramid(1, (5, 6, 10)), c=pyramid(2))


IMAGES = ArrayFrames({"x": smooth_images(16)})


def applied(program: Program, actions: Sequence[SharePrefixAction], frames: ArrayFrames) -> Program:
    program = program.copy()
    reference = Reference(program.copy(), frames)
    for action in in_order(actions):
        SharePrefix(action.links, action.kernel, reference).run(program)
        verify(program)
    DropDead().run(program)
    verify(program)
    return program


def assert_billed(
    program: Program, actions: Sequence[SharePrefixAction], frames: ArrayFrames, extra: int = 0
) -> None:
    bill = Bills(program).bill(actions)
    assert bill is not None
    cost = program_cost(applied(program, actions, frames))
    assert bill.macs == cost.macs
    assert bill.weights_nbytes == cost.weights_nbytes - extra


RESIZE = 16  # bytes of the scales of a Resize, which bills leave out


@pytest.mark.parametrize(
    ("actions", "extra"),
    [
        ([], 0),
        ([take("a", "b", ("s2", "s2"))], 0),
        ([take("a", "b", ("c2", "c2"))], 0),  # between convolution and ReLU
        ([take("a", "b", ("s2", "s2"), kernel=3)], 0),
        ([take("a", "b", ("s2", "s2"), kernel=0)], 0),
        ([take("a", "b", ("s2", "s1"), kernel=1)], 0),  # the donor is larger: stride
        ([take("a", "b", ("s2", "s1"), kernel=3)], 0),
        ([take("a", "b", ("s2", "s3"), kernel=3)], RESIZE),  # smaller: resized
        ([take("a", "b", ("s3", "c2+s2"), kernel=1)], 0),
        ([take("a", "b", ("s3", "s3")), take("a", "c", ("s2", "s2"))], 0),  # one donor, twice
        ([take("a", "b", ("s2", "s2")), take("b", "c", ("s3", "s3"))], 0),  # a chain
        ([take("a", "b", ("s3", "s3")), take("b", "c", ("s1", "s1"))], 0),  # c keeps b's prefix
        # The donor's value is one that was replaced: the adapter's output is what there is now.
        ([take("a", "b", ("s2", "s2")), take("b", "c", ("s2", "c2"))], 0),
        ([take("a", "b", ("s2", "s2")), take("b", "c", ("s2", "c2+s2"), kernel=0)], 0),
        ([take("a", "b", ("s2", "s2"), kernel=0), take("b", "c", ("s2", "s2"))], 0),
        ([take("a", "b", ("s2", "s2")), take("b", "a", ("s3", "s3"))], 0),  # both ways
        ([take("a", "b", ("s1", "s1")), take("a", "b", ("s3", "s3"))], 0),  # the first is dead
    ],
    ids=lambda value: "; ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_bill_is_what_the_program_costs_then(
    actions: list[SharePrefixAction], extra: int
) -> None:
    assert_billed(images(), actions, IMAGES, extra)


def test_bills_of_cuts_of_two_values() -> None:
    program = joined(tied("ab"), a=branches(0), b=branches(1))
    action = take("a", "b", ("p2", "p2"), ("q2", "p1+q1"), kernel=3)
    assert_billed(program, [action], IMAGES)
    assert Bills(program).replaced("b/p2", 3) != "b/p2"  # before the ReLU
    # With half of the cut only half of the prefix is given up.
    assert_billed(program, [take("a", "b", ("p2", "p2"))], IMAGES)


def test_bills_of_tokens_and_features() -> None:
    random = np.random.default_rng(0)
    tokens = joined(tied("ab"), a=tokens_net(0), b=tokens_net(1, 9))
    frames = ArrayFrames({"x": random.normal(size=(16, 6, 10)).astype(np.float32)})
    assert_billed(tokens, [take("a", "b", ("t2", "t2"))], frames)
    assert_billed(tokens, [take("b", "a", ("t4", "t1+t4"), kernel=3)], frames)
    features = joined(tied("ab"), a=features_net(0), b=features_net(1, 9))
    frames = ArrayFrames({"x": random.normal(size=(16, 10)).astype(np.float32)})
    assert_billed(features, [take("a", "b", ("f2", "f2"))], frames)
    assert_billed(features, [take("b", "a", ("f4", "f2+f4"))], frames)


def test_bills_count_what_is_shared_exactly_once() -> None:
    program = joined(tied("abc"), a=pyramid(0), b=pyramid(0), c=pyramid(1))
    run_exact(program)
    bill = Bills(program).bill([])
    cost = program_cost(program)
    assert bill is not None and (bill.weights_nbytes, bill.macs) == (
        cost.weights_nbytes,
        cost.macs,
    )
    # The two share all of a: c's adapter leaves that alive for both.
    assert_billed(program, [take("a", "c", ("s3", "s3"))], IMAGES)


@pytest.mark.parametrize(
    "actions",
    [
        [take("a", "b", ("s1", "s2")), take("b", "a", ("s1", "s2"))],
        [take("a", "b", ("s2", "s2")), take("b", "a", ("s2", "s2"))],
        [take("a", "b", ("s1", "s1")), take("b", "c", ("s1", "s2")), take("c", "a", ("s1", "s2"))],
        [take("a", "a", ("s1", "s2"))],  # from below its own cut
    ],
)
def test_circles_have_no_bill(actions: list[SharePrefixAction]) -> None:
    assert Bills(images()).bill(actions) is None


def test_a_value_is_replaced_once() -> None:
    skeleton = Bills(images())
    twice = [take("a", "b", ("s2", "s2")), take("c", "b", ("s2", "s2"))]
    assert skeleton.bill(twice) is None
    # A ReLU's input and output are one place for an adapter.
    assert skeleton.bill([take("a", "b", ("s2", "s2")), take("c", "b", ("c2", "c2"))]) is None


def test_a_model_may_skip_its_own_layers() -> None:
    assert_billed(images(), [take("a", "a", ("s3", "s1"))], IMAGES)


def test_who_is_affected() -> None:
    program = joined(tied("abc"), a=pyramid(0), b=pyramid(0), c=pyramid(1))
    skeleton = Bills(images())
    assert skeleton.affected(take("a", "b", ("s2", "s2"))) == ("b",)
    run_exact(program)
    # b's prefix is a's: whoever replaces it changes both.
    assert Bills(program).affected(take("c", "a", ("s2", "s2"))) == ("a", "b")


def test_the_cost_of_adapters_alone() -> None:
    skeleton = Bills(images())
    bill = skeleton.adapters_bill(take("a", "b", ("s3", "c2+s2"), kernel=3))
    assert bill.weights_nbytes == (12 * 9 + 1) * 10 * 4
    assert bill.macs == 12 * 9 * 10 * 4
    raw = skeleton.adapters_bill(take("a", "b", ("s2", "s2"), kernel=0))
    assert (raw.weights_nbytes, raw.macs) == (0, 0)


TIE = TieWeightsAction("a", ("a/n_t0", "a/n_t1"))


CASES = {
    "fold": (always_on, foldable.images, FoldActivationAction("a", "a/conv1", "a/r")),
    "fold of several steps": (
        lambda: gelu_mlp(0.15), tokens, FoldActivationAction("a", "a/h", "a/g")
    ),
    "prune": (sometimes_dead, foldable.images, PruneChannelsAction("a", "a/r", (0, 3, 4, 7, 11))),
    "prune before a 3x3": (
        quiet_channels, foldable.images, PruneChannelsAction("a", "a/r", (2, 5, 6))
    ),
    "narrow": (sometimes_dead, foldable.images, NarrowLayerAction("a", "a/r", 7)),
    "narrow with a bias apart": (gelu_mlp, tokens, NarrowLayerAction("a", "a/g", 16)),
    "freeze": (still_branch, foldable.images, FreezeBranchAction("a", "a/d")),
    "tie": (twins, foldable.images, TIE),
    "reuse": (attention_net, tokens, ReuseAttentionAction("a", "a/s0", "a/s1")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_fold_costs_what_it_was_billed(name: str) -> None:
    build, frames, action = CASES[name]
    program, feeds = program_of(build()), frames()
    if name == "fold":
        action = FoldActivationAction("a", program.node("a/n_r").inputs[0].name, "a/r")
    skeleton = GivenEvidence(program, feeds).bills
    bill, found = skeleton.bill([action]), cost_after(program, [action], feeds)
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
    found = cost_after(
        program, [first, second], ArrayFrames({"a/x": foldable.images().arrays["a/x"]})
    )
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
    assert_billed_on_images(skeleton, [gone, inside, beside])


def test_a_trunk_is_pruned_where_a_part_of_it_is_gone() -> None:
    skeleton = Bills(program_of(residual_net(3)))
    gone = CollapseAction("a", "a/b0", "a/b1")
    assert_billed_on_images(skeleton, [gone, PruneChannelsAction("a", "a/b1_s", (0, 1))])


def test_a_tie_of_which_one_layer_is_left_saves_nothing() -> None:
    program = program_of(residual_net(4))
    skeleton = Bills(program)
    gone = CollapseAction("a", "a/b0", "a/b1")
    tie = TieWeightsAction("a", ("a/n_b1_c", "a/n_b2_c"))
    three = TieWeightsAction("a", ("a/n_b1_c", "a/n_b2_c", "a/n_b3_c"))
    assert skeleton.without_idle([tie, gone]) == (gone,)
    assert_billed_on_images(skeleton, [gone, three])


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


@pytest.mark.parametrize(
    ("nbytes", "macs", "matters"),
    [(5, 0, True), (4, 0, False), (0, 50, True), (4, 49, False), (-5, 50, True), (0, 0, False)],
)
def test_half_a_percent_of_either_matters(nbytes: int, macs: int, matters: bool) -> None:
    assert Bill(nbytes, macs).matters(Bill(1000, 10_000)) is matters


def test_nothing_saved_of_nothing_does_not_matter() -> None:
    assert not Bill(0, 0).matters(Bill(0, 0))
