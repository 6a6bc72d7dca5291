"""Networks with one layer of each form that a fit can write, for tests of what writes weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from tests.nets.networks import Array, ArrayFrames, Net, smooth_images

Layer = Callable[[Net, str], str]
WIDTH = 12


def on_image(layer: Layer) -> onnx.ModelProto:
    """x [N, 3, 8, 8] -> convolution to 12 channels -> the layer, 12 to 12 -> scores y."""
    net = Net(1)
    x = layer(net, net.relu(net.conv("x", 3, WIDTH)))
    net.head(net.relu(x), WIDTH, 5)
    return net.model(x=("N", 3, 8, 8))


def on_features(layer: Layer) -> onnx.ModelProto:
    """x [N, 10] -> Gemm to 12 -> the layer, 12 to 12 -> scores y."""
    net = Net(1)
    x = layer(net, net.relu(net.gemm("x", 10, WIDTH)))
    net.gemm(net.relu(x), WIDTH, 5, out="y")
    return net.model(x=("N", 10))


def on_signal(layer: Layer) -> onnx.ModelProto:
    """x [N, 4, 16] -> 1-D convolution to 12 channels -> the layer, 12 to 12 -> scores y."""
    net = Net(1)
    first = net.weight(net.normal(WIDTH, 4, 3, scale=0.4))
    x = layer(net, net.relu(net.node("Conv", "x", first, pads=[1, 1])))
    net.head(net.relu(x), WIDTH, 5)
    return net.model(x=("N", 4, 16))


def _node(op: str, *shape: int, bias: bool = True, **attrs: Any) -> Layer:
    def layer(net: Net, x: str) -> str:
        weights = [net.weight(net.normal(*shape, scale=0.3))]
        weights += [net.weight(net.normal(WIDTH, scale=0.1))] if bias else []
        return net.node(op, x, *weights, out="layer", **attrs)

    return layer


def of_numbers(numbers: Callable[[Array], Array]) -> onnx.ModelProto:
    """A 3x3 convolution as the layer, its weights by `numbers` from normal ones."""

    def layer(net: Net, x: str) -> str:
        weight = net.weight(numbers(net.normal(WIDTH, WIDTH, 3, 3, scale=0.1)))
        bias = net.weight(net.normal(WIDTH, scale=0.1))
        return net.node("Conv", x, weight, bias, out="layer", pads=[1] * 4)

    return on_image(layer)


def weight_read_twice() -> onnx.ModelProto:
    """x -> convolution to 12 -> two 3x3 of one weight, s0 and s1, with biases of their own -> y."""
    net = Net(3)
    x = net.relu(net.conv("x", 3, WIDTH))
    weight = net.weight(net.normal(WIDTH, WIDTH, 3, 3, scale=0.1))
    for index in range(2):
        bias = net.weight(net.normal(WIDTH, scale=0.1))
        x = net.relu(net.node("Conv", x, weight, bias, pads=[1] * 4, out=f"s{index}"))
    net.head(x, WIDTH, 5)
    return net.model(x=("N", 3, 8, 8))


PADS = [1] * 4
LAYERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "convolution": lambda: on_image(_node("Conv", WIDTH, WIDTH, 3, 3, pads=PADS)),
    "without a bias": lambda: on_image(_node("Conv", WIDTH, WIDTH, 3, 3, bias=False, pads=PADS)),
    "in groups": lambda: on_image(_node("Conv", WIDTH, 4, 3, 3, pads=PADS, group=3)),
    "depthwise": lambda: on_image(_node("Conv", WIDTH, 1, 3, 3, pads=PADS, group=WIDTH)),
    "of one axis": lambda: on_signal(_node("Conv", WIDTH, WIDTH, 3, pads=[1, 1])),
    "transposed": lambda: on_image(
        _node("ConvTranspose", WIDTH, WIDTH, 2, 2, strides=[2, 2], bias=True)
    ),
    "Gemm": lambda: on_features(_node("Gemm", WIDTH, WIDTH)),
    "Gemm, turned, with factors": lambda: on_features(
        _node("Gemm", WIDTH, WIDTH, transB=1, alpha=2.5, beta=0.5)
    ),
    "Gemm with a negative factor": lambda: on_features(
        _node("Gemm", WIDTH, WIDTH, bias=False, alpha=-0.5)
    ),
    "product": lambda: on_features(_node("MatMul", WIDTH, WIDTH, bias=False)),
}
"""By the form of the layer, whose node is n_layer."""


def frames_of(model: onnx.ModelProto, count: int = 192, seed: int = 0) -> ArrayFrames:
    """Frames of the model's one input, as a/x: images, or normal numbers."""
    (value,) = model.graph.input
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
    if len(shape) == 3:
        return ArrayFrames({"a/x": smooth_images(count, *shape[:2], seed=seed)})
    random = np.random.default_rng(seed)
    return ArrayFrames({"a/x": random.normal(size=(count, *shape)).astype(np.float32)})
