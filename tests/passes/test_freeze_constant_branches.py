"""Branches that never change become constants."""

from __future__ import annotations

import numpy as np

from repsimc.passes.freeze_constant_branches import FreezeConstantBranches
from repsimc.passes.pipeline import EXACT, run_exact, run_passes
from tests.nets.networks import Net, smooth_images
from tests.passes.checking import changed, ops, same_outputs, unchanged
from tests.programs import program_of

FREEZE = FreezeConstantBranches()
IMAGE = ("N", 4, 6, 6)


def residual(gamma: object, tokens: bool = False) -> Net:
    """relu(x + gamma * f(x)), a LayerScale."""
    net = Net()
    scaled = net.node("Mul", net.relu(net.conv("x", 4, 4)), net.weight(gamma))
    net.relu(net.node("Add", "x", scaled), out="y")
    return net


def test_a_branch_scaled_by_zero_goes() -> None:
    model = residual(np.zeros((4, 1, 1))).model(x=IMAGE)
    changed(FREEZE, model)
    program, before = program_of(model), program_of(model)
    run_exact(program)
    assert ops(program) == ["Relu"] and not program.weights()
    same_outputs(program, before, {"a/x": smooth_images(4, 4, 6)})
    assert run_passes(program, EXACT) == []


def test_a_branch_of_which_one_channel_lives_stays() -> None:
    unchanged(FREEZE, residual(np.array([0, 0, 1, 0]).reshape(4, 1, 1) * 1.0).model(x=IMAGE))


def test_a_filter_of_zeros_leaves_its_bias() -> None:
    net = Net()
    bias = net.normal(4)
    dead = net.node("Conv", "x", net.weight(np.zeros((4, 4, 3, 3))), net.weight(bias), pads=[1] * 4)
    net.node("Mul", net.relu("x"), dead, out="y")
    model = net.model(x=IMAGE)
    program = changed(FREEZE, model)
    constant = program.node("a/n_y").inputs[1].values
    np.testing.assert_allclose(constant, bias.reshape(4, 1, 1), rtol=1e-6)
    program, before = program_of(model), program_of(model)
    run_exact(program)
    assert ops(program) == ["Relu", "Mul"]
    same_outputs(program, before, {"a/x": smooth_images(4, 4, 6)})


def test_a_relu_that_never_fires_goes() -> None:
    net = Net()
    negative = -np.abs(net.normal(4, 4, 1, 1))
    dead = net.relu(net.node("Conv", net.relu("x"), net.weight(negative)))
    net.node("Add", "x", dead, out="y")
    model = net.model(x=IMAGE)
    program = program_of(model)
    run_exact(program)
    assert ops(program) == ["Add"]  # an output needs its maker
    same_outputs(program, program_of(model), {"a/x": smooth_images(4, 4, 6)})


def test_readers_that_do_not_broadcast_keep_the_branch() -> None:
    net = Net()
    dead = net.node("Mul", "x", net.weight(np.float32(0)))
    net.node("Concat", "x", dead, axis=1, out="y")
    unchanged(FREEZE, net.model(x=IMAGE))


def test_a_constant_that_gives_the_result_its_shape_stays() -> None:
    net = Net()
    dead = net.node("Mul", "x", net.weight(np.float32(0)))
    net.node("Add", net.node("GlobalAveragePool", "x"), dead, out="y")
    unchanged(FREEZE, net.model(x=IMAGE))


def test_what_is_constant_on_these_frames_only_stays() -> None:
    net = Net()
    shifted = net.node("Sub", "x", net.weight(np.float32(1e6)))
    net.node("Add", "x", net.relu(shifted), out="y")
    unchanged(FREEZE, net.model(x=IMAGE))
