"""A small U-Net: an encoder, a bottleneck of residual blocks, a decoder with skip connections."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tests.nets.networks import Array, Net, smooth_images
from tests.nets.residual import block

SIZE = 16


def unet(seed: int = 0, width: int = 8, blocks: int = 3) -> onnx.ModelProto:
    """Two maps y per pixel of x: e1 16x16, e2 8x8, m0.. 4x4, then d2 8x8 and d1 16x16.

    The two transposed convolutions u2 and u1 double the size, one with a kernel of 2, one of 3
    with an output padding; e2 and e1 are concatenated to what they make.
    """
    net = Net(seed)
    e1 = net.relu(net.conv("x", 3, width), out="e1")
    e2 = net.relu(net.conv(e1, width, 2 * width, strides=[2, 2]), out="e2")
    x = net.relu(net.conv(e2, 2 * width, 3 * width, strides=[2, 2]), out="m")
    for index in range(blocks):
        x = block(net, x, 3 * width, f"m{index}", 0.3)
    x = net.relu(up(net, x, 3 * width, 2 * width, kernel=2, out="u2"))
    x = net.node("Concat", x, e2, axis=1)
    x = net.relu(net.conv(x, 4 * width, 2 * width), out="d2")
    x = up(net, x, 2 * width, width, kernel=3, out="u1", pads=[1] * 4, output_padding=[1, 1])
    x = net.node("Concat", net.relu(x), e1, axis=1)
    x = net.relu(net.conv(x, 2 * width, width), out="d1")
    net.conv(x, width, 2, 1, out="y")
    return net.model(x=("N", 3, SIZE, SIZE))


def up(net: Net, x: str, channels: int, filters: int, kernel: int, out: str, **attrs: Any) -> str:
    """A transposed convolution that doubles the size."""
    scale = (8 / (channels * kernel**2)) ** 0.5  # an output reads a quarter of the taps
    weight = net.weight(net.normal(channels, filters, kernel, kernel, scale=scale))
    bias = net.weight(net.normal(filters, scale=0.1))
    return net.node("ConvTranspose", x, weight, bias, out=out, strides=[2, 2], **attrs)


def images(count: int, seed: int = 0) -> Array:
    """Frames for it."""
    return np.ascontiguousarray(smooth_images(count, size=SIZE, seed=seed))
