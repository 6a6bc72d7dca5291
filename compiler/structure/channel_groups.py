"""Channels that can only go together: what makes them, what they pass through, what reads them.

A channel of a ReLU's output is a row of the filter before it, an entry of every number per channel
on its way (norms, PReLU slopes, depthwise filters), and a column of every filter that reads it;
sums and products with other values tie their channels to the same ones of those.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.arrays import Float64, Int64
from ..graph.free_size import size_of
from ..graph.layout import ACTIVATIONS, nodes_around
from ..graph.program import Program, is_standard, own_name
from ..graph.weights import array_of

_ALONE = ACTIVATIONS | {
    "Identity", "Dropout", "Abs", "Neg", "Exp", "Erf", "Sqrt", "Cast", "MaxPool", "AveragePool",
    "GlobalAveragePool", "GlobalMaxPool",
}  # fmt: skip
_TOGETHER = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_CHANNEL_AXES = {"Conv": 1, "BatchNormalization": 1, "Gemm": -1, "MatMul": -1} | dict.fromkeys(
    _POOLS, 1
)


@dataclass(frozen=True)
class Place:
    """Where a value carries the channels: the axis, and how many entries each takes there."""

    axis: int
    repeat: int = 1

    def entries(self, channels: Int64) -> Int64:
        """The positions on the axis that belong to the channels."""
        return (channels[:, None] * self.repeat + np.arange(self.repeat)).reshape(-1)


@dataclass(frozen=True)
class Slot:
    """An input of a node that has an entry for every channel, on that axis of the constant."""

    node: gs.Node
    index: int
    axis: int
    repeat: int = 1

    @property
    def constant(self) -> gs.Constant:
        """The weight."""
        tensor = self.node.inputs[self.index]
        assert isinstance(tensor, gs.Constant)
        return tensor


@dataclass(frozen=True)
class Sink:
    """An operator that mixes the channels: where its weight has a column for each."""

    value: str
    slot: Slot
    is_output: bool = False

    def columns(self) -> Float64:
        """The weight as [entries of the value, everything else]."""
        array = self.slot.constant.values.astype(np.float64)
        return np.moveaxis(array, self.slot.axis, 0).reshape(array.shape[self.slot.axis], -1)


@dataclass
class ChannelGroup:
    """Values that share their channels, and every weight that has an entry for each of them."""

    channels: int
    values: dict[str, Place] = field(default_factory=dict[str, Place])
    tensors: dict[str, gs.Variable] = field(default_factory=dict[str, gs.Variable])
    slots: list[Slot] = field(default_factory=list[Slot])
    sinks: list[Sink] = field(default_factory=list[Sink])
    grouped: list[gs.Node] = field(default_factory=list[gs.Node])  # depthwise: groups are channels
    reshapes: list[gs.Node] = field(default_factory=list[gs.Node])  # to [frames, entries]


class NoGroup(Exception):
    """Why the channels of a value cannot be taken apart."""


def group_of(program: Program, value: str) -> ChannelGroup | str:
    """The group of a value's channels, or why there is none: what stands in the way."""
    return ChannelGroups(program).of(value)


class ChannelGroups:
    """The groups of a program's channels, one after another: what stood in the way is remembered.

    Channels may be taken out between two questions; nodes and values have to stay.
    """

    def __init__(self, program: Program) -> None:
        self._known = program.values()
        self._outside = program.input_names | program.output_names
        self._nodes = {id(node) for node in program.graph.nodes}
        self._failed: dict[tuple[str, Place], str] = {}

    def of(self, value: str) -> ChannelGroup | str:
        """The group of a value's channels, or why there is none: what stands in the way."""
        start = self._known[value]
        place = channel_place(start)
        if place is None:
            return f"'{own_name(value)}' does not come from or go to an operator with channels"
        if (value, place) in self._failed:
            return self._failed[value, place]
        size = size_of(start.shape[place.axis])
        assert size is not None
        group = ChannelGroup(size)
        reason = ""
        try:
            _Walk(self._outside, self._nodes, group).run(start, place)
        except NoGroup as found:
            reason = str(found)
        if not reason and group.sinks:
            return group
        reason = reason or f"nothing mixes the channels of '{own_name(value)}'"
        # Who shares channels with a value whose channels must stay keeps them too.
        self._failed |= dict.fromkeys(group.values.items(), reason)
        self._failed[value, place] = reason
        return reason


def channel_place(value: gs.Variable) -> Place | None:
    """The channel axis by the operators around: 1 by a convolution, the last by a Gemm, MatMul."""
    shape: Any = value.shape
    if shape is None or len(shape) < 2:
        return None
    for node in nodes_around(value, ACTIVATIONS | _TOGETHER, len(shape)):
        if node.op in _CHANNEL_AXES:
            axis = _CHANNEL_AXES[node.op] % len(shape)
            return None if size_of(shape[axis]) is None else Place(axis)
    return None


