"""Small networks with seeded weights, built node by node, and frames to run them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]


class Net:
    """A network under construction: every method adds a node and gives its output's name."""

    def __init__(self, seed: int = 0, dtype: type[np.floating[Any]] = np.float32) -> None:
        self.random = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def weight(self, array: Any, name: str | None = None) -> str:
        """A constant, cast to the network's dtype if it is floating."""
        values = np.asarray(array)
        if values.dtype.kind == "f":
            values = values.astype(self.dtype)
        name = name or f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        """Seeded normal numbers."""
        return self.random.standard_normal(shape) * scale

    def node(self, op: str, *inputs: str, out: str | None = None, **attrs: Any) -> str:
        """Any operator with one output."""
        name = out or f"{op.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], name=f"n_{name}", **attrs))
        return name

    def split(self, x: str, *widths: int, axis: int = -1) -> list[str]:
        """Parts of these widths."""
        names = [f"split{len(self._nodes)}_{part}" for part in range(len(widths))]
        sizes = self.weight(np.array(widths, np.int64))
        made = helper.make_node("Split", [x, sizes], names, name=f"n_{names[0]}", axis=axis)
        self._nodes.append(made)
        return names

    def conv(
        self,
        x: str,
        channels: int,
        filters: int,
        kernel: int = 3,
        *,
        bias: bool = True,
        out: str | None = None,
        **attrs: Any,
    ) -> str:
        """A 2-D convolution of the size of its input (pads kernel // 2 unless given)."""
        group = attrs.get("group", 1)
        fan_in = channels // group * kernel**2
        size = (filters, channels // group, kernel, kernel)
        weights = [self.weight(self.normal(*size, scale=(2 / fan_in) ** 0.5))]
        if bias:
            weights.append(self.weight(self.normal(filters, scale=0.1)))
        if "auto_pad" not in attrs:
            attrs.setdefault("pads", [kernel // 2] * 4)
        return self.node("Conv", x, *weights, out=out, **attrs)

    def gemm(self, x: str, inputs: int, outputs: int, *, out: str | None = None) -> str:
        """x W^T + b, as PyTorch exports it."""
        weight = self.weight(self.normal(outputs, inputs, scale=inputs**-0.5))
        return self.node(
            "Gemm", x, weight, self.weight(self.normal(outputs, scale=0.1)), out=out, transB=1
        )

    def linear(self, x: str, inputs: int, outputs: int, *, out: str | None = None) -> str:
        """MatMul and Add, on the last axis."""
        product = self.node(
            "MatMul", x, self.weight(self.normal(inputs, outputs, scale=inputs**-0.5))
        )
        return self.node("Add", product, self.weight(self.normal(outputs, scale=0.1)), out=out)

    def relu(self, x: str, *, out: str | None = None) -> str:
        """max(x, 0)."""
        return self.node("Relu", x, out=out)

    def head(self, x: str, channels: int, classes: int, *, out: str = "y") -> str:
        """Mean over the image and a Gemm: class scores [N, classes]."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", x))
        return self.gemm(flat, channels, classes, out=out)

    def model(
        self,
        outputs: Sequence[str] = ("y",),
        opset: int = 17,
        **inputs: Sequence[int | str],
    ) -> onnx.ModelProto:
        """The network with these inputs (name=shape) and outputs, whose shapes are inferred."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        graph = helper.make_graph(
            self._nodes,
            "net",
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            self._weights,
        )
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
        return onnx.shape_inference.infer_shapes(proto, strict_mode=True)


def perturbed(
    model: onnx.ModelProto, scale: float, seed: int = 0, only: Sequence[str] | None = None
) -> onnx.ModelProto:
    """A copy whose floating weights of rank >= 2 moved by `scale` of their standard deviation."""
    random = np.random.default_rng(seed)
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    for tensor in moved.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim < 2 or values.dtype.kind != "f" or (only and tensor.name not in only):
            continue
        noise = random.standard_normal(values.shape) * values.std() * scale
        tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(values.dtype), tensor.name))
    return moved


