"""Adapters: nodes that make a value of one part of the graph stand in for a value of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from .free_size import ratio_of, size_of
from .layout import Layout, layout_of, pre_activation
from .program import Note, Program


@dataclass(frozen=True)
class Link:
    """One value of a receiver and the donor's values that replace it (program names).

    Where a `region` goes, they are its exit and its entry.
    """

    receiver_value: str
    donor_values: tuple[str, ...]
    region: bool = False


def adapter_name(receiver_value: str) -> str:
    """The name of the adapter's value: what the receiver reads instead of its own."""
    return f"{receiver_value}.adapter"


def insert_adapter(
    program: Program, link: Link, replaced: gs.Variable, kernel: int, by: str
) -> gs.Node:
    """Insert an adapter with zero weights from the link's donors to the readers of `replaced`.

    Conv for maps [N, C, ...] (stride where the donor is larger, nearest Resize first where it is
    smaller), MatMul + Add for tokens [N, T, C], Gemm for features [N, C]; several donors are
    concatenated along their channels. Kernel 0: an Identity. `by` is the pass that does it.
    Returns the node to be fitted.
    """
    name = adapter_name(link.receiver_value)
    values = program.values()
    maps = layout_of(replaced) is Layout.CHANNELS_FIRST
    nodes: list[gs.Node] = []
    donors = [_present(program, values, donor) for donor in link.donor_values]
    donor = _joined(donors, name, maps, nodes)
    out = gs.Variable(name, replaced.dtype, replaced.shape)
    dtype = np.dtype(replaced.dtype)
    if kernel == 0:
        fitted = gs.Node("Identity", name, {}, [donor], [out])
    elif maps:
        source, strides = _resized(donor, replaced, name, nodes)
        rank = len(replaced.shape) - 2
        shape = (_channels(replaced, 1), _channels(donor, 1), *[kernel] * rank)
        weight = gs.Constant(f"{name}.weight", np.zeros(shape, dtype))
        bias = gs.Constant(f"{name}.bias", np.zeros(shape[0], dtype))
        attrs = {
            "kernel_shape": [kernel] * rank,
            "strides": list(strides),
            "pads": [kernel // 2] * (2 * rank),
        }
        fitted = gs.Node("Conv", name, attrs, [source, weight, bias], [out])
    else:
        shape = (_channels(donor, -1), _channels(replaced, -1))
        weight = gs.Constant(f"{name}.weight", np.zeros(shape, dtype))
        bias = gs.Constant(f"{name}.bias", np.zeros(shape[1], dtype))
        if len(replaced.shape) == 2:
            fitted = gs.Node("Gemm", name, {}, [donor, weight, bias], [out])
        else:
            product = gs.Variable(f"{name}.product", replaced.dtype, replaced.shape)
            fitted = gs.Node("MatMul", f"{name}.product", {}, [donor, weight], [product])
            nodes.append(gs.Node("Add", name, {}, [product, bias], [out]))
    nodes.append(fitted)
    program.graph.nodes.extend(nodes)
    for node in nodes:
        program.notes[node.name] = Note(made_by=by, gap=link.region)
    program.notes[name] = Note(made_by=by, replaces=replaced.name, gap=link.region)
    program.replace_uses(replaced, out, keep=nodes)
    return fitted


def _present(program: Program, values: Mapping[str, gs.Variable], name: str) -> gs.Variable:
    """The donor's value, or the adapter's that an earlier action put in its place."""
    for adapter, note in program.notes.items():
        if note.replaces == name:
            return values[adapter]
    return values[name]


def replaced_value(program: Program, receiver_value: str, kernel: int) -> gs.Variable:
    """The value whose readers an adapter takes over: before the activation, if it maps."""
    value = program.values()[receiver_value]
    return value if kernel == 0 else pre_activation(value, program.output_names)


def _joined(donors: list[gs.Variable], name: str, maps: bool, nodes: list[gs.Node]) -> gs.Variable:
    if len(donors) == 1:
        return donors[0]
    axis = 1 if maps else len(donors[0].shape) - 1
    shape = list(donors[0].shape)
    shape[axis] = sum(_channels(donor, axis) for donor in donors)
    joined = gs.Variable(f"{name}.donors", donors[0].dtype, tuple(shape))
    nodes.append(gs.Node("Concat", joined.name, {"axis": axis}, list(donors), [joined]))
    return joined


def _channels(value: gs.Variable, axis: int) -> int:
    channels = size_of(value.shape[axis])
    assert channels is not None
    return channels


def _resized(
    donor: gs.Variable, replaced: gs.Variable, name: str, nodes: list[gs.Node]
) -> tuple[gs.Variable, list[int]]:
    """The donor at a size from which a strided Conv reaches the replaced value's, and strides."""
    sizes = list(zip(donor.shape[2:], replaced.shape[2:]))
    strides = [ratio_of(a, b) or 1 for a, b in sizes]
    scales = [ratio_of(b, a) or 1 for a, b in sizes]
    if all(scale == 1 for scale in scales):
        return donor, strides
    shape = (donor.shape[0], donor.shape[1], *(b for _, b in sizes))
    resized = gs.Variable(f"{name}.resized", donor.dtype, shape)
    factors = gs.Constant(f"{name}.scales", np.array([1, 1, *scales], np.float32))
    attrs = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    inputs = [donor, gs.Variable.empty(), factors]
    nodes.append(gs.Node("Resize", resized.name, attrs, inputs, [resized]))
    return resized, strides
