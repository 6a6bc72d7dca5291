"""Edits of a graph: nodes that go, and per-channel steps in a node's place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from .arrays import Float64
from .program import FreeNames, Note, Program, node_inputs
from .weights import array_of, nbytes_of


class ChannelAffine(NamedTuple):
    """A map per channel, x * slope + offset; both have shape [channels], or [1] for all alike.

    `axis` is the channels' axis in the value that is mapped; negative ones count from the end.
    """

    slope: Float64
    offset: Float64
    axis: int


class Edit:
    """Many edits of one graph, which take time by their number: `done` sets its list of nodes.

    Until then nodes that were removed are unlinked but still in `program.graph.nodes`, and new
    ones are linked but not yet there.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._gone: set[int] = set()
        self._placed: dict[int, Sequence[gs.Node]] = {}  # by id of a node that is gone
        self._kept: list[gs.Node] = []  # nodes that are gone: an id belongs to a living object

    @cached_property
    def names(self) -> FreeNames:
        """Where new nodes and values get their names."""
        return self.program.names()

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The value names of the graph's outputs, which an edit keeps."""
        return frozenset(self.program.output_names)

    def remove(self, nodes: Iterable[gs.Node]) -> list[int]:
        """Takes the nodes out, unlinked, with their metadata and docs.

        Returns for each the bytes of the weights that nothing reads any more. Nothing else may
        read the nodes' outputs.
        """
        removed = list(nodes)
        freed = _unlink(self.program, removed)
        self._gone |= {id(node) for node in removed}
        self._kept += removed
        return freed

    def put(self, nodes: Sequence[gs.Node], place: gs.Node) -> None:
        """Puts new nodes where a node that was removed stood."""
        self._placed[id(place)] = nodes

    def done(self) -> None:
        """Sets the graph's list of nodes."""
        if not self._gone:
            return
        nodes: list[gs.Node] = []
        stack = list(reversed(self.program.graph.nodes))
        while stack:
            node = stack.pop()
            if id(node) in self._gone:
                stack += reversed(self._placed.get(id(node), ()))
            else:
                nodes.append(node)
        self.program.graph.nodes = nodes
        self._gone, self._placed, self._kept = set(), {}, []


def remove_nodes(program: Program, nodes: Iterable[gs.Node]) -> list[int]:
    """Takes the nodes out of the graph: see `Edit.remove`."""
    edit = Edit(program)
    freed = edit.remove(nodes)
    edit.done()
    return freed


def _unlink(program: Program, nodes: Sequence[gs.Node]) -> list[int]:
    """Unlinks the nodes and what is in their bodies; the weight bytes that go with each.

    By identity and all at once: onnx-graphsurgeon takes a reader out of a tensor's list by
    comparing whole nodes, which for a weight with thousands of readers takes minutes.
    """
    parts: list[gs.Node] = []
    last: dict[int, int] = {}  # of each weight, the last of the nodes that reads it
    weights: dict[int, gs.Constant] = {}
    for place, node in enumerate(nodes):
        parts.append(node)
        parts += [inner for body in node.subgraphs(recursive=True) for inner in body.nodes]
        for tensor in node_inputs(node):
            if isinstance(tensor, gs.Constant):
                last[id(tensor)], weights[id(tensor)] = place, tensor
    gone = {id(part) for part in parts}
    for ends in (
        {id(tensor): tensor.outputs for part in parts for tensor in part.inputs},
        {id(tensor): tensor.inputs for part in parts for tensor in part.outputs},
    ):
        for linked in ends.values():
            list[gs.Node].__setitem__(linked, slice(None), [n for n in linked if id(n) not in gone])
    for part in parts:
        list[gs.Tensor].clear(part.inputs)
        list[gs.Tensor].clear(part.outputs)
        program.metadata.pop(part.name, None)
        program.notes.pop(part.name, None)
        program.docs.pop(part.name, None)
    freed = [0] * len(nodes)
    for key, place in last.items():
        if not weights[key].outputs:
            freed[place] += nbytes_of(weights[key])
    return freed


