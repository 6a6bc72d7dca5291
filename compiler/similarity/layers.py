"""The layers of a model that similarity is measured on, and why others are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.cuts import cuts
from ..graph.free_size import are_known, shown, size_of
from ..graph.layout import ACTIVATIONS, Layout, layout_of, pre_activation
from ..graph.program import Program, own_name

# What these make is their input in another form: no layer of its own.
_SAME = frozenset(
    {"Reshape", "Flatten", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Dropout", "Cast"}
)


@dataclass(frozen=True)
class Layer:
    """A layer: its own name, the value's name in the program, the shape of one frame's output."""

    name: str
    value: str
    shape: tuple[int, ...]
    channels_last: bool

    @property
    def channels(self) -> int:
        """The length of the channel axis."""
        return self.shape[-1 if self.channels_last else 0]

    @property
    def spatial(self) -> tuple[int, ...]:
        """The sizes of a frame's output beyond the channels: () for features."""
        return self.shape[:-1] if self.channels_last else self.shape[1:]


@dataclass(frozen=True)
class Skipped:
    """A layer that is not measured, and why."""

    model: str
    layer: str
    reason: str


def layers_of(program: Program, model: str) -> tuple[list[Layer], list[Skipped]]:
    """The model's layers in graph order: its single-value cuts and its activations.

    A value that only an activation function reads counts as part of the activation; reshapes of a
    value, inputs and outputs are left out. Values that are no float arrays with frames on axis 0
    and known sizes come back as skipped.
    """
    known = program.values()
    outside = program.input_names | program.output_names
    names = {name for cut in cuts(program, model, max_width=1) for name in cut.values}
    part_of_activation: set[str] = set()
    order: list[gs.Variable] = []
    for node in program.nodes_of(model):
        plain = not node.domain
        for value in node.outputs:
            if not isinstance(value, gs.Variable) or value.name in outside:
                continue
            if plain and node.op in ACTIVATIONS:
                part_of_activation.add(pre_activation(value, outside).name)
                order.append(value)
            elif value.name in names and not (plain and node.op in _SAME):
                order.append(value)
    layers: list[Layer] = []
    skipped: list[Skipped] = []
    for value in order:
        if value.name in part_of_activation and known[value.name].inputs[0].op not in ACTIVATIONS:
            continue
        reason = _reason(value)
        if reason:
            skipped.append(Skipped(model, own_name(value.name), reason))
            continue
        last = layout_of(value) is Layout.CHANNELS_LAST
        shape = tuple(size_of(size) or 0 for size in value.shape[1:])
        layers.append(Layer(own_name(value.name), value.name, shape, last))
    return layers, skipped


def _reason(value: gs.Variable) -> str:
    """Why the value cannot be measured, '' if it can."""
    shape: Any = value.shape
    if value.dtype is None or shape is None:
        return "its type or shape is not known before running"
    if np.dtype(value.dtype).kind not in "f":
        return f"it holds {np.dtype(value.dtype).name}, not floats"
    if len(shape) < 2:
        return "it has one number per frame or none"
    if len(shape) > 5:
        return f"it has {len(shape)} axes"
    if not are_known(shape[1:]):
        return f"its length is only known when it runs: {shown(shape)}"
    return ""