def reduced_axes(node: gs.Node) -> Sequence[int] | None:
    """The axes that a reduction is over, as an attribute or a constant; None where not told."""
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        axes = [int(axis) for axis in np.ravel(node.inputs[1].values)]
    return axes


class _Walk:
    """Follows channels through the graph until operators make or mix them."""

    def __init__(self, outside: Set[str], nodes: Set[int], group: ChannelGroup) -> None:
        self.group = group
        self._outside = outside  # inputs and outputs of the graph
        self._nodes = nodes  # ids of those that are not in a body
        self._queue: deque[gs.Variable] = deque()
        self._done: set[int] = set()
        self._known: set[tuple[int, int]] = set()  # slots and sinks, by node and input

    def run(self, value: gs.Variable, place: Place) -> None:
        self._reach(value, place)
        while self._queue:
            value = self._queue.popleft()
            place = self.group.values[value.name]
            for node in [*value.inputs, *value.outputs]:
                self._visit(node, value, place)

    def _reach(self, value: gs.Tensor, place: Place) -> None:
        if not isinstance(value, gs.Variable):
            raise NoGroup(f"'{value.name}' is a constant")
        if value.name in self.group.values:
            if self.group.values[value.name] != place:
                raise NoGroup(f"'{own_name(value.name)}' is read with its channels on two axes")
            return
        if value.name in self._outside:
            raise NoGroup(f"'{own_name(value.name)}' is an input or output of the model")
        shape: Any = value.shape
        size = size_of(shape[place.axis]) if len(shape or ()) > place.axis else None
        if size != self.group.channels * place.repeat:
            raise NoGroup(f"the size of '{own_name(value.name)}' is not known")
        self.group.values[value.name] = place
        self.group.tensors[value.name] = value
        self._queue.append(value)

    def _visit(self, node: gs.Node, value: gs.Variable, place: Place) -> None:
        if id(node) in self._done and node.op not in ("Conv", "Gemm", "MatMul"):
            return
        self._done.add(id(node))
        if id(node) not in self._nodes or not is_standard(node):
            raise NoGroup(f"{node.op} '{own_name(node.name)}' is not looked into")
        made = any(value is tensor for tensor in node.outputs)
        if node.op in ("Conv", "Gemm", "MatMul"):
            self._operator(node, value, place, made)
        elif node.op in _ALONE or node.op == "BatchNormalization":
            self._alone(node, place)
        elif node.op in _TOGETHER:
            self._together(node, place)
        elif node.op in ("Flatten", "Reshape"):
            self._flatten(node, place, made)
        elif node.op == "ReduceMean":
            self._mean(node, place, made)
        else:
            raise NoGroup(f"{node.op} '{own_name(node.name)}' mixes or moves the channels")

    # -- operators ------------------------------------------------------------------------

    def _operator(self, node: gs.Node, value: gs.Variable, place: Place, made: bool) -> None:
        weight = node.inputs[1]
        name = f"{node.op} '{own_name(node.name)}'"
        if not isinstance(weight, gs.Constant) or array_of(weight).dtype.kind != "f":
            raise NoGroup(f"the weights of {name} are not constant floats")
        if any(not t.is_empty() and not isinstance(t, gs.Constant) for t in node.inputs[2:]):
            raise NoGroup(f"the bias of {name} is computed")
        shape = array_of(weight).shape
        if node.op == "Conv":
            if place.axis != 1 or place.repeat != 1:
                raise NoGroup(f"{name} has its channels on another axis")
            group = int(node.attrs.get("group", 1))
            if group == shape[0] == self.group.channels and shape[1] == 1 and group > 1:
                self._depthwise(node)
                return
            if group != 1:
                raise NoGroup(f"{name} has groups")
            outputs, inputs = 0, 1
        else:
            rank = len(value.shape)
            if len(shape) != 2 or place.axis != rank - 1 or node.attrs.get("transA", 0):
                raise NoGroup(f"{name} does not mix its last axis by a matrix")
            outputs, inputs = (0, 1) if node.attrs.get("transB", 0) else (1, 0)
        if not made:
            if value is not node.inputs[0]:
                raise NoGroup(f"{name} takes '{own_name(value.name)}' for its weights")
            is_output = node.outputs[0].name in self._outside
            sink = Sink(value.name, Slot(node, 1, inputs, place.repeat), is_output)
            if (id(node), -1) not in self._known:
                self._known.add((id(node), -1))
                self.group.sinks.append(sink)
            return
        if place.repeat != 1:
            raise NoGroup(f"{name} makes several entries per channel")
        self._slot(Slot(node, 1, outputs))
        if len(node.inputs) > 2 and not node.inputs[2].is_empty():
            self._broadcast_slot(node, 2, 2 if node.op == "Gemm" else 1, -1)

    def _depthwise(self, node: gs.Node) -> None:
        if (id(node), -2) in self._known:
            return
        self._known.add((id(node), -2))
        self.group.grouped.append(node)
        self._slot(Slot(node, 1, 0))
        if len(node.inputs) > 2 and not node.inputs[2].is_empty():
            self._slot(Slot(node, 2, 0))
        self._reach(node.inputs[0], Place(1))
        self._reach(node.outputs[0], Place(1))

    # -- channel by channel -----------------------------------------------------------------

    def _alone(self, node: gs.Node, place: Place) -> None:
        if any(not extra.is_empty() and extra.outputs for extra in node.outputs[1:]):
            raise NoGroup(f"{node.op} '{own_name(node.name)}' has several outputs")
        if node.op in _POOLS and (place.axis != 1 or place.repeat != 1):
            raise NoGroup(f"{node.op} '{own_name(node.name)}' pools over the channels")
        if node.op == "BatchNormalization":
            if place.axis != 1 or node.attrs.get("training_mode", 0):
                raise NoGroup(f"{node.op} '{own_name(node.name)}' has other channels")
            for index in range(1, 5):
                self._slot(Slot(node, index, 0, place.repeat))
        elif node.op == "PRelu":
            self._broadcast_slot(node, 1, len(node.outputs[0].shape), place.axis, place.repeat)
        self._reach(node.inputs[0], place)
        self._reach(node.outputs[0], place)

    def _together(self, node: gs.Node, place: Place) -> None:
        rank = len(node.outputs[0].shape or ())
        if not rank:
            raise NoGroup(f"the size of '{own_name(node.outputs[0].name)}' is not known")
        self._reach(node.outputs[0], place)
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                self._broadcast_slot(node, index, rank, place.axis, place.repeat)
                continue
            shape: Any = tensor.shape
            if shape is None:
                raise NoGroup(f"the size of '{own_name(tensor.name)}' is not known")
            axis = place.axis - (rank - len(shape))
            if axis < 0 or size_of(shape[axis]) == 1:
                continue  # one number for all channels
            if axis != place.axis:
                raise NoGroup(f"'{own_name(tensor.name)}' has its channels on another axis")
            self._reach(tensor, place)

    def _flatten(self, node: gs.Node, place: Place, made: bool) -> None:
        value, result = node.inputs[0], node.outputs[0]
        given, flat = value.shape, result.shape
        name = f"{node.op} '{own_name(node.name)}'"
        if given is None or flat is None or len(flat) != 2 or len(given) < 2:
            raise NoGroup(f"{name} moves the channels")
        sizes: list[Any] = [*given[1:], flat[1]]
        if not all(isinstance(size, int) for size in sizes):
            raise NoGroup(f"{name} has sizes that are not known")
        if math.prod(given[1:]) != flat[1] or node.attrs.get("axis", 1) != 1:
            raise NoGroup(f"{name} moves the channels")
        if node.op == "Reshape":
            wanted = node.inputs[1]
            if not isinstance(wanted, gs.Constant) or wanted.values.size != 2:
                raise NoGroup(f"the shape of {name} is computed")
            self.group.reshapes.append(node)
        if size_of(given[1]) != self.group.channels:
            raise NoGroup(f"{name} moves the channels")
        self._reach(value, Place(1))
        self._reach(result, Place(1, math.prod(given[2:])))

    def _mean(self, node: gs.Node, place: Place, made: bool) -> None:
        value, result = node.inputs[0], node.outputs[0]
        axes = reduced_axes(node)
        name = f"{node.op} '{own_name(node.name)}'"
        if not axes or value.shape is None or place.repeat != 1:
            raise NoGroup(f"{name} mixes the channels")
        rank = len(value.shape)
        reduced = sorted(axis % rank for axis in axes)
        keeps = bool(node.attrs.get("keepdims", 1))
        left = [axis for axis in range(rank) if keeps or axis not in reduced]
        before = left[place.axis] if made else place.axis
        if before in reduced or before not in left:
            raise NoGroup(f"{name} mixes the channels")
        self._reach(value, Place(before))
        self._reach(result, Place(left.index(before)))

    # -- weights with an entry per channel ----------------------------------------------------

    def _broadcast_slot(
        self, node: gs.Node, index: int, rank: int, axis: int, repeat: int = 1
    ) -> None:
        """A constant that broadcasts to `rank` axes: a slot, or one number for all channels."""
        constant = node.inputs[index]
        if not isinstance(constant, gs.Constant):
            raise NoGroup(f"'{own_name(constant.name)}' is computed")
        shape = array_of(constant).shape
        own = axis % rank - (rank - len(shape))
        if own < 0 or shape[own] == 1:
            return
        if shape[own] != self.group.channels * repeat:
            raise NoGroup(f"'{own_name(constant.name)}' does not fit the channels")
        self._slot(Slot(node, index, own, repeat))

    def _slot(self, slot: Slot) -> None:
        if not isinstance(slot.node.inputs[slot.index], gs.Constant):
            raise NoGroup(f"'{own_name(slot.node.inputs[slot.index].name)}' is computed")
        key = id(slot.node), slot.index
        if key not in self._known:
            self._known.add(key)
            self.group.slots.append(slot)
