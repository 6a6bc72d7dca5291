"""Two residual blocks and frames for them."""

from __future__ import annotations

from repsimc.compiler.graph.program import Program
from tests.nets.networks import ArrayFrames, Net, smooth_images
from tests.programs import program_of


def residual() -> Program:
    """conv1 - relu1 - two residual blocks - head; blocks are conv relu conv, plus their input."""
    net = Net()
    x = net.relu(net.conv("x", 3, 6, out="conv1"), out="relu1")
    for block in ("p", "q"):
        inner = net.relu(net.conv(x, 6, 6, out=f"{block}1"), out=f"{block}2")
        x = net.node("Add", net.conv(inner, 6, 6, out=f"{block}3"), x, out=f"{block}4")
        x = net.relu(x, out=f"{block}5")
    net.head(x, 6, 5)
    return program_of(net.model(x=("N", 3, 8, 8)))


def frames(count: int = 40, seed: int = 0, batch: int = 16) -> ArrayFrames:
    return ArrayFrames({"a/x": smooth_images(count, seed=seed)}, batch)
