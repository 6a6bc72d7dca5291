"""The addition of a number per channel becomes a convolution's bias, where nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repsimc.passes.fold_bias import FoldBias
from tests.nets.networks import Net
from tests.passes.checking import changed, floats, ops


def added(
    op: str = "Conv",
    shape: tuple[int, ...] = (4, 3, 3, 3),
    constant: tuple[int, ...] = (1, 4, 1, 1),
    bias: bool = False,
    turned: bool = False,
    outputs: tuple[str, ...] = ("y",),
    **attributes: Any,
) -> Any:
    net = Net()
    weights = [net.weight(floats(*shape, seed=1))]
    if bias:
        weights.append(net.weight(floats(4, seed=2)))
    made = net.node(op, "x", *weights, out="made", **attributes)
    operands = [made, net.weight(floats(*constant, seed=3))]
    net.node("Add", *(reversed(operands) if turned else operands), out="y")
    channels = shape[1] * attributes.get("group", 1) if op == "Conv" else shape[0]
    return net.model(outputs, x=(2, channels, *[8] * (len(shape) - 2)))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"bias": True},
        {"turned": True},
        {"constant": (4, 1, 1)},
        {"shape": (4, 3, 3), "constant": (1, 4, 1)},
        {"shape": (4, 1, 3, 3), "group": 2},
        {"op": "ConvTranspose", "shape": (3, 4, 3, 3)},
        {"op": "ConvTranspose", "shape": (4, 2, 3, 3), "group": 2, "bias": True},
    ],
)
def test_it_becomes_the_bias(given: dict[str, Any]) -> None:
    program = changed(FoldBias(), added(**given))
    assert ops(program) == [given.get("op", "Conv")]


@pytest.mark.parametrize(
    "given",
    [
        {"constant": (1, 4, 1, 6)},  # a number per column too
        {"constant": (1, 1, 1, 6)},
        {"constant": ()},
        {"constant": (1, 1, 4, 1, 1)},  # the result would have an axis less
        {"constant": (2, 4, 1, 1)},
        {"outputs": ("y", "made")},
    ],
)
def test_must_not_fire(given: dict[str, Any]) -> None:
    assert ops(changed(FoldBias(), added(**given))) == ["Conv", "Add"]


def test_numbers_that_overflow_stay_apart() -> None:
    net = Net()
    most = np.full(4, 3e38, np.float32)
    made = net.node("Conv", "x", net.weight(np.zeros((4, 3, 1, 1))), net.weight(most), out="made")
    net.node("Add", made, net.weight(most.reshape(4, 1, 1)), out="y")
    model = net.model(x=(2, 3, 8, 8))
    program = changed(FoldBias(), model)
    assert ops(program) == ["Conv", "Add"]
