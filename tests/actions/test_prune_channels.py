"""Channels that hardly move: found, taken out with their means, left where they are others."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.kinds import action_from_json
from repsimc.compiler.actions.plan_reader import PlanReader
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.errors import ModelError
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.text import text
from repsimc.compiler.structure.cost import program_cost
from repsimc.passes.pipeline import run_passes
from repsimc.passes.prune_channels import PruneChannels
from tests.nets.evidence import free_sites_of
from tests.nets.foldable import (
    attention_net,
    carried_out,
    error,
    images,
    sometimes_dead,
    tokens,
)
from tests.nets.networks import (
    Net,
)
from tests.programs import program_of

DEAD = (0, 3, 4, 7, 11)


def test_dead_channels_go() -> None:
    program = program_of(sometimes_dead())
    original, frames = program.copy(), images()
    site = free_sites_of(program, frames, "prune-channels")[0]
    assert site.action == PruneChannelsAction("a", "a/r", DEAD) and site.damage == 0
    before = program_cost(program)
    carried_out(program, site.action, frames)
    assert tuple(program.node("a/n_c2").inputs[1].shape) == (4, 7, 1, 1)
    after = program_cost(program)
    assert before.weights_nbytes - after.weights_nbytes == site.saved.weights_nbytes
    assert before.macs - after.macs == pytest.approx(site.saved.macs, rel=0.02)
    assert error(program, original, images(seed=1)) < 1e-6


def test_quiet_channels_leave_their_mean() -> None:
    net = Net(4)
    weight, bias = net.normal(12, 3, 3, 3), np.zeros(12)
    weight[[2, 5]] *= 1e-3
    bias[[2, 5]] = 3.0
    x = net.relu(net.node("Conv", "x", net.weight(weight), net.weight(bias), pads=[1] * 4), out="r")
    net.head(net.relu(net.conv(x, 12, 4, 3, out="c2")), 4, 5)
    program = program_of(net.model(x=("N", 3, 8, 8)))
    original, frames = program.copy(), images()
    site, *bolder = free_sites_of(program, frames, "prune-channels")
    assert all(other.damage > site.damage for other in bolder)
    assert site.action == PruneChannelsAction("a", "a/r", (2, 5)) and 0 < site.damage < 1e-3
    carried_out(program, site.action, frames)
    assert error(program, original, images(seed=1)) < 0.02  # c2 pads: not exact at the border


def test_channels_that_queries_read_can_go() -> None:
    """Products without a bias beside those with one: what the channels gave the former is lost."""
    program = program_of(attention_net())
    frames = tokens()
    value = program.node("a/n_s0").inputs[0].inputs[0].inputs[0].inputs[0].inputs[0].name
    carried_out(program, PruneChannelsAction("a", value, (1, 2)), frames)
    assert program.values()[value].shape[-1] == 14


def test_one_channel_is_kept() -> None:
    program = program_of(sometimes_dead())
    carried_out(program, PruneChannelsAction("a", "a/r", tuple(range(12))), images())
    assert tuple(program.node("a/n_c2").inputs[1].shape) == (4, 1, 1, 1)


def test_a_prune_of_channels_that_mean_others_now_is_not_made() -> None:
    """Where a region became nothing, a hidden layer is what went into it."""
    net = Net(1)
    x = net.relu(net.conv("x", 3, 6), out="s")
    x = net.relu(net.conv(x, 6, 6, out="c"), out="r")
    net.head(net.conv(x, 6, 6, 1), 6, 5)
    program, frames = program_of(net.model(x=("N", 3, 8, 8))), images()
    reference = Reference(program.copy(), frames)
    run_passes(program, passes_of([CollapseAction("a", "a/s", "a/c")], lambda act: reference))
    before = text(program)
    assert PruneChannels("a/r", (0, 1), reference).run(program) == []
    assert text(program) == before


def test_negative_channels_are_refused() -> None:
    entry = {**PruneChannelsAction("a", "a/r", (0, 3)).to_json(), "channels": [0, -1]}
    with pytest.raises(ModelError, match="whole numbers"):
        action_from_json(PlanReader("plan", "", entry))
