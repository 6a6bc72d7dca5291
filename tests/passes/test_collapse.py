"""Collapse and its refit: what goes, what takes over, and what must not be touched."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.graph.verifier import verify
from repsimc.passes.collapse import Collapse
from repsimc.passes.drop_dead import DropDead
from repsimc.passes.refit import refit_operators
from tests.nets.networks import Net
from tests.nets.residual import (
    CHANNELS,
    block,
    collapsed,
    images,
    outputs,
    residual_net,
    unexplained,
)
from tests.programs import program_of

FIT, JUDGE = images(300), images(100, seed=1)


def gone(*names: str, kernel: int = 0) -> list[CollapseAction]:
    """Actions for regions named 'entry..exit'."""
    pairs = [name.split("..") for name in names]
    return [CollapseAction("a", f"a/{entry}", f"a/{end}", kernel) for entry, end in pairs]


def rewired(names: list[str]):
    program = program_of(residual_net(4))
    changed = program.copy()
    for action in gone(*names):
        Collapse(action.entry, action.exit, action.kernel).run(changed)
    DropDead().run(changed)
    return program, changed


def test_collapse_rewires_and_drop_dead_removes() -> None:
    program, changed = rewired(["b0..b1"])
    verify(changed)
    assert len(program.graph.nodes) - len(changed.graph.nodes) == 5 - 1  # an Identity stays
    assert "a/b1_c" not in changed.values()


def test_a_block_that_adds_nothing_goes_without_a_trace() -> None:
    net = Net()
    x = net.relu(net.conv("x", 3, CHANNELS), out="stem")
    x = block(net, x, CHANNELS, "b0", 0.5)
    x = block(net, x, CHANNELS, "b1", 0.0)
    net.head(x, CHANNELS, 5)
    program = program_of(net.model(x=["N", 3, 8, 8]))
    rewritten = collapsed(program, FIT, gone("b0..b1"))
    assert unexplained(outputs(rewritten, JUDGE), outputs(program, JUDGE)) < 1e-6


def test_refit_repairs_what_identity_breaks() -> None:
    program = program_of(residual_net(4))
    wanted = outputs(program, JUDGE)
    actions = gone("b0..b1", "b2..b3")
    bare = program.copy()
    for action in actions:
        Collapse(action.entry, action.exit, action.kernel).run(bare)
    by_identity = unexplained(outputs(bare, JUDGE), wanted)
    refitted = unexplained(outputs(collapsed(program, FIT, actions), JUDGE), wanted)
    assert refitted < 0.25 * by_identity


def test_the_shape_of_what_stays_is_kept() -> None:
    program = program_of(residual_net(4))
    rewritten = collapsed(program, FIT, gone("b0..b1", "b1..b2"))
    for node in rewritten.graph.nodes:
        if node.op == "Conv":
            assert node.inputs[1].shape[0] == CHANNELS
    assert len([n for n in rewritten.graph.nodes if n.op == "Conv"]) == 1 + 2 * 2


def test_the_block_before_a_gap_is_fitted_to_its_end_and_pools_its_units() -> None:
    program, changed = rewired(["b0..b1", "b1..b2"])
    targets = {
        op.node.name: target for op, target in refit_operators(changed, program, ["a/b2.adapter"])
    }
    before = targets["a/n_b0_d"]
    assert before.value == "a/b2_s"  # the sum at the end of the gap, before its ReLU
    assert before.other == "a/stem"
    assert before.rectified
    assert before.pool is not None
    assert [unit.result.name for unit in before.pool.units] == ["a/b1_c", "a/b2_c"]
    assert "a/n_conv0" not in targets  # the stem is before everything that changed


def test_pooling_beats_keeping_ones_own_units(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(residual_net(4, scale=1.0))
    wanted = outputs(program, JUDGE)
    actions = gone("b0..b1")
    pooled = unexplained(outputs(collapsed(program, FIT, actions), JUDGE), wanted)
    monkeypatch.setattr("repsimc.passes.refit.pools_of", lambda *_: {})
    alone = unexplained(outputs(collapsed(program, FIT, actions), JUDGE), wanted)
    assert pooled < 0.9 * alone


def test_a_layer_behind_the_gap_chooses_removed_units_too() -> None:
    program = program_of(residual_net(5, scale=1.0))
    changed = program.copy()
    Collapse("a/b1", "a/b2").run(changed)
    DropDead().run(changed)
    targets = refit_operators(changed, program, ["a/b2.adapter"], behind=True)
    pools = {op.node.name: t.pool for op, t in targets if t.pool is not None}
    behind = [pool for pool in pools.values() if pool.spare]
    assert {pool.layer.reader.node.name for pool in behind} == {"a/n_b3_d"}
    assert all(not pool.others and pool.width == 2 * pool.layer.width for pool in behind)
    # The layer before the gap may choose the same units.
    assert any(pool.others == behind[0].spare for pool in pools.values())


def test_an_idle_block_behind_the_gap_takes_units_over() -> None:
    net = Net()
    x = net.relu(net.conv("x", 3, CHANNELS), out="stem")  # no hidden layer before the gap
    x = block(net, x, CHANNELS, "b0", 1.0)
    net.head(block(net, x, CHANNELS, "b1", 0.0), CHANNELS, 5)
    program = program_of(net.model(x=["N", 3, 8, 8]))
    wanted = outputs(program, JUDGE)
    without, with_it = (
        unexplained(outputs(collapsed(program, FIT, gone("stem..b0"), True, behind), JUDGE), wanted)
        for behind in (False, True)
    )
    assert with_it < 0.8 * without


def strided() -> Net:
    net = Net()
    x = net.relu(net.conv("x", 3, 4), out="in")
    left = net.conv(net.relu(net.conv(x, 4, 6, strides=[2, 2])), 6, 6)
    right = net.conv(x, 4, 6, 1, strides=[2, 2], pads=[0] * 4)
    net.head(net.relu(net.node("Add", left, right), out="out"), 6, 5)
    return net


def test_a_changed_shape_becomes_one_strided_map() -> None:
    program = program_of(strided().model(x=["N", 3, 8, 8]))
    rewritten = collapsed(program, FIT, gone("in..out", kernel=3))
    convs = [node for node in rewritten.graph.nodes if node.op == "Conv"]
    assert len(convs) == 2
    assert list(convs[1].attrs["strides"]) == [2, 2]
    assert unexplained(outputs(rewritten, JUDGE), outputs(program, JUDGE)) < 0.5


def test_the_passes_are_deterministic_and_obey_the_plan_only() -> None:
    program = program_of(residual_net(3))
    first, second = (outputs(collapsed(program, FIT, gone("b0..b1")), JUDGE) for _ in range(2))
    assert np.array_equal(first, second)
    assert passes_of([], lambda action: pytest.fail("no action, no reference")) == []
