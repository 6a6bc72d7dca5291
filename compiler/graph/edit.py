"""Edits of a graph: nodes that go, and per-channel steps in a node's place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from .arrays import Float64
from .program import Note, Program, node_inputs
from .weights import array_of, nbytes_of


class ChannelAffine(NamedTuple):
    """A map per channel, x * slope + offset; both have shape [channels], or [1] for all alike.

    `axis` is the channels' axis in the value that is mapped; negative ones count from the end.
    """

    slope: Float64
    offset: Float64
    axis: int


def remove_nodes(program: Program, nodes: Iterable[gs.Node]) -> list[int]:
    """Takes the nodes out of the graph, unlinked, with their metadata and docs.

    Returns for each the bytes of the weights that nothing reads any more. Nothing else may
    read the nodes' outputs.
    """
    removed = list(nodes)
    freed: list[int] = []
    for node in removed:
        read = {id(tensor): tensor for tensor in node_inputs(node)}
        bodies = list(node.subgraphs(recursive=True))
        for part in [node, *(inner for body in bodies for inner in body.nodes)]:
            part.inputs.clear()
            part.outputs.clear()
            program.metadata.pop(part.name, None)
            program.notes.pop(part.name, None)
            program.docs.pop(part.name, None)
        unread = [t for t in read.values() if isinstance(t, gs.Constant) and not t.outputs]
        freed.append(sum(map(nbytes_of, unread)))
    gone = {id(node) for node in removed}
    program.graph.nodes = [node for node in program.graph.nodes if id(node) not in gone]
    return freed


def bypass(program: Program, node: gs.Node) -> int | None:
    """Readers of the node's output read its first input; the node goes.

    Where the output is a model's, the input's maker makes it instead. Returns the weight bytes
    that go with the node; None, and nothing is done, where neither can be.
    """
    value, result = node.inputs[0], node.outputs[0]
    outputs = program.output_names
    if result.name not in outputs:
        program.replace_uses(result, value)
        return sum(remove_nodes(program, [node]))
    if value.name in outputs or not value.inputs or len(value.inputs) != 1:
        return None
    maker = value.inputs[0]
    place = next(index for index, made in enumerate(maker.outputs) if made is value)
    freed = sum(remove_nodes(program, [node]))
    program.replace_uses(value, result)
    maker.outputs[place] = result
    program.graph.toposort()
    return freed


def put_steps(
    program: Program, value: gs.Tensor, node: gs.Node, affine: ChannelAffine, by: str
) -> int:
    """A Mul and an Add by numbers per channel of `value` make the node's result in its place.

    Whichever of them changes nothing is left out, unless both would be. `by` is the pass's name.
    Returns the weight bytes saved (negative where there are more now).
    """
    result, name, rank = node.outputs[0], node.name, len(value.shape)
    sizes = [-1] + [1] * (rank - 1 - affine.axis % rank)
    note = Note(program.note(name).sources or (name,), by)
    place = next(i for i, other in enumerate(program.graph.nodes) if other is node)
    freed = sum(remove_nodes(program, [node]))
    dtype, added = np.dtype(value.dtype), 0
    steps = [("Mul", affine.slope, 1.0), ("Add", affine.offset, 0.0)]
    steps = [step for step in steps if not np.all(step[1] == step[2])] or steps[:1]
    made: list[gs.Node] = []
    for op, array, _ in steps:
        if np.all(array == array[0]):
            array = array[:1]
        constant = gs.Constant(
            program.unique_name(f"{name}.{op.lower()}_by"),
            np.ascontiguousarray(array.reshape(sizes), dtype=dtype),
        )
        added += nbytes_of(constant)
        if made:
            middle = gs.Variable(program.unique_name(f"{name}.scaled"), result.dtype, result.shape)
            made[-1].outputs = [middle]
            value = middle
        own = name if not made else program.unique_name(f"{name}.{op.lower()}")
        made.append(gs.Node(op, own, {}, [value, constant]))
        program.notes[own] = note
    made[-1].outputs = [result]
    program.graph.nodes[place:place] = made
    return freed - added


def is_float(tensor: gs.Tensor) -> bool:
    """Whether the value is of float32 or float64."""
    dtype: Any = array_of(tensor).dtype if isinstance(tensor, gs.Constant) else tensor.dtype
    return dtype is not None and dtype in (np.float32, np.float64)