def sort_nodes(program: Program) -> None:
    """Puts the nodes in an order in which each comes after those that it reads from.

    By level, equal levels as they were: what onnx-graphsurgeon's `toposort` does by recursion,
    which ends at a thousand nodes in a row. Raises ValueError if they feed each other in a circle.
    """
    nodes = program.graph.nodes
    reads = {
        id(node): {id(maker): maker for tensor in node_inputs(node) for maker in tensor.inputs}
        for node in nodes
    }
    readers: dict[int, list[gs.Node]] = {}
    waiting: dict[int, int] = {}
    for node in nodes:
        makers = [key for key in reads[id(node)] if key in reads]
        waiting[id(node)] = len(makers)
        for key in makers:
            readers.setdefault(key, []).append(node)
    levels: dict[int, int] = {}
    ready = [node for node in nodes if not waiting[id(node)]]
    level = 0
    while ready:
        levels |= {id(node): level for node in ready}
        after: list[gs.Node] = []
        for node in ready:
            for reader in readers.get(id(node), ()):
                waiting[id(reader)] -= 1
                if not waiting[id(reader)]:
                    after.append(reader)
        ready, level = after, level + 1
    if len(levels) < len(nodes):
        raise ValueError("nodes feed each other in a circle")
    program.graph.nodes = sorted(nodes, key=lambda node: levels[id(node)])


def bypass(edit: Edit, node: gs.Node) -> int | None:
    """Readers of the node's output read its first input; the node goes.

    Where the output is a model's, the input's maker makes it instead. Returns the weight bytes
    that go with the node; None, and nothing is done, where neither can be.
    """
    program = edit.program
    value, result = node.inputs[0], node.outputs[0]
    outputs = edit.outputs
    if result.name not in outputs:
        program.replace_uses(result, value)
        return sum(edit.remove([node]))
    if value.name in outputs or not value.inputs or len(value.inputs) != 1:
        return None
    maker = value.inputs[0]
    place = next(index for index, made in enumerate(maker.outputs) if made is value)
    freed = sum(edit.remove([node]))
    program.replace_uses(value, result)
    maker.outputs[place] = result
    return freed


def put_steps(edit: Edit, value: gs.Tensor, node: gs.Node, affine: ChannelAffine, by: str) -> int:
    """A Mul and an Add by numbers per channel of `value` make the node's result in its place.

    Whichever of them changes nothing is left out, unless both would be. `by` is the pass's name.
    Returns the weight bytes saved (negative where there are more now).
    """
    program = edit.program
    result, name, rank = node.outputs[0], node.name, len(value.shape)
    sizes = [-1] + [1] * (rank - 1 - affine.axis % rank)
    note = Note(program.note(name).sources or (name,), by)
    freed = sum(edit.remove([node]))
    dtype, added = np.dtype(value.dtype), 0
    steps = [("Mul", affine.slope, 1.0), ("Add", affine.offset, 0.0)]
    steps = [step for step in steps if not np.all(step[1] == step[2])] or steps[:1]
    made: list[gs.Node] = []
    for op, array, _ in steps:
        if np.all(array == array[0]):
            array = array[:1]
        constant = gs.Constant(
            edit.names.free(f"{name}.{op.lower()}_by"),
            np.ascontiguousarray(array.reshape(sizes), dtype=dtype),
        )
        added += nbytes_of(constant)
        if made:
            middle = gs.Variable(edit.names.free(f"{name}.scaled"), result.dtype, result.shape)
            made[-1].outputs = [middle]
            value = middle
        own = name if not made else edit.names.free(f"{name}.{op.lower()}")
        made.append(gs.Node(op, own, {}, [value, constant]))
        program.notes[own] = note
    made[-1].outputs = [result]
    edit.put(made, node)
    return freed - added


def is_float(tensor: gs.Tensor) -> bool:
    """Whether the value is of float32 or float64."""
    dtype: Any = array_of(tensor).dtype if isinstance(tensor, gs.Constant) else tensor.dtype
    return dtype is not None and dtype in (np.float32, np.float64)
