"""Which axis of a value carries the channels, and where a value's activation function starts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Set
from enum import Enum
from itertools import chain, islice
from typing import Any

import onnx_graphsurgeon as gs

ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu",
     "Selu", "Gelu", "Mish", "Softplus", "Celu", "ThresholdedRelu"}
)  # fmt: skip
_CHANNELS_FIRST = frozenset(
    {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "MaxPool",
     "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Upsample", "DepthToSpace",
     "SpaceToDepth", "GroupNormalization", "LRN"}
)  # fmt: skip
_CHANNELS_LAST = frozenset({"MatMul", "LayerNormalization", "Gemm", "Attention"})
# Operators that keep the meaning of every axis, so that a neighbour's layout carries over.
_NEUTRAL = ACTIVATIONS | {"Add", "Sub", "Mul", "Div", "Identity", "Dropout", "Cast", "Erf", "Pad"}
_REACH = 64  # values that are followed
_MOST_NODES = 256  # that are looked at: a value may have thousands of readers


class Layout(Enum):
    """Where the channels are."""

    CHANNELS_FIRST = "channels first"  # [N, C, ...]: images, convolutions
    CHANNELS_LAST = "channels last"  # [N, ..., C]: tokens, features


def layout_of(value: gs.Variable) -> Layout:
    """The layout of a value of rank >= 2, told by the operators around it, else by its rank."""
    if value.shape is not None and len(value.shape) == 2:
        return Layout.CHANNELS_LAST
    for node in nodes_around(value, _NEUTRAL):
        if node.op in _CHANNELS_FIRST:
            return Layout.CHANNELS_FIRST
        if node.op in _CHANNELS_LAST:
            return Layout.CHANNELS_LAST
    rank = len(value.shape) if value.shape is not None else 0
    return Layout.CHANNELS_FIRST if rank >= 4 else Layout.CHANNELS_LAST


def nodes_around(
    value: gs.Variable, passed: Set[str], rank: int | None = None
) -> Iterator[gs.Node]:
    """The nodes that make and read a value, and those behind operators in `passed`; nearest first.

    With `rank` only values of that many axes are followed.
    """
    seen, queue, left = {id(value)}, deque[gs.Tensor]([value]), _MOST_NODES
    while queue and len(seen) < _REACH:
        tensor = queue.popleft()
        for node in islice(chain(tensor.inputs, tensor.outputs), left):
            left -= 1
            yield node
            for near in [*node.inputs, *node.outputs] if node.op in passed else ():
                fits = rank is None or (near.shape is not None and len(near.shape) == rank)
                if isinstance(near, gs.Variable) and fits and id(near) not in seen:
                    seen.add(id(near))
                    queue.append(near)


def pre_activation(value: gs.Variable, outputs: set[str]) -> gs.Variable:
    """The value before the activation function that made `value`, or `value` itself.

    An adapter is fitted there, because it is where the network is still linear; the receiver
    keeps its own activation. `outputs` names the graph outputs, which must stay what they are.
    """
    if len(value.inputs) != 1 or value.name in outputs:
        return value
    node: gs.Node = value.inputs[0]
    source: Any = node.inputs[0] if node.inputs else None
    if node.op in ACTIVATIONS and isinstance(source, gs.Variable) and len(source.outputs) == 1:
        return source
    return value