def smooth_images(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> Array:
    """Frames [count, channels, size, size] float32 with some structure: sums of random waves."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[0:size, 0:size] / size
    image = np.zeros((count, channels, size, size))
    for _ in range(4):
        phase = random.uniform(0, 2 * np.pi, (count, channels, 1, 1))
        along, across = random.integers(-2, 3, (2, count, 1, 1, 1))
        image += random.normal(size=(count, channels, 1, 1)) * np.sin(
            2 * np.pi * (along * row + across * column) + phase
        )
    return image.astype(np.float32)


@dataclass(frozen=True)
class ArrayFrames:
    """Frames in memory by program input, a FrameSet for tests; counts how often it is walked."""

    arrays: Mapping[str, Array]
    batch: int = 16
    walks: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    mixed: bool = False

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(next(iter(self.arrays.values())))

    @property
    def groups(self) -> None:
        """No two frames are alike."""
        return None

    @property
    def counts(self) -> list[int]:
        """Number of frames in each batch."""
        return [min(self.batch, self.count - start) for start in range(0, self.count, self.batch)]

    def batches(self, values: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Arrays for the inputs in `values`, batch by batch."""
        self.walks.append(tuple(values))
        for start in range(0, self.count, self.batch):
            yield {name: self.arrays[name][start : start + self.batch] for name in values}


# -- networks that several tests use ------------------------------------------------------------


def pyramid(seed: int = 0, widths: Sequence[int] = (4, 6, 8), classes: int = 5) -> onnx.ModelProto:
    """Convolutions c1, c2, c3 with ReLUs s1 [8, 8], s2 [4, 4], s3 [2, 2] after them, scores y."""
    net = Net(seed)
    x, channels = "x", 3
    for stage, width in enumerate(widths, 1):
        strides = [1, 1] if stage == 1 else [2, 2]
        x = net.relu(
            net.conv(x, channels, width, strides=strides, out=f"c{stage}"), out=f"s{stage}"
        )
        channels = width
    net.head(x, channels, classes)
    return net.model(x=("N", 3, 8, 8))


def branches(seed: int = 0) -> onnx.ModelProto:
    """Two branches from x: p1, p2 and q1, q2 (after ReLUs), concatenated for scores y."""
    net = Net(seed)
    ends: list[str] = []
    for branch in "pq":
        x = net.relu(net.conv("x", 3, 5), out=f"{branch}1")
        ends.append(net.relu(net.conv(x, 5, 4), out=f"{branch}2"))
    net.head(net.relu(net.conv(net.node("Concat", *ends, axis=1), 8, 6), out="r"), 6, 5)
    return net.model(x=("N", 3, 8, 8))


def tokens_net(seed: int = 0, width: int = 12, inner: int = 16) -> onnx.ModelProto:
    """Tokens x [6, 10]: linear t1, ReLU t2, linear t3, ReLU t4, scores y of their mean."""
    net = Net(seed)
    x = net.relu(net.linear("x", 10, width, out="t1"), out="t2")
    x = net.relu(net.linear(x, width, inner, out="t3"), out="t4")
    net.gemm(net.node("ReduceMean", x, axes=[1], keepdims=0), inner, 5, out="y")
    return net.model(x=("N", 6, 10))


def features_net(seed: int = 0, width: int = 12) -> onnx.ModelProto:
    """Features x [10]: Gemm f1, ReLU f2, Gemm f3, ReLU f4, scores y."""
    net = Net(seed)
    x = net.relu(net.gemm("x", 10, width, out="f1"), out="f2")
    x = net.relu(net.gemm(x, width, 14, out="f3"), out="f4")
    net.gemm(x, 14, 5, out="y")
    return net.model(x=("N", 10))


def strided(dtype: type[np.floating[Any]] = np.float32) -> onnx.ModelProto:
    """Maps, means, features and class scores over images [N, 3, 8, 6], strides [2, 1]."""
    net = Net(0, dtype)
    x = net.node("Relu", net.conv("x", 3, 5, strides=[2, 1]))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    y = net.node("Softmax", net.node("Sigmoid", x))
    return net.model((y,), x=["N", 3, 8, 6])
