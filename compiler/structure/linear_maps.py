"""Runs of nodes that are one affine map: an operator with its bias, or steps per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.arrays import Float64
from ..graph.program import Program, is_standard
from ..graph.weights import array_of
from .intervals import per_channel
from .windows import Window, window_of

_STEPS = frozenset({"Mul", "Div", "Add", "Sub", "BatchNormalization"})
_LINEAR = _STEPS | {"Conv", "Gemm", "MatMul"}
# Half precision is left alone: a product of two rounded weights is rounded once more.
_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True)
class Linear:
    """Nodes that are one affine map, and the map in float64.

    `weight` is [O, I / group, *kernel] where there is a window (channels on axis 1), [I, O] for a
    Gemm or MatMul (channels last), and [C] for per-channel steps. `bias` is [O] or [C].
    """

    nodes: tuple[gs.Node, ...]
    source: gs.Tensor
    result: gs.Tensor
    weight: Float64
    bias: Float64
    window: Window | None = None
    group: int = 1
    channels_first: bool = False

    @property
    def is_scale(self) -> bool:
        """Whether this is one factor and one offset per channel."""
        return self.weight.ndim == 1

    @property
    def operator(self) -> gs.Node:
        """The node that does the work."""
        return self.nodes[0]

    @property
    def channels(self) -> int:
        """Channels of the result."""
        if self.window is not None:
            return int(self.weight.shape[0])
        return int(self.weight.shape[-1])

    @property
    def is_gemm(self) -> bool:
        """Whether the operator is a Gemm: its input has rank 2."""
        return self.operator.op == "Gemm"

    def scaled(self, factor: Float64, offset: Float64) -> Linear:
        """The map with a factor and an offset per channel behind it."""
        shape = (-1, *[1] * (self.weight.ndim - 1)) if self.window is not None else (1, -1)
        weight = self.weight * factor.reshape(shape)
        return replace(self, weight=weight, bias=self.bias * factor + offset)

    def steps(self) -> int:
        """How many nodes it takes as new nodes."""
        if self.is_scale:
            return int(np.any(self.weight != 1)) + int(np.any(self.bias != 0))
        has_bias = self.window is None and not self.is_gemm and bool(np.any(self.bias != 0))
        return 1 + int(has_bias)

    def macs(self) -> int:
        """Multiply-accumulates per place of the result; a step counts one a channel, a norm two."""
        if self.is_scale:
            norms = sum(node.op == "BatchNormalization" for node in self.nodes)
            return self.channels * (len(self.nodes) + norms)
        bias = self.channels * (len(self.nodes) - 1)
        if self.window is not None:
            return int(self.weight.size)
        return int(self.weight.size) + bias

    def nbytes(self, itemsize: int) -> int:
        """Bytes of its weights as new constants."""
        if self.is_scale:
            parts = (np.any(self.weight != 1), np.any(self.bias != 0))
            return self.channels * itemsize * sum(map(int, parts))
        return (self.weight.size + (self.channels if np.any(self.bias != 0) else 0)) * itemsize


def may_merge(node: gs.Node, outputs: set[str]) -> bool:
    """Whether it can be worth to look at the node's weights: it is linear, and so is its reader."""
    if node.op not in _LINEAR or not node.outputs:
        return False
    if node.op in _STEPS:
        return True
    reader = reader_of(node.outputs[0], outputs)
    return reader is not None and reader.op in _LINEAR


def linear_at(node: gs.Node, outputs: set[str], channels_first: bool) -> Linear | None:
    """The map that starts at `node`: an operator, or the longest run of per-channel steps.

    `channels_first` says on which axis per-channel steps have their channels (1 or the last).
    """
    if not is_standard(node) or not node.inputs:
        return None
    if node.op == "Conv":
        return _conv(node)
    if node.op in ("Gemm", "MatMul"):
        return _matrix(node, outputs)
    return _scale(node, outputs, channels_first) if node.op in _STEPS else None


def fixed_values(program: Program) -> set[str]:
    """Values that have to stay: graph outputs, and what bodies of If, Loop and Scan read."""
    found = program.output_names
    for node in program.graph.nodes:
        for body in node.subgraphs(recursive=True):
            found |= {tensor.name for inner in body.nodes for tensor in inner.inputs}
            found |= {tensor.name for tensor in body.outputs}
    return found


def reader_of(value: gs.Tensor, outputs: set[str]) -> gs.Node | None:
    """The one node that reads the value, None where there are others or it is an output."""
    if value.name in outputs or len(value.outputs) != 1:
        return None
    reader = value.outputs[0]
    return reader if sum(tensor is value for tensor in reader.inputs) == 1 else None


def _constants(tensors: Sequence[gs.Tensor]) -> list[Float64] | None:
    """Float constants as float64, absent ones left out; None if one is computed or no float."""
    found: list[Float64] = []
    for tensor in tensors:
        if tensor.is_empty():
            continue
        if not isinstance(tensor, gs.Constant) or np.dtype(array_of(tensor).dtype) not in _DTYPES:
            return None
        array = tensor.values.astype(np.float64)
        if not np.isfinite(array).all():
            return None
        found.append(array)
    return found


