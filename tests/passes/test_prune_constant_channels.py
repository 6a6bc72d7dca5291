"""Channels that never change, or that nothing reads, go with all that belongs to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.graph.program import Program
from repsimc.compiler.structure.channel_groups import ChannelGroups, group_of
from repsimc.passes.prune_constant_channels import PruneConstantChannels
from tests.nets.networks import Net
from tests.passes.checking import changed, unchanged
from tests.programs import program_of

PRUNE = PruneConstantChannels(multiple=1)
IMAGE = ("N", 3, 6, 6)


def dead_conv(
    net: Net, x: str, channels: int, filters: int, dead: Sequence[int], bias: float = 0.0
) -> str:
    """A convolution of which some filters are zeros, with that bias."""
    weight, biases = net.normal(filters, channels, 3, 3), net.normal(filters)
    weight[list(dead)], biases[list(dead)] = 0, bias
    return net.node("Conv", x, net.weight(weight), net.weight(biases), pads=[1] * 4)


def widths(program: Program) -> list[tuple[int, ...]]:
    """The shapes of filters, in order."""
    return [
        tuple(node.inputs[1].shape[:2])
        for node in program.graph.nodes
        if node.op in ("Conv", "Gemm", "MatMul")
    ]


def chain(bias: float, pads: Sequence[int]) -> onnx.ModelProto:
    net = Net()
    x = net.relu(dead_conv(net, "x", 3, 8, [1, 2, 5], bias))
    net.conv(x, 8, 4, 3, pads=list(pads), out="y")
    return net.model(x=IMAGE)


@pytest.mark.parametrize("bias", [0.0, -2.0])
def test_filters_that_never_fire_go(bias: float) -> None:
    assert widths(changed(PRUNE, chain(bias, [1] * 4))) == [(5, 3), (4, 5)]


@pytest.mark.parametrize(("dead", "left"), [(3, 24), (8, 16), (9, 16), (23, 8)])
def test_multiples_of_channels_stay_multiples(dead: int, left: int) -> None:
    net = Net()
    x = net.relu(dead_conv(net, "x", 3, 24, range(dead)))
    net.conv(x, 24, 4, out="y")
    model = net.model(x=IMAGE)
    if left == 24:
        unchanged(PruneConstantChannels(), model)
    else:
        assert widths(changed(PruneConstantChannels(), model)) == [(left, 3), (4, left)]


def test_a_number_goes_into_the_next_bias() -> None:
    assert widths(changed(PRUNE, chain(1.5, [0] * 4))) == [(5, 3), (4, 5)]


def test_a_number_before_padding_stays() -> None:
    unchanged(PRUNE, chain(1.5, [1] * 4))


def test_columns_of_zeros_take_their_filters_along() -> None:
    net = Net()
    x = net.node("Tanh", net.conv("x", 3, 8))
    weight = net.normal(4, 8, 3, 3)
    weight[:, [0, 7]] = 0
    net.node("Conv", x, net.weight(weight), pads=[1] * 4, out="y")
    assert widths(changed(PRUNE, net.model(x=IMAGE))) == [(6, 3), (4, 6)]


def test_a_channel_that_one_of_two_reads_stays() -> None:
    net = Net()
    x = net.node("Tanh", net.conv("x", 3, 8))
    for name, column in (("y", 0), ("z", 3)):
        weight = net.normal(4, 8, 1, 1)
        weight[:, [column, 7]] = 0
        net.node("Conv", x, net.weight(weight), out=name)
    program = changed(PRUNE, net.model(("y", "z"), x=IMAGE))
    assert widths(program) == [(7, 3), (4, 7), (4, 7)]


def test_everything_on_the_way_gets_narrower() -> None:
    net = Net()
    x = dead_conv(net, "x", 3, 8, [0, 4])
    x = net.node("PRelu", x, net.weight(net.random.random((8, 1, 1))))
    x = net.node("Mul", x, net.weight(net.normal(1, 8, 1, 1)))
    norm = [net.normal(8), np.zeros(8), np.zeros(8), net.random.uniform(0.5, 2, 8)]
    x = net.node("BatchNormalization", x, *map(net.weight, norm))
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.relu(net.conv(x, 8, 8, 3, group=8, bias=False))
    squeeze = net.node("Sigmoid", net.conv(net.node("GlobalAveragePool", x), 8, 8, 1))
    x = net.node("Mul", x, squeeze)
    net.head(x, 8, 5)
    program = changed(PRUNE, net.model(x=IMAGE))
    assert widths(program) == [(6, 3), (6, 1), (6, 6), (5, 6)]
    assert program.graph.nodes[5].attrs["group"] == 6


def test_flattened_channels_take_all_their_columns() -> None:
    net = Net()
    x = net.relu(dead_conv(net, "x", 3, 8, [0, 4]))
    net.gemm(net.relu(net.node("Flatten", x)), 8 * 36, 5, out="y")
    assert widths(changed(PRUNE, net.model(x=IMAGE))) == [(6, 3), (5, 6 * 36)]


@pytest.mark.parametrize("size", [[-1, 288], [0, 288], [4, -1], [0, -1]])
def test_reshaped_channels_take_all_their_columns(size: list[int]) -> None:
    net = Net()
    x = net.relu(dead_conv(net, "x", 3, 8, [0, 4]))
    net.gemm(net.node("Reshape", x, net.weight(np.array(size))), 8 * 36, 5, out="y")
    assert widths(changed(PRUNE, net.model(x=(4, 3, 6, 6)))) == [(6, 3), (5, 6 * 36)]


def test_a_flattened_number_goes_into_the_bias() -> None:
    net = Net()
    x = net.relu(dead_conv(net, "x", 3, 8, [0, 4], 1.0))
    flat = net.node("Reshape", x, net.weight(np.array([0, -1])))
    net.linear(flat, 8 * 36, 5, out="y")
    assert widths(changed(PRUNE, net.model(x=IMAGE))) == [(6, 3), (6 * 36, 5)]


@pytest.mark.parametrize("trans", [0, 1])
def test_features_are_pruned(trans: int) -> None:
    net = Net()
    weight, bias = net.normal(10, 12), net.normal(12)
    weight[:, 3:6], bias[3:6] = 0, 2.0
    x = net.node(
        "Gemm", "x", net.weight(weight.T if trans else weight), net.weight(bias), transB=trans
    )
    net.node(
        "Gemm", net.relu(x), net.weight(net.normal(12, 5)), net.weight(net.normal(5)),
        alpha=0.5, beta=2.0, out="y",
    )  # fmt: skip
    program = changed(PRUNE, net.model(x=("N", 10)))
    assert widths(program) == [(9, 10) if trans else (10, 9), (9, 5)]


def test_tokens_are_pruned() -> None:
    net = Net()
    weight, bias = net.normal(10, 12), net.normal(12)
    weight[:, 3:6], bias[3:6] = 0, 2.0
    x = net.node("Add", net.node("MatMul", "x", net.weight(weight)), net.weight(bias))
    net.linear(net.relu(x), 12, 5, out="y")
    assert widths(changed(PRUNE, net.model(x=("N", 6, 10)))) == [(10, 9), (9, 5)]


def test_a_product_without_a_bias_cannot_take_a_number() -> None:
    net = Net()
    weight, bias = net.normal(10, 12), net.normal(12)
    weight[:, 3:6], bias[3:6] = 0, 2.0
    x = net.node("Add", net.node("MatMul", "x", net.weight(weight)), net.weight(bias))
    net.node("MatMul", net.relu(x), net.weight(net.normal(12, 5)), out="y")
    unchanged(PRUNE, net.model(x=("N", 6, 10)))


def test_sums_tie_channels() -> None:
    net = Net()
    x = net.relu(dead_conv(net, "x", 3, 8, [0, 4]))
    branch = dead_conv(net, x, 8, 8, [4, 5])
    net.conv(net.relu(net.node("Add", x, branch)), 8, 2, out="y")
    assert widths(changed(PRUNE, net.model(x=IMAGE))) == [(7, 3), (7, 7), (2, 7)]


def test_one_channel_stays() -> None:
    net = Net()
    x = net.relu(dead_conv(net, "x", 3, 4, [0, 1, 2, 3]))
    net.conv(x, 4, 2, out="y")
    assert widths(changed(PRUNE, net.model(x=IMAGE))) == [(1, 3), (2, 1)]


def blocked(what: str) -> tuple[Net, dict[str, Any]]:
    net = Net()
    x = net.relu(dead_conv(net, "x", 3, 8, [0, 4]), out="r")
    if what == "an output":
        net.conv(x, 8, 2, out="y")
        return net, {"outputs": ("y", "r")}
    if what == "concat":
        x = net.node("Concat", x, x, axis=1)
        net.conv(x, 16, 2, out="y")
    elif what == "groups":
        net.conv(x, 8, 2, group=2, out="y")
    elif what == "softmax":
        net.conv(net.node("Softmax", x, axis=1), 8, 2, out="y")
    elif what == "the other axis":
        net.linear(x, 6, 2, out="y")
    elif what == "a computed size":
        size = net.node("Shape", "z")
        net.gemm(net.node("Reshape", x, size), 288, 2, out="y")
        return net, {"z": ("N", 288)}
    return net, {}


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("an output", "'r' is an input or output of the model"),
        ("concat", "mixes or moves the channels"),
        ("groups", "has groups"),
        ("softmax", "mixes or moves the channels"),
        ("the other axis", "does not mix its last axis|on another axis"),
        ("a computed size", "moves the channels|is computed|not known"),
    ],
)
def test_what_stands_in_the_way_is_told(what: str, reason: str) -> None:
    net, more = blocked(what)
    model = net.model(x=IMAGE, **more)
    unchanged(PRUNE, model)
    found = group_of(program_of(model), "a/r")
    assert isinstance(found, str)
    assert re.search(reason, found), found


def test_what_stood_in_the_way_of_one_value_stands_in_that_of_all_it_reaches() -> None:
    net = Net()
    x = "x"
    for index in range(6):
        x = net.relu(net.node("Mul", x, net.weight(np.ones((8, 1, 1)))), out=f"r{index}")
    net.conv(x, 8, 4, out="y")
    groups = ChannelGroups(program_of(net.model(x=("N", 8, 6, 6))))
    found = [groups.of(f"a/r{index}") for index in range(6)]
    assert all(one == "'x' is an input or output of the model" for one in found)


def test_a_shared_filter_that_would_be_copied_stays() -> None:
    net = Net()
    weight = net.normal(16, 3, 3, 3)
    weight[[0, 4]] = 0
    shared, zeros = net.weight(weight), net.weight(np.zeros(16))
    x = net.relu(net.node("Conv", "x", shared, zeros, pads=[1] * 4))
    net.head(x, 16, 2)
    net.node("Conv", "x2", shared, zeros, out="z")
    unchanged(PRUNE, net.model(("y", "z"), x=IMAGE, x2=IMAGE))
