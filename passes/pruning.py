"""Taking channels out of a group of values, with every weight entry that belongs to them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from ..compiler.graph.arrays import Float64, Int64
from ..compiler.graph.program import FreeNames
from ..compiler.graph.weights import array_of
from ..compiler.structure.channel_groups import ChannelGroup, Place, Sink, Slot
from ..compiler.structure.channel_removal import bias_slot


def take_out(
    names: FreeNames,
    group: ChannelGroup,
    removed: Int64,
    constants: Mapping[str, Float64],
) -> None:
    """Remove the channels; what they always were goes into the biases of what read them.

    `constants` is as for `removable`, `names` are the program's.
    """
    kept = np.setdiff1d(np.arange(group.channels), removed).astype(np.int64)
    for sink in group.sinks:
        _absorb(names, sink, removed, constants.get(sink.value))
    smaller: dict[tuple[int, int, int], gs.Constant] = {}
    for slot in [*group.slots, *(sink.slot for sink in group.sinks)]:
        constant = slot.constant
        key = (id(constant), slot.axis, slot.repeat)
        if key not in smaller:
            entries = Place(0, slot.repeat).entries(kept)
            array = np.ascontiguousarray(np.take(constant.values, entries, axis=slot.axis))
            smaller[key] = gs.Constant(names.free(f"{constant.name}.pruned"), array)
        slot.node.inputs[slot.index] = smaller[key]
    for node in group.grouped:
        node.attrs["group"] = len(kept)
    for node in group.reshapes:
        shape = node.inputs[1]
        assert isinstance(shape, gs.Constant)
        # The number of frames stays as it was written; the rest follows from the data.
        entries = np.array([shape.values.reshape(-1)[0], -1], shape.values.dtype)
        if entries[0] < 0:
            place = group.values[node.outputs[0].name]
            entries[1] = len(kept) * place.repeat
        name = names.free(f"{shape.name}.pruned")
        node.inputs[1] = gs.Constant(name, entries)
    for name, place in group.values.items():
        value = group.tensors[name]
        shape = list(value.shape)
        shape[place.axis] = len(kept) * place.repeat
        value.shape = tuple(shape)


def _absorb(names: FreeNames, sink: Sink, removed: Int64, numbers: Float64 | None) -> None:
    """Add to the sink's bias what the removed channels always gave it."""
    if numbers is None:
        return
    entries = Place(0, sink.slot.repeat).entries(removed)
    given = np.nan_to_num(numbers[entries], nan=0.0)
    array = sink.slot.constant.values.astype(np.float64)
    taken = np.take(array, entries, axis=sink.slot.axis)
    sizes = [1] * taken.ndim
    sizes[sink.slot.axis] = -1
    outputs = 0 if sink.slot.axis == 1 else 1
    weighted = taken * given.reshape(sizes)
    offset = weighted.sum(axis=tuple(a for a in range(taken.ndim) if a != outputs))
    node = sink.slot.node
    if not np.any(offset != 0):
        return
    if node.op == "Gemm":
        offset = offset * float(node.attrs.get("alpha", 1.0))
    slot = bias_slot(node) if node.op == "MatMul" else Slot(node, 2, 0)
    if slot is None:
        return  # a product without a bias: what the channels gave it is lost
    dtype = array_of(sink.slot.constant).dtype
    if len(slot.node.inputs) <= slot.index or slot.node.inputs[slot.index].is_empty():
        name = names.free(f"{node.name}.bias")
        constant = gs.Constant(name, offset.astype(dtype))
        node.inputs = [*node.inputs[:2], constant]
        if node.op == "Gemm":
            node.attrs["beta"] = 1.0
        return
    old = slot.constant
    if node.op == "Gemm":
        offset = offset / float(node.attrs.get("beta", 1.0))
    moved = old.values.astype(np.float64) + offset
    slot.node.inputs[slot.index] = gs.Constant(
        names.free(f"{old.name}.pruned"), np.ascontiguousarray(moved, dtype=dtype)
    )
