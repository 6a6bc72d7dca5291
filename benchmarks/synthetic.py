"""Models of a given size with random weights: their speed and memory are those of real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Nodes and weights of a graph under construction."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array: np.ndarray) -> str:
        """A constant's name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        """A node's output."""
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n_{name}", **attributes))
        return name

    def conv(
        self, x: str, channels: int, filters: int, kernel: int, stride: int = 1, gain: float = 1.0
    ) -> str:
        """A convolution with He weights times `gain`, and a bias."""
        scale = gain * (2 / (channels * kernel**2)) ** 0.5
        weight = self.random.standard_normal((filters, channels, kernel, kernel)) * scale
        bias = self.random.standard_normal(filters) * 0.1
        return self.node(
            "Conv",
            x,
            self.weight(weight),
            self.weight(bias),
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )

    def save(self, path: Path, output: str, classes: int, kind: int = TensorProto.FLOAT) -> Path:
        """The model with input [N, 3, 224, 224] as a file."""
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("input", kind, ["N", 3, 224, 224])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", classes])],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path


def resnet50(path: Path, seed: int) -> Path:
    """A model of ResNet-50's shape: 25 M weights, 4 GMACs, 50 layers."""
    net = Builder(seed)
    x = net.node("Relu", net.conv("input", 3, 64, 7, 2))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            y = net.node("Relu", net.conv(x, channels, width, 1))
            y = net.node("Relu", net.conv(y, width, width, 3, stride))
            # Small, as trained networks have it: sums would grow from block to block.
            y = net.conv(y, width, 4 * width, 1, gain=0.25)
            if block == 0:
                x = net.conv(x, channels, 4 * width, 1, stride)
            channels = 4 * width
            x = net.node("Relu", net.node("Add", x, y))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    weight = net.random.standard_normal((channels, 1000)) * channels**-0.5
    return net.save(path, net.node("MatMul", x, net.weight(weight)), 1000)


def deep(path: Path, blocks: int, seed: int, channels: int = 256) -> Path:
    """A model of two layers [256, 14, 14] per block, cheap to run, on uint8 frames."""
    net = Builder(seed)
    x = net.node("Cast", "input", to=TensorProto.FLOAT)
    x = net.node("Mul", x, net.weight(np.full((1, 1, 1, 1), 1 / 128)))
    x = net.node("AveragePool", x, kernel_shape=[16, 16], strides=[16, 16])
    x = net.node("Relu", net.conv(x, 3, channels, 1))
    for _ in range(blocks):
        scale = net.weight(1 + 0.2 * net.random.standard_normal((1, channels, 1, 1)))
        shift = net.weight(0.2 * net.random.standard_normal((1, channels, 1, 1)))
        x = net.node("Relu", net.node("Add", net.node("Mul", x, scale), shift))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    weight = net.random.standard_normal((channels, 10))
    return net.save(path, net.node("MatMul", x, net.weight(weight)), 10, TensorProto.UINT8)
