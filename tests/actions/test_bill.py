"""Bills without graphs against the cost of the program after really applying the actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from repsimc.compiler.actions.bill import Bills
from repsimc.compiler.actions.carry_out import in_order
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.structure.cost import program_cost
from repsimc.passes.drop_dead import DropDead
from repsimc.passes.pipeline import run_exact
from repsimc.passes.share_prefix import SharePrefix
from tests.nets.networks import (
    ArrayFrames,
    branches,
    features_net,
    pyramid,
    smooth_images,
    tokens_net,
)
from tests.programs import joined


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
