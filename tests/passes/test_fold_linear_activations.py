"""Activations that the graph proves straight go; all others stay."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.passes.fold_linear_activations import FoldLinearActivations
from repsimc.passes.merge_linear import MergeLinear
from repsimc.passes.pipeline import EXACT, run_exact, run_passes
from tests.nets.networks import Net, smooth_images
from tests.passes.checking import changed, ops, same_outputs, unchanged
from tests.programs import program_of

FOLD = FoldLinearActivations()
IMAGE = ("N", 3, 6, 6)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1,), (1, 1, 1), (1, 4, 6, 1)])
def test_slopes_of_one_go(shape: tuple[int, ...]) -> None:
    net = Net()
    net.conv(net.node("PRelu", net.conv("x", 3, 4), net.weight(np.ones(shape))), 4, 5, out="y")
    assert ops(changed(FOLD, net.model(x=IMAGE))) == ["Conv", "Conv"]


def test_a_leaky_slope_of_one_goes() -> None:
    net = Net()
    net.relu(net.node("LeakyRelu", "x", alpha=1.0), out="y")
    assert ops(changed(FOLD, net.model(x=IMAGE))) == ["Relu"]


@pytest.mark.parametrize("slope", [0.999, 0.0, -1.0])
def test_other_slopes_stay(slope: float) -> None:
    net = Net()
    slopes = net.weight(np.array([1, 1, slope, 1]).reshape(4, 1, 1))
    net.conv(net.node("PRelu", net.conv("x", 3, 4), slopes), 4, 5, out="y")
    unchanged(FOLD, net.model(x=IMAGE))


def test_a_slope_that_is_computed_stays() -> None:
    net = Net()
    net.node("PRelu", "x", net.node("Abs", "s"), out="y")
    unchanged(FOLD, net.model(x=IMAGE, s=(3, 1, 1)))


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "GlobalAveragePool", "MaxPool", "Add", "Conv"])
def test_a_relu_of_what_is_never_negative_goes(op: str) -> None:
    net = Net()
    x = net.relu(net.conv("x", 3, 4))
    if op == "MaxPool":
        x = net.node(op, x, kernel_shape=[2, 2])
    elif op == "Add":
        x = net.node(op, x, net.node("Sigmoid", "x2"))
    elif op == "Conv":
        x = net.node(op, x, net.weight(np.abs(net.normal(4, 4, 3, 3))), pads=[1] * 4)
    else:
        x = net.node(op, x)
    net.node("Neg", net.relu(x), out="y")
    program = changed(FOLD, net.model(x=IMAGE, x2=("N", 4, 6, 6)))
    assert ops(program).count("Relu") == (2 if op == "Relu" else 1) - (op == "Relu")


@pytest.mark.parametrize("op", ["Tanh", "Neg", "Sub", "Conv"])
def test_a_relu_of_what_may_be_negative_stays(op: str) -> None:
    net = Net()
    x = net.relu("x")
    if op == "Sub":
        x = net.node(op, x, net.node("Sigmoid", "x"))
    elif op == "Conv":
        x = net.conv(x, 3, 4)
    else:
        x = net.node(op, "x")
    net.node("Neg", net.relu(x), out="y")
    unchanged(FOLD, net.model(x=IMAGE))


def test_a_clip_of_what_is_within_goes() -> None:
    net = Net()
    limits = [net.weight(np.float32(value)) for value in (0, 6)]
    net.node("Neg", net.node("Clip", net.node("Sigmoid", "x"), *limits), out="y")
    assert ops(changed(FOLD, net.model(x=IMAGE))) == ["Sigmoid", "Neg"]


def test_an_output_keeps_its_name() -> None:
    net = Net()
    net.relu(net.node("Sigmoid", "x"), out="y")
    program = changed(FOLD, net.model(x=IMAGE))
    assert ops(program) == ["Sigmoid"]
    assert program.graph.nodes[0].outputs[0].name == "a/y"


def test_an_output_of_an_output_stays() -> None:
    net = Net()
    net.relu(net.node("Sigmoid", "x", out="s"), out="y")
    unchanged(FOLD, net.model(("y", "s"), x=IMAGE))


def test_channels_on_both_pieces_become_factors() -> None:
    weight = np.abs(np.random.default_rng(0).standard_normal((4, 3, 1, 1)))
    weight[1::2] *= -1
    net = Net()
    x = net.node("Conv", net.relu("x"), net.weight(weight))
    x = net.node("PRelu", x, net.weight(np.array([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1)))
    net.conv(x, 4, 5, out="y")
    model = net.model(x=IMAGE)
    assert ops(changed(FOLD, model)) == ["Relu", "Conv", "Mul", "Conv"]
    program, before = program_of(model), program_of(model)
    run_passes(program, [FOLD, MergeLinear()])
    assert ops(program) == ["Relu", "Conv"]  # the first has no bias: both merge
    same_outputs(program, before, {"a/x": smooth_images(4, 3, 6)})


def test_the_exact_passes_fold_and_merge() -> None:
    net = Net()
    x = net.node("PRelu", net.conv("x", 3, 16, 1), net.weight(np.ones((16, 1, 1))))
    x = net.conv(x, 16, 4, 3, pads=[0] * 4)
    net.relu(x, out="y")
    model = net.model(x=IMAGE)
    program, before = program_of(model), program_of(model)
    run_exact(program)
    assert ops(program) == ["Conv", "Relu"]
    same_outputs(program, before, {"a/x": smooth_images(4, 3, 6)})
    assert run_passes(program, EXACT) == []
