"""Gaps that regions leave: what takes their place, and which hidden units may."""

from __future__ import annotations

from repsimc.compiler.fitting.gaps import pools_of, stand_ins
from repsimc.passes.collapse import Collapse
from repsimc.passes.drop_dead import DropDead
from tests.nets.networks import (
    Net,
)
from tests.nets.residual import (
    CHANNELS,
    block,
    frames,
    images,
)
from tests.programs import program_of


def test_an_entry_that_others_read_keeps_its_place() -> None:
    net = Net()
    stem = net.relu(net.conv("x", 3, CHANNELS), out="stem")
    x = block(net, block(net, stem, CHANNELS, "b0"), CHANNELS, "b1")
    late = net.node("Add", x, "b0", out="late")  # a long skip from b1's entry
    net.head(late, CHANNELS, 5)
    program = program_of(net.model(x=["N", 3, 8, 8]))
    changed = program.copy()
    Collapse("a/b0", "a/b1").run(changed)
    DropDead().run(changed)
    assert stand_ins(changed, program).makers == {}
    assert stand_ins(changed, program).goal("a/b0_s") == "a/b0_s"


def test_no_pool_of_layers_with_another_function() -> None:
    net = Net()
    x = block(net, net.relu(net.conv("x", 3, CHANNELS), out="stem"), CHANNELS, "b0")
    hidden = net.node("Tanh", net.conv(x, CHANNELS, CHANNELS))
    branch = net.conv(hidden, CHANNELS, CHANNELS)
    net.head(net.relu(net.node("Add", branch, x), out="b1"), CHANNELS, 5)
    program = program_of(net.model(x=["N", 3, 8, 8]))
    changed = program.copy()
    Collapse("a/b0", "a/b1").run(changed)
    DropDead().run(changed)
    gaps = list(stand_ins(changed, program).makers.values())
    assert len(gaps) == 1
    assert pools_of(changed, program, gaps) == {}
    assert frames(images(300)).count == 300
