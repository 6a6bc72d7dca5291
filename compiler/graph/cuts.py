"""Cuts: the sets of values through which all of a model's data flows.

A cut separates every input of a model from every output: knowing the cut's values is enough to
compute the outputs. What only carries the *shape* of a value (Shape, Size and what follows from
them) is not data and spoils no cut; after a rewrite at the cut, readers of such shapes still
read the original input. Bodies of If, Loop and Scan are opaque: their node is one vertex.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
from networkx.algorithms.flow import shortest_augmenting_path

from .program import Program, node_inputs

_SHAPE_ONLY = frozenset({"Shape", "Size", "EyeLike", "RandomNormalLike", "RandomUniformLike"})
# A stretch without single-value cuts longer than this share of the nodes is searched for sets.
_LONG_STRETCH = 0.3
# At most this many starting points for sets, spread evenly over the depth: each is one max-flow.
_STARTS = 32

_SOURCE, _SINK = "source", "sink"
_Vertex = str | tuple[str, str]


@dataclass(frozen=True)
class Cut:
    """Values that together separate a model's inputs from its outputs.

    `values` are in graph order, the model's own inputs first (a set may hold one: in
    x + f(x) the cut after f is {x, f(x)}). `depth` is the share of the model's nodes, by count,
    that is needed to compute them: above 0, 1 for the cut that is the outputs themselves.
    """

    values: tuple[str, ...]
    depth: float


def cuts(program: Program, model: str, max_width: int = 4) -> list[Cut]:
    """The model's cuts, by depth: every single value, and small sets where there are none.

    Single values are the dominators of the outputs in the dataflow graph. Where they leave a
    stretch of more than 30 % of the nodes (FPN, U-Net, detectors with several outputs), minimum
    vertex cuts of up to `max_width` values are added, of increasing depth, and the borders they
    start from (the features that a detector's heads read). Equal programs give equal cuts.
    """
    flow = _Dataflow(program, model)
    if not flow.order:
        return []
    found = [Cut((value,), flow.depth([value])) for value in flow.dominators()]
    if max_width > 1:
        known = {cut.values for cut in found}
        for low, high in _long_stretches([cut.depth for cut in found]):
            for values in flow.small_sets(low, high, max_width):
                if values not in known and low < flow.depth(values) < high:
                    known.add(values)
                    found.append(Cut(values, flow.depth(values)))
    return sorted(found, key=lambda cut: (cut.depth, len(cut.values), cut.values))


def _long_stretches(depths: list[float]) -> Iterator[tuple[float, float]]:
    borders = [0.0, *sorted(depths), 1.0]
    for low, high in pairwise(borders):
        if high - low > _LONG_STRETCH:
            yield low, high


class _Dataflow:
    """The values of a model that carry its data from inputs to outputs, and who reads whom."""

    def __init__(self, program: Program, model: str) -> None:
        entry = program.models[model]
        nodes = program.nodes_of(model)
        self.inputs = [*dict.fromkeys(entry.inputs.values())]
        outputs = set(entry.outputs.values())
        ancestors: dict[str, int] = {}  # of every value: bit i is set if it needs node i
        carries: set[str] = set(self.inputs)
        edges: list[tuple[int, list[str], list[str]]] = []
        for index, node in enumerate(nodes):
            made = [value.name for value in node.outputs if not value.is_empty()]
            needed = 1 << index
            for tensor in node_inputs(node):
                needed |= ancestors.get(tensor.name, 0)
            for name in made:
                ancestors[name] = needed
            read = [t.name for t in node_inputs(node) if t.name in carries]
            if node.op not in _SHAPE_ONLY and read:
                carries.update(made)
                edges.append((index, [*dict.fromkeys(read)], made))
        leads = set(outputs)  # backwards: what reaches an output as data
        for _, read, made in reversed(edges):
            if leads.intersection(made):
                leads.update(read)
        self.outputs = outputs & carries
        self.edges = [
            (index, [name for name in read if name in leads], [n for n in made if n in leads])
            for index, read, made in edges
            if leads.intersection(made)
        ]
        self.ancestors = ancestors
        self.below = self._count_below()
        self.order = [name for _, _, made in self.edges for name in made]
        self.total = len(nodes)

    def _count_below(self) -> dict[str, int]:
        """Of every value, how many nodes its data reaches."""
        reached: dict[str, int] = {}
        for index, read, made in reversed(self.edges):
            bits = 1 << index
            for name in made:
                bits |= reached.get(name, 0)
            for name in read:
                reached[name] = reached.get(name, 0) | bits
        return {name: bits.bit_count() for name, bits in reached.items()}

    def depth(self, values: Iterable[str]) -> float:
        needed = 0
        for name in values:
            needed |= self.ancestors.get(name, 0)
        return needed.bit_count() / self.total

    def dominators(self) -> list[str]:
        """The values that every path from an input to an output passes, in order of depth."""
        graph: nx.DiGraph[_Vertex] = nx.DiGraph()
        graph.add_edges_from((_SOURCE, ("value", name)) for name in self.inputs)
        graph.add_edges_from((("value", name), _SINK) for name in sorted(self.outputs))
        for index, read, made in self.edges:
            graph.add_edges_from((("value", name), ("node", str(index))) for name in read)
            graph.add_edges_from((("node", str(index)), ("value", name)) for name in made)
        if _SINK not in graph or not nx.has_path(graph, _SOURCE, _SINK):
            return []
        above = nx.immediate_dominators(graph, _SOURCE)
        found: list[str] = []
        vertex: _Vertex = above[_SINK]
        while vertex != _SOURCE:
            if isinstance(vertex, tuple) and vertex[0] == "value" and vertex[1] in self.ancestors:
                found.append(vertex[1])
            vertex = above[vertex]
        return found[::-1]

    def small_sets(self, low: float, high: float, max_width: int) -> Iterator[tuple[str, ...]]:
        """Cuts behind starting points whose depth lies between `low` and `high`.

        A starting point v puts everything that v needs before the cut. Of the points of about
        one depth the one with the smallest border is taken, and of those the one that most
        nodes follow: that is the spine of a detector, not its heads, so that the cut holds the
        features which the heads read instead of the heads' many outputs.
        Each point gives its border, if small enough, and the minimum cut behind it, if that is
        narrower (it may lie far behind: just before a detector's two outputs).
        """
        starts: dict[int, list[tuple[int, int, int, str]]] = {}
        for position, name in enumerate(self.order):
            depth = self.depth([name])
            if low < depth < high:
                place = int((depth - low) / (high - low) * _STARTS)
                border = len(self._border(self.ancestors[name]))
                rank = (border, -self.below.get(name, 0), position, name)
                starts.setdefault(place, []).append(rank)
        graph = self._network()
        for place in sorted(starts):
            border = self._border(self.ancestors[min(starts[place])[-1]])
            if len(border) <= max_width:
                yield self._in_order(border)
            narrower = self._minimum_cut(graph, border, min(max_width, len(border) - 1))
            if narrower is not None:
                yield narrower

    def _border(self, before: int) -> set[str]:
        """Values that the nodes in `before` (bits) or the inputs give to all the others."""
        given = set(self.inputs)
        for index, _, made in self.edges:
            if before >> index & 1:
                given.update(made)
        border = given & self.outputs
        for index, read, _ in self.edges:
            if not before >> index & 1:
                border |= given.intersection(read)
        return border

    def _network(self) -> nx.DiGraph[_Vertex]:
        """Every value as an edge of capacity 1, everything else without limit."""
        graph: nx.DiGraph[_Vertex] = nx.DiGraph()
        for name in [*self.inputs, *self.order]:
            graph.add_edge(("into", name), ("from", name), capacity=1)
        for name in sorted(self.outputs):
            graph.add_edge(("from", name), _SINK)
        for index, read, made in self.edges:
            for name in read:
                graph.add_edge(("from", name), ("node", str(index)))
            for name in made:
                graph.add_edge(("node", str(index)), ("into", name))
        return graph

    def _minimum_cut(
        self, graph: nx.DiGraph[_Vertex], border: set[str], max_width: int
    ) -> tuple[str, ...] | None:
        """The narrowest cut behind `border`, of several the one nearest to it; None if too wide.

        The minimum cut nearest to the source is unique, so the result does not depend on the
        order in which the flow was found.
        """
        graph.add_edges_from((_SOURCE, ("into", name)) for name in sorted(border))
        flow = shortest_augmenting_path(graph, _SOURCE, _SINK, cutoff=max_width + 1)
        graph.remove_node(_SOURCE)
        if flow.graph["flow_value"] > max_width:
            return None
        reached: set[_Vertex] = {_SOURCE}
        stack: list[_Vertex] = [_SOURCE]
        while stack:
            for vertex, edge in flow[stack.pop()].items():
                if vertex not in reached and edge["flow"] < edge["capacity"]:
                    reached.add(vertex)
                    stack.append(vertex)
        return self._in_order(
            name
            for name in [*self.inputs, *self.order]
            if ("into", name) in reached and ("from", name) not in reached
        )

    def _in_order(self, values: Iterable[str]) -> tuple[str, ...]:
        wanted = set(values)
        return tuple(name for name in [*self.inputs, *self.order] if name in wanted)
