"""Regions: parts of a program with one value in and one value out, which a cheap map could replace.

Found from the graph alone, by dominators and post-dominators, so that residual blocks, inverted
residuals, the attention and MLP halves of a transformer and plain runs of layers come out alike,
whatever their nodes are called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import numpy as np
import onnx_graphsurgeon as gs

from .free_size import equal_shapes
from .program import Program, model_of, node_inputs

# Dominators looked at above an exit. A region worth removing starts a few values above its end;
# regions that span several blocks are made of these by removing one after another.
_REACH = 48
_ROOT, _END = -1, -2
# Functions that change nothing when applied a second time.
_IDEMPOTENT = frozenset({"Relu", "Clip", "Identity"})
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention"})


@dataclass(frozen=True)
class Region:
    """The nodes between `entry` and `exit` (program value names), both values excluded from it.

    Nothing else enters and nothing else leaves. `nodes` are names in topological order. `whole`
    says that the exit post-dominates the entry: all that the entry does goes through the region;
    where it does not (a residual branch), other readers of the entry remain. `same_shape` says
    that the entry could stand in for the exit as it is. `skipped` says that a way leads around
    the work (a residual block), so that the exit is the entry plus something. `depth` is how many
    other regions contain this one.
    """

    entry: str
    exit: str
    nodes: tuple[str, ...]
    same_shape: bool
    whole: bool
    skipped: bool = False
    depth: int = 0

    @property
    def model(self) -> str:
        """The model in whose name the region goes; a shared trunk goes by its first model."""
        return model_of(self.exit)


@dataclass(frozen=True)
class Refusal:
    """A part of the program that would be a region, and why it is none."""

    entry: str
    exit: str
    reason: str


@dataclass(frozen=True)
class Regions:
    """All regions of a program in topological order of their exits, and what was refused."""

    found: tuple[Region, ...]
    refused: tuple[Refusal, ...]


def find_regions(program: Program) -> Regions:
    """The smallest region that ends at each value and does some work, nested ones included.

    Work is a linear operator with weights. Of regions with the same work one around which a skip
    leads is kept, else the smallest. It is widened by the ReLU behind it when the entry comes
    out of a ReLU too, because a second ReLU changes nothing.
    """
    flow = _Flow(program)
    found: dict[tuple[int, ...], Region] = {}
    refused: dict[tuple[int, ...], Refusal] = {}
    for exit_ in flow.floats:
        changed = False
        for entry in flow.above(exit_):
            alike = flow.alike(entry, exit_)
            if alike is None or (changed and not alike):
                continue
            inside = flow.between(entry, exit_)
            work = tuple(index for index in inside if flow.works[index])
            if not work:
                continue
            changed = True
            one = flow.region(entry, exit_, inside)
            if isinstance(one, Refusal):
                if one.reason:
                    refused.setdefault(work, one)
            elif alike or one.whole:
                known = found.get(work)
                if known is None or _preference(one) > _preference(known):
                    found[work] = one
            if alike:
                break
    for work in found:
        refused.pop(work, None)
    return Regions(
        tuple(flow.nested([flow.widened(one) for one in found.values()])),
        tuple(sorted(refused.values(), key=flow.position)),
    )


def _preference(region: Region) -> tuple[bool, bool, int]:
    """What makes one of two regions with the same work the better one."""
    return region.same_shape, region.skipped, -len(region.nodes)


class _Flow:
    """The dataflow of a program: who dominates whom, and which nodes lie between two values."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes = program.graph.nodes
        self.values = program.values()
        self.outputs = program.output_names
        self.inputs = program.input_names
        self.works = [_works(node) for node in self.nodes]
        self.order: dict[str, int] = {}  # values in the order in which they are made
        self._before: dict[str, int] = dict.fromkeys(self.inputs, 0)  # bits: nodes that lead here
        self._after: dict[str, int] = {}  # bits: nodes that follow from here
        self._readers: dict[str, list[gs.Node]] = {}
        graph: nx.DiGraph[Any] = nx.DiGraph()
        for name in sorted(self.inputs):
            graph.add_edge(_ROOT, name)
        for index, node in enumerate(self.nodes):
            before = 1 << index
            reads = {t.name for t in node_inputs(node) if isinstance(t, gs.Variable)}
            for name in sorted(reads):
                self._readers.setdefault(name, []).append(node)
                before |= self._before.get(name, 0)
                graph.add_edge(name, index)
            if not reads:
                graph.add_edge(_ROOT, index)
            for name in self._made(node):
                self._before[name] = before
                self.order[name] = len(self.order)
                graph.add_edge(index, name)
        for index in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[index]
            after = 1 << index
            for name in self._made(node):
                after |= self._after.get(name, 0)
            for tensor in node_inputs(node):
                if isinstance(tensor, gs.Variable):
                    self._after[tensor.name] = self._after.get(tensor.name, 0) | after
        for name in self.outputs:
            graph.add_edge(name, _END)
        self._dominator = _dominators(graph, _ROOT)
        self._post = _dominators(graph.reverse(copy=False), _END)
        self.floats = [name for name in self.order if self._is_float(name)]

    def _made(self, node: gs.Node) -> Iterator[str]:
        for tensor in node.outputs:
            if isinstance(tensor, gs.Variable) and not tensor.is_empty():
                yield tensor.name

    def _is_float(self, name: str) -> bool:
        value = self.values[name]
        if name in self.outputs or value.dtype not in (np.float32, np.float64):
            return False
        shape: Any = value.shape
        return shape is not None and len(shape) >= 2

    def above(self, exit_: str) -> Iterator[str]:
        """The values that dominate `exit_`, nearest first."""
        vertex: Any = exit_
        for _ in range(_REACH):
            vertex = self._dominator.get(vertex)
            if vertex is None or vertex == _ROOT:
                return
            if isinstance(vertex, str) and vertex in self.order:
                yield vertex

    def whole(self, entry: str, exit_: str) -> bool:
        """Whether `exit_` post-dominates `entry`."""
        vertex: Any = entry
        for _ in range(_REACH * 2):
            vertex = self._post.get(vertex)
            if vertex is None or vertex == _END:
                return False
            if vertex == exit_:
                return True
        return False

    def between(self, entry: str, exit_: str) -> list[int]:
        """Indices of the nodes on paths from `entry` to `exit_`, in topological order."""
        bits = self._before[exit_] & self._after.get(entry, 0)
        found: list[int] = []
        while bits:
            low = bits & -bits
            found.append(low.bit_length() - 1)
            bits ^= low
        return found

    def alike(self, entry: str, exit_: str) -> bool | None:
        """Whether the shapes are equal; None when the values are of different kinds."""
        one, other = self.values[entry], self.values[exit_]
        first: Any = one.shape
        second: Any = other.shape
        if one.dtype != other.dtype or first is None or len(first) != len(second):
            return None
        return equal_shapes(first[1:], second[1:])

    def region(self, entry: str, exit_: str, inside: Sequence[int]) -> Region | Refusal:
        """The region between the values, or the reason why there is none.

        The reason is empty where the part is simply not closed: something in the middle of it
        is read elsewhere, as happens at every second value of a residual network.
        """
        reason = self._fault(exit_, inside)
        if reason is not None:
            return Refusal(entry, exit_, reason)
        names = tuple(str(self.nodes[index].name) for index in inside)
        return Region(
            entry,
            exit_,
            names,
            bool(self.alike(entry, exit_)),
            self.whole(entry, exit_),
            self._skipped(entry, exit_, inside),
        )

    def _skipped(self, entry: str, exit_: str, inside: Sequence[int]) -> bool:
        reached = {entry}
        for index in inside:
            if not self.works[index] and any(
                tensor.name in reached for tensor in self.nodes[index].inputs
            ):
                reached.update(self._made(self.nodes[index]))
        return exit_ in reached

    def widened(self, region: Region) -> Region:
        """The region with the activation behind it, where the entry went through the same."""
        makers, readers = self.values[region.entry].inputs, self.values[region.exit].outputs
        if len(makers) != 1 or len(readers) != 1 or region.exit in self.outputs:
            return region
        maker, reader = makers[0], readers[0]
        if maker.op not in _IDEMPOTENT or not _same_function(maker, reader):
            return region
        end = reader.outputs[0].name
        if end in self.outputs or any(True for _ in reader.subgraphs()):
            return region
        return replace(
            region,
            exit=end,
            nodes=(*region.nodes, str(reader.name)),
            whole=self.whole(region.entry, end),
        )

    def _fault(self, exit_: str, inside: Sequence[int]) -> str | None:
        members = {id(self.nodes[index]) for index in inside}
        leak: str | None = None
        made = [name for index in inside for name in self._made(self.nodes[index])]
        for name in made:
            if name != exit_ and name in self.outputs:
                leak = f"{name} inside it is a model's output"
            for reader in self._readers.get(name, ()):
                if id(reader) in members:
                    continue
                if any(True for _ in reader.subgraphs()):
                    return f"{name} feeds the subgraph of {reader.name}"
                if name != exit_ and leak is None:
                    leak = ""
        if leak is not None:
            return leak
        for index in inside:
            if not self.works[index]:
                continue
            for tensor in self.nodes[index].inputs:
                if not isinstance(tensor, gs.Constant) or len(tensor.shape) < 2:
                    continue
                other = next((n for n in tensor.outputs if id(n) not in members), None)
                if other is not None:
                    return f"weight {tensor.name} inside it is shared with {other.name}"
        return None

    def nested(self, found: Sequence[Region]) -> Iterator[Region]:
        """The regions in order of their exits, each with the number of those that contain it."""
        sets = [frozenset(region.nodes) for region in found]
        ranked = sorted(range(len(found)), key=lambda i: self.position(found[i]))
        for index in ranked:
            region = found[index]
            depth = sum(sets[index] < other for other in sets)
            yield replace(region, depth=depth)

    def position(self, one: Region | Refusal) -> int:
        """Where in the program the exit is made."""
        return self.order[one.exit]


def _works(node: gs.Node) -> bool:
    """Whether the node is a linear operator with weights of its own."""
    return node.op in _LINEAR and any(
        isinstance(tensor, gs.Constant) and len(tensor.shape) >= 2 for tensor in node.inputs
    )


def _same_function(one: gs.Node, other: gs.Node) -> bool:
    """Whether two activations are the same function, bounds and all."""
    if one.op != other.op or dict(one.attrs) != dict(other.attrs):
        return False
    return len(one.inputs) == len(other.inputs) and all(
        first is second
        or (
            isinstance(first, gs.Constant)
            and isinstance(second, gs.Constant)
            and np.array_equal(first.values, second.values)
        )
        for first, second in zip(one.inputs[1:], other.inputs[1:])
    )


def _dominators(graph: nx.DiGraph[Any], start: int) -> dict[Any, Any]:
    found = nx.immediate_dominators(graph, start)
    return {vertex: parent for vertex, parent in found.items() if vertex != parent}
