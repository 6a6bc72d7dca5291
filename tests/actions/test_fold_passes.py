"""Inexact folds: carried out by action, verified on other frames, left alone where unfit."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.actions import fold_activation, tie_weights
from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.kinds import chosen, free_sites
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.site import Site
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.fitting.shared_weight import measure_ties
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.text import text
from repsimc.compiler.structure.cost import program_cost
from repsimc.passes.pipeline import run_passes
from repsimc.passes.prune_channels import PruneChannels
from repsimc.passes.tie_weights import TieWeights
from tests.nets.evidence import GivenEvidence
from tests.nets.foldable import (
    always_on,
    attention_net,
    carried_out,
    error,
    gelu_mlp,
    images,
    sometimes_dead,
    tokens,
    twins,
)
from tests.nets.networks import ArrayFrames, Net, smooth_images
from tests.nets.residual import residual_net
from tests.passes.checking import ops, same_outputs
from tests.programs import program_of

DEAD = (0, 3, 4, 7, 11)


def sites(program: Program, frames: ArrayFrames, kind: str) -> list[Site]:
    evidence = GivenEvidence(program, frames)
    found = free_sites(evidence, chosen())
    return [site for site in found if site.action.kind == kind]


# -- fold-activation --------------------------------------------------------------------------


def test_a_relu_that_is_always_on_goes_and_its_neighbours_merge() -> None:
    program = program_of(always_on())
    original, frames = program.copy(), images()
    (site,) = sites(program, frames, "fold-activation")
    assert site.damage == 0
    before = program_cost(program)
    carried_out(program, site.action, frames)
    assert ops(program) == ["Conv", "Tanh", "GlobalAveragePool", "Flatten", "Gemm"]
    after = program_cost(program)
    assert before.weights_nbytes - after.weights_nbytes == site.saved.weights_nbytes
    assert before.macs - after.macs == site.saved.macs
    assert error(program, original, images(seed=1)) < 1e-6


def test_a_gelu_is_folded_and_refitted() -> None:
    program = program_of(gelu_mlp(0.15))
    original, frames = program.copy(), tokens()
    action = FoldActivationAction("a", "a/h", "a/g")
    (site,) = [s for s in sites(program, frames, "fold-activation") if s.action == action]
    assert 0 < site.damage < 0.5 and site.saved.macs > 0
    before = program_cost(program)
    changes = carried_out(program, site.action, frames)
    assert "Erf" not in ops(program) and ops(program).count("MatMul") == 2
    after = program_cost(program)
    assert before.weights_nbytes - after.weights_nbytes == site.saved.weights_nbytes
    assert before.macs - after.macs == site.saved.macs
    assert changes[0].what.startswith("the activation that makes 'g' became affine")
    fitted = [node for node, note in program.notes.items() if note.made_by]
    assert fitted
    assert error(program, original, tokens(seed=1)) < 0.05


def test_the_refit_repairs_what_the_fold_lost() -> None:
    plain = program_of(gelu_mlp(0.3))
    original, frames = plain.copy(), tokens()
    action = FoldActivationAction("a", "a/h", "a/g")
    reference = Reference(plain.copy(), frames)
    for step in passes_of([action], lambda act: reference)[:-1]:
        step.run(plain)
    repaired = original.copy()
    carried_out(repaired, action, frames)
    test = tokens(seed=1)
    assert error(repaired, original, test) < 0.7 * error(plain, original, test)


def test_a_site_needs_a_merge_that_pays() -> None:
    net = Net()
    x = net.relu(net.conv("x", 3, 8, out="c1"), out="r")
    net.head(net.relu(net.conv(x, 8, 8)), 8, 5)
    program = program_of(net.model(x=("N", 3, 8, 8)))
    found = fold_activation.find(GivenEvidence(program, images()), ("a",))
    assert not found.found
    assert found.refused["a/r"].startswith("the second pads what the first")


# -- prune-channels ---------------------------------------------------------------------------


def test_dead_channels_go() -> None:
    program = program_of(sometimes_dead())
    original, frames = program.copy(), images()
    site = sites(program, frames, "prune-channels")[0]
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
    site, *bolder = sites(program, frames, "prune-channels")
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


# -- freeze-branch ----------------------------------------------------------------------------


def still_branch() -> Program:
    net = Net()
    dead = net.relu(
        net.node("Sub", net.node("Tanh", net.conv("x", 3, 8)), net.weight(np.float32(2)))
    )
    branch = net.conv(dead, 8, 3, out="d")  # at the border it sees fewer zeros: all are its bias
    net.relu(net.node("Add", net.conv("x", 3, 3), branch, out="sum"), out="y")
    return program_of(net.model(x=("N", 3, 8, 8)))


def test_a_still_branch_becomes_numbers_per_channel() -> None:
    program, frames = still_branch(), images()
    original = program.copy()
    (site,) = sites(program, frames, "freeze-branch")
    assert site.action == FreezeBranchAction("a", "a/d") and site.saved.macs > 0
    carried_out(program, site.action, frames)
    assert ops(program) == ["Conv", "Relu"]  # the numbers went into the bias
    same_outputs(program, original, {"a/x": smooth_images(8, seed=3)})


def test_few_frames_prove_nothing() -> None:
    assert not sites(still_branch(), images(8), "freeze-branch")


# -- reuse-attention --------------------------------------------------------------------------


def test_an_attention_map_serves_twice() -> None:
    program = program_of(attention_net())
    original, frames = program.copy(), tokens()
    (site,) = sites(program, frames, "reuse-attention")
    assert site.action == ReuseAttentionAction("a", "a/s0", "a/s1") and site.damage < 0.01
    before = program_cost(program)
    carried_out(program, site.action, frames)
    assert ops(program).count("Softmax") == 1
    after = program_cost(program)
    assert (
        before.weights_nbytes - after.weights_nbytes == site.saved.weights_nbytes == 2 * 16 * 16 * 4
    )
    assert before.macs - after.macs == site.saved.macs > 0
    assert error(program, original, tokens(seed=1)) < 1e-3


def test_a_later_map_cannot_serve_an_earlier_layer() -> None:
    program = program_of(attention_net())
    before = ops(program)
    carried_out(program, ReuseAttentionAction("a", "a/s1", "a/s0"), tokens())
    assert ops(program) == before


# -- tie-weights ------------------------------------------------------------------------------


def test_layers_that_are_alike_share_a_weight() -> None:
    program, frames = program_of(twins(0.1)), images()
    original = program.copy()
    changes = carried_out(program, TieWeightsAction("a", ("a/n_t0", "a/n_t1")), frames)
    first, second = (program.node(f"a/n_t{k}") for k in range(2))
    assert first.inputs[1] is second.inputs[1] and first.inputs[2] is not second.inputs[2]
    assert sum(change.nbytes_saved for change in changes) == 8 * 8 * 9 * 4
    saved = program_cost(original).weights_nbytes - program_cost(program).weights_nbytes
    assert saved == 8 * 8 * 9 * 4
    assert error(program, original, images(seed=1)) < 0.02


def test_tying_is_done_once() -> None:
    program, frames = program_of(twins(0.1)), images()
    action = TieWeightsAction("a", ("a/n_t0", "a/n_t1"))
    carried_out(program, action, frames)
    before = text(program)
    assert TieWeights(action.nodes, Reference(program.copy(), frames)).run(program) == []
    assert text(program) == before


@pytest.mark.parametrize("name", ["a/n_conv0", "a/n_y"])
def test_layers_of_another_shape_are_not_tied(name: str) -> None:
    program = program_of(twins(0.1))
    before = text(program)
    step = TieWeights((name, "a/n_t1"), Reference(program, images()))
    assert step.run(program) == [] and text(program) == before


def test_layers_that_are_alike_are_found() -> None:
    for apart, alike in ((0.1, True), (3.0, False)):
        program = program_of(twins(apart))
        frames = images()
        ties = measure_ties(program, frames, ["a"])
        assert list(ties) == [("a/n_t0", "a/n_t1")]
        assert ties["a/n_t0", "a/n_t1"] > 0.95 if alike else ties["a/n_t0", "a/n_t1"] < 0.6
        sites_ = tie_weights.find(GivenEvidence(program, frames), ("a",)).found
        assert bool(sites_) == alike
        assert all(site.saved.weights_nbytes == 8 * 8 * 9 * 4 for site in sites_)


def test_a_layer_that_chose_its_units_anew_is_not_tied() -> None:
    """Block b0 takes over what b1 did: its hidden layer makes what no value of the original was."""
    program, frames = program_of(residual_net(3)), images()
    original = program.copy()
    reference = Reference(original, frames)
    run_passes(program, passes_of([CollapseAction("a", "a/b0", "a/b1")], lambda act: reference))
    before = text(program)
    for nodes in (("a/n_b0_c", "a/n_b2_c"), ("a/n_b0_d", "a/n_b2_d")):
        assert TieWeights(nodes, reference).run(program) == []
    assert text(program) == before


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


def test_wide_layers_are_judged_too() -> None:
    net = Net(8)
    weight = net.normal(600, 600, scale=0.04)
    x = net.node("Tanh", net.gemm("x", 10, 600))
    for block in range(2):
        x = net.node("Tanh", net.node("Gemm", x, net.weight(weight), out=f"g{block}"))
    net.gemm(x, 600, 5, out="y")
    program = program_of(net.model(x=("N", 10)))
    frames = ArrayFrames({"a/x": net.normal(300, 10).astype(np.float32)})
    ties = measure_ties(program, frames, ["a"])
    assert ties["a/n_g0", "a/n_g1"] > 0.999


# -- what does not fit --------------------------------------------------------------------------

GONE: list[Action] = [
    FoldActivationAction("a", "a/q", "a/r"),
    PruneChannelsAction("a", "a/q", (0,)),
    PruneChannelsAction("a", "a/y", (0,)),
    PruneChannelsAction("a", "a/r", (99,)),
    FreezeBranchAction("a", "a/q"),
    FreezeBranchAction("a", "a/r"),  # a convolution cannot take a constant
    TieWeightsAction("a", ("a/n_c2", "a/q")),
    ReuseAttentionAction("a", "a/r", "a/q"),
    ReuseAttentionAction("a", "a/r", "a/c2"),
]


@pytest.mark.parametrize("action", GONE, ids=str)
def test_what_an_earlier_action_took_away_is_left_alone(action: Action) -> None:
    program = program_of(sometimes_dead())
    before = {node.name: node.op for node in program.graph.nodes}
    carried_out(program, action, images())
    assert {node.name: node.op for node in program.graph.nodes} == before


def test_the_same_action_gives_the_same_bytes() -> None:
    def after() -> str:
        program = program_of(gelu_mlp(0.15))
        carried_out(program, FoldActivationAction("a", "a/h", "a/g"), tokens())
        return text(program)

    assert after() == after()