def _conv(node: gs.Node) -> Linear | None:
    constants = _constants(node.inputs[1:])
    if not constants or isinstance(node.inputs[0], gs.Constant):
        return None
    weight = constants[0]
    window = window_of(node, tuple(int(size) for size in weight.shape[2:]))
    if window is None:
        return None
    bias = constants[1] if len(constants) > 1 else np.zeros(weight.shape[0])
    group = int(node.attrs.get("group", 1))
    return Linear((node,), node.inputs[0], node.outputs[0], weight, bias, window, group, True)


def _matrix(node: gs.Node, outputs: set[str]) -> Linear | None:
    constants = _constants(node.inputs[1:])
    if not constants or constants[0].ndim != 2 or isinstance(node.inputs[0], gs.Constant):
        return None
    weight, result = constants[0], node.outputs[0]
    shape = node.inputs[0].shape
    if node.op == "Gemm":
        if node.attrs.get("transA", 0):
            return None
        weight = (weight.T if node.attrs.get("transB", 0) else weight) * float(
            node.attrs.get("alpha", 1.0)
        )
        bias = np.zeros(weight.shape[1])
        if len(constants) > 1:
            row = per_channel(constants[1], 2, 1, weight.shape[1])
            if row is None:
                return None
            bias = row * float(node.attrs.get("beta", 1.0))
        return Linear((node,), node.inputs[0], result, weight, bias)
    if shape is None or len(shape) < 2:
        return None
    nodes, bias = [node], np.zeros(weight.shape[1])
    add = reader_of(result, outputs)
    if add is not None and add.op == "Add" and not add.domain:
        other = next(tensor for tensor in add.inputs if tensor is not result)
        given = _constants([other])
        row = per_channel(given[0], len(shape), -1, weight.shape[1]) if given else None
        if row is not None:
            nodes.append(add)
            bias, result = row, add.outputs[0]
    return Linear(tuple(nodes), node.inputs[0], result, weight, bias)


def _scale(node: gs.Node, outputs: set[str], channels_first: bool) -> Linear | None:
    value = node.inputs[0]
    if isinstance(value, gs.Constant):
        value = next((t for t in node.inputs if isinstance(t, gs.Variable)), value)
    shape: Any = value.shape
    axis = 1 if channels_first else -1
    if isinstance(value, gs.Constant) or shape is None or len(shape) < 2:
        return None
    channels = shape[axis]
    if not isinstance(channels, int) or channels < 1:
        return None
    dtype = np.dtype(np.float32 if value.dtype is None else value.dtype)
    nodes: list[gs.Node] = []
    source, factor, offset = value, np.ones(channels), np.zeros(channels)
    step: gs.Node | None = node
    while step is not None:
        pair = _step(step, value, len(shape), axis, channels)
        if pair is None:
            break
        with np.errstate(over="ignore", invalid="ignore"):
            further = factor * pair[0], offset * pair[0] + pair[1]
            numbers = all(_holds(array, dtype) for array in further)
        if not numbers:
            break
        factor, offset = further
        nodes.append(step)
        value = step.outputs[0]
        step = reader_of(value, outputs)
    if not nodes:
        return None
    return Linear(tuple(nodes), source, value, factor, offset, channels_first=channels_first)


def _holds(array: Float64, dtype: np.dtype[Any]) -> bool:
    """Whether the numbers can be told in that type: 0 times one that is too large is no number."""
    kind = np.finfo(dtype if dtype in _DTYPES else np.float32)
    size = np.abs(array[array != 0])
    return bool(np.isfinite(size).all() and (size <= kind.max).all() and (size >= kind.tiny).all())


def _step(
    node: gs.Node, value: gs.Tensor, rank: int, axis: int, channels: int
) -> tuple[Float64, Float64] | None:
    """Factor and offset per channel of one node on `value`."""
    if not is_standard(node) or node.op not in _STEPS:
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op == "BatchNormalization":
        constants = _constants(node.inputs[1:])
        plain = (
            node.attrs.get("training_mode", 0) == 0
            and node.attrs.get("spatial", 1) == 1
            and all(extra.is_empty() for extra in node.outputs[1:])
            and node.inputs[0] is value
            and (axis == 1 or rank == 2)
        )
        if not plain or constants is None or len(constants) != 4:
            return None
        scale, shift, mean, variance = constants
        with np.errstate(all="ignore"):
            factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        return factor, shift - mean * factor
    if len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    constants = _constants([other])
    if not constants or isinstance(value, gs.Constant):
        return None
    number = per_channel(constants[0], rank, axis, channels)
    if number is None:
        return None
    first = node.inputs[0] is value
    if node.op == "Mul":
        return number, zeros
    if node.op == "Add":
        return ones, number
    if node.op == "Sub":
        return (ones, -number) if first else (-ones, number)
    return (1 / number, zeros) if first and np.all(number != 0) else None
