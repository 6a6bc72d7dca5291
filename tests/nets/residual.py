"""Residual networks of a few blocks, and what is removed from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.fitting.reference import FitSize, Reference
from repsimc.compiler.graph.program import Program
from repsimc.passes.pipeline import CLEANING, run_passes
from tests.nets.networks import Array, ArrayFrames, Net, smooth_images

CHANNELS = 6


def residual_net(
    blocks: int = 4, *, seed: int = 0, scale: float = 0.5, channels: int = CHANNELS
) -> onnx.ModelProto:
    """A stem, `blocks` residual blocks b0, b1 ... of two convolutions, and a head.

    `scale` is the size of what a block adds to what goes through it.
    """
    net = Net(seed)
    x = net.relu(net.conv("x", 3, channels), out="stem")
    for index in range(blocks):
        x = block(net, x, channels, f"b{index}", scale)
    net.head(x, channels, 5)
    return net.model(x=["N", 3, 8, 8])


def block(net: Net, x: str, channels: int, name: str, scale: float = 0.5) -> str:
    """relu(x + conv(relu(conv(x)))), its values named after `name`."""
    hidden = net.relu(net.conv(x, channels, channels, out=f"{name}_c"), out=f"{name}_h")
    weight = net.weight(
        net.normal(channels, channels, 3, 3, scale=scale * (2 / (9 * channels)) ** 0.5)
    )
    branch = net.node(
        "Conv", hidden, weight, net.weight(np.zeros(channels)), out=f"{name}_d", pads=[1] * 4
    )
    return net.relu(net.node("Add", branch, x, out=f"{name}_s"), out=name)


def images(count: int = 200, seed: int = 0) -> Array:
    return smooth_images(count, seed=seed)


def frames(x: Array) -> ArrayFrames:
    return ArrayFrames({"a/x": x})


def outputs(program: Program, x: Array, name: str = "a/y") -> Array:
    segment = Executable(program, None, [name])
    return np.asarray(segment({segment.inputs[0]: x})[0])


def collapsed(
    program: Program,
    x: Array,
    actions: Sequence[CollapseAction],
    clean: bool = True,
    pools_behind: bool = True,
) -> Program:
    """A copy after the actions and their refit on x."""
    reference = Reference(program, frames(x), size=FitSize(pools_behind=pools_behind))
    rewritten = program.copy()
    run_passes(rewritten, passes_of(actions, lambda action: reference))
    if clean:
        run_passes(rewritten, CLEANING)
    return rewritten


def unexplained(found: Array, wanted: Array) -> float:
    """The share of the wanted values' variance that is not there."""
    return float(((found - wanted) ** 2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum())
