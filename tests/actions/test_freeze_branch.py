"""Branches that never move: found on enough frames, and made constants."""

from __future__ import annotations

import numpy as np

from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.graph.program import Program
from tests.nets.evidence import free_sites_of
from tests.nets.foldable import (
    carried_out,
    images,
)
from tests.nets.networks import (
    Net,
    smooth_images,
)
from tests.passes.checking import ops, same_outputs
from tests.programs import program_of


def still_map() -> Program:
    net = Net()
    dead = net.relu(
        net.node("Sub", net.node("Tanh", net.conv("x", 3, 8)), net.weight(np.float32(2)))
    )
    branch = net.conv(dead, 8, 3, out="d")  # at the border it sees fewer zeros: all are its bias
    net.relu(net.node("Add", net.conv("x", 3, 3), branch, out="sum"), out="y")
    return program_of(net.model(x=("N", 3, 8, 8)))


def test_a_still_branch_becomes_numbers_per_channel() -> None:
    program, frames = still_map(), images()
    original = program.copy()
    (site,) = free_sites_of(program, frames, "freeze-branch")
    assert site.action == FreezeBranchAction("a", "a/d") and site.saved.macs > 0
    carried_out(program, site.action, frames)
    assert ops(program) == ["Conv", "Relu"]  # the numbers went into the bias
    same_outputs(program, original, {"a/x": smooth_images(8, seed=3)})


def test_few_frames_prove_nothing() -> None:
    assert not free_sites_of(still_map(), images(8), "freeze-branch")
