"""Two small networks trained on scikit-learn's digits that have something to fold.

`near_one` has PReLUs whose slopes were drawn to 1 in places; `over_wide` has batch norms whose
factors were drawn to 0, so that many channels say nothing. Both need torch and scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
CLASSES = 10
# How far slopes are drawn to 1 after every epoch, and the share of channels that are turned off.
_SLOPE_STEP = 0.08
_OFF_SHARE = 0.75


@dataclass(frozen=True)
class Digits:
    """Images [n, 1, 8, 8] float32 and their labels: to train on, to calibrate on, to judge on."""

    train: tuple[Array, Array]
    frames: Array
    judged: tuple[Array, Array]


def digits() -> Digits:
    """The 1 797 digits in a fixed order: 900 train, 297 unlabelled frames, 600 judged."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images = (found.images[:, None] / 8 - 1).astype(np.float32)
    labels = found.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    judged = (images[1197:], labels[1197:])
    return Digits((images[:900], labels[:900]), images[900:1197], judged)


def near_one(data: Digits, epochs: int = 30, seed: int = 0) -> onnx.ModelProto:
    """Convolutions and linear layers with PReLUs: some of slopes 1, some near 1, some neither."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.PReLU(16),
        nn.Conv2d(16, 48, 1), nn.PReLU(48),
        nn.Conv2d(48, 16, 3), nn.PReLU(16),
        nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(144, 96), nn.PReLU(96),
        nn.Linear(96, 32), nn.PReLU(32),
        nn.Linear(32, CLASSES),
    )  # fmt: skip
    slopes = [layer.weight for layer in net if isinstance(layer, nn.PReLU)]
    # To 1: what follows these can merge with what is before. The last leans towards it only.
    goals = ((slopes[1], 1.0, 1.0), (slopes[3], 1.0, 1.0), (slopes[4], 0.9, 0.5))

    def pull(_epoch: int) -> None:
        """A proximal step: slopes within reach of their goal arrive there."""
        for slope, goal, share in goals:
            off = slope.data - goal
            slope.data = goal + off.sign() * (off.abs() - share * _SLOPE_STEP).clamp(min=0)

    _train(net, data, epochs, seed, pull)
    return to_onnx(net)


def over_wide(data: Digits, epochs: int = 30, seed: int = 0) -> onnx.ModelProto:
    """Far more channels than digits need, most of them off: network slimming (1708.06519)."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(128, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(512, 128), nn.ReLU(),
        nn.Linear(128, CLASSES),
    )  # fmt: skip
    norms = [layer for layer in net if isinstance(layer, nn.BatchNorm2d)]

    off: dict[int, Any] = {}

    def shrink(epoch: int) -> None:
        """Half-way the norms' smallest factors become 0, with their offsets, and stay so."""
        for index, norm in enumerate(norms):
            gamma, beta = norm.weight.data, norm.bias.data
            if epoch == epochs // 2:
                off[index] = gamma.abs().argsort()[: int(_OFF_SHARE * len(gamma))]
            if index in off:
                gamma[off[index]] = 0
                beta[off[index]] = 0

    _train(net, data, epochs, seed, shrink)
    return to_onnx(net)


def _train(
    net: Any, data: Digits, epochs: int, seed: int, after_epoch: Callable[[int], None]
) -> None:
    import torch

    images, labels = (torch.from_numpy(array) for array in data.train)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    # Smoothing keeps scores near 10: rounding, which is what is measured, grows with them.
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(epochs):
        net.train()
        shuffled = torch.randperm(len(images), generator=order)
        for start in range(0, len(images), 50):
            rows = shuffled[start : start + 50]
            optimiser.zero_grad()
            loss(net(images[rows]), labels[rows]).backward()
            optimiser.step()
        after_epoch(epoch)
    net.eval()


def to_onnx(net: Any) -> onnx.ModelProto:
    """A torch Sequential as ONNX, node by node (torch's own exporter needs onnxscript)."""
    from torch import nn

    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(tensor: Any, name: str) -> str:
        weights.append(numpy_helper.from_array(tensor.detach().numpy().copy(), name))
        return name

    value = "input"
    for index, layer in enumerate(net):
        name = f"{type(layer).__name__.lower()}_{index}"
        inputs, attrs, op = [value], dict[str, Any](), type(layer).__name__
        if isinstance(layer, nn.Conv2d):
            op, pads = "Conv", list(layer.padding) * 2
            attrs = {"pads": pads, "kernel_shape": list(layer.kernel_size)}
        elif isinstance(layer, nn.Linear):
            op, attrs = "Gemm", {"transB": 1}
        elif isinstance(layer, nn.BatchNorm2d):
            op, attrs = "BatchNormalization", {"epsilon": layer.eps}
        elif isinstance(layer, nn.MaxPool2d):
            op = "MaxPool"
            attrs = {"kernel_shape": [layer.kernel_size] * 2, "strides": [layer.stride] * 2}
        elif isinstance(layer, nn.ReLU):
            op = "Relu"
        elif isinstance(layer, nn.PReLU):
            op = "PRelu"
            spatial = any(isinstance(later, nn.Flatten) for later in list(net)[index:])
            shaped = layer.weight.reshape(-1, 1, 1) if spatial else layer.weight
            inputs.append(weight(shaped, f"{name}.slope"))
        if op in ("Conv", "Gemm", "BatchNormalization"):
            inputs.append(weight(layer.weight, f"{name}.weight"))
            if layer.bias is not None:
                inputs.append(weight(layer.bias, f"{name}.bias"))
        if op == "BatchNormalization":
            inputs += [weight(layer.running_mean, f"{name}.mean")]
            inputs += [weight(layer.running_var, f"{name}.var")]
        value = name if index + 1 < len(net) else "scores"
        nodes.append(helper.make_node(op, inputs, [value], name, **attrs))
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("input", kind, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", kind, ["N", CLASSES])],
        weights,
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)
