"""The program: every model of a compilation in one graph with one weight table.

All models live in a single onnx-graphsurgeon graph, so sharing between models is ordinary
graph rewriting: when two consumers read the same tensor, they share it. FreeNames carry their
model, `resnet/relu_3` is value `relu_3` of model `resnet`, and a name is never reused. A graph
input that feeds several models (tied inputs) has no model prefix.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_graphsurgeon as gs

SEPARATOR = "/"
# The keys under which notes are saved with a model; nothing reads them back.
SOURCE_KEY, PASS_KEY, REPLACES_KEY = "repsimc.source", "repsimc.pass", "repsimc.replaces"

Dimension = int | str | None
Shape = tuple[Dimension, ...]
_MADE_UP = "unk__"  # begins the names that shape inference gives to sizes it knows nothing of


@dataclass(frozen=True)
class Source:
    """The file a model was read from: path as given, size in bytes, and sha256 of its content.

    The digest covers the .onnx file and then its external data files, in order of name.
    """

    path: Path
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Note:
    """What became of a node in this compilation: passes go by it, and it is saved for people.

    `sources` are the models' nodes whose work it does, `made_by` the pass that inserted or fitted
    it, `replaces` the value whose readers it took over. A `gap` stands where a region was, and was
    not fitted since.
    """

    sources: tuple[str, ...] = ()
    made_by: str = ""
    replaces: str = ""
    gap: bool = False

    def strings(self) -> dict[str, str]:
        """The note as strings to be saved with the node."""
        entries = {
            SOURCE_KEY: ",".join(self.sources),
            PASS_KEY: self.made_by,
            REPLACES_KEY: self.replaces,
        }
        return {key: text for key, text in entries.items() if text}


@dataclass
class Model:
    """One model's place in the program.

    `inputs` and `outputs` map the model's own names to value names of the program, in the
    model's order. Several models may map to one value (tied inputs, shared outputs). `remarks`
    are what was odd about the file and may surprise its user. `optional` maps inputs with a
    default, which callers may leave out; they are none of `inputs`. `declared` are the shapes that
    the file says its outputs have: a claim, which nothing but `told_shape` looks at.
    """

    name: str
    source: Source
    inputs: dict[str, str]
    outputs: dict[str, str]
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    doc_string: str = ""
    remarks: tuple[str, ...] = ()
    optional: dict[str, str] = field(default_factory=dict[str, str])
    declared: dict[str, Shape] = field(default_factory=dict[str, Shape])

    def told_shape(self, output: str, inferred: Sequence[Dimension] | None) -> Shape | None:
        """The shape of an output for people and metrics: as inferred, else as the file says."""
        declared = self.declared.get(output)
        if inferred is None or declared is None or len(inferred) != len(declared):
            return declared if inferred is None else tuple(inferred)
        return tuple(
            told if size is None or (isinstance(size, str) and size.startswith(_MADE_UP)) else size
            for size, told in zip(inferred, declared)
        )


@dataclass
class Program:
    """All models in one graph.

    `metadata` and `docs` hold, by node name, the user's strings that are saved with the model
    (onnx-graphsurgeon drops `metadata_props` and `doc_string`), `notes` our own. Everything that
    rewrites the graph keeps: unique node and value names, topological order, `models` in insertion
    order.
    """

    graph: gs.Graph
    models: dict[str, Model]
    metadata: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    docs: dict[str, str] = field(default_factory=dict[str, str])
    notes: dict[str, Note] = field(default_factory=dict[str, Note])

    def copy(self) -> Program:
        """A program whose graph can be rewritten freely; weight arrays are shared, not copied."""
        return Program(
            self.graph.copy(),
            {
                name: replace(
                    model,
                    inputs=dict(model.inputs),
                    outputs=dict(model.outputs),
                    optional=dict(model.optional),
                )
                for name, model in self.models.items()
            },
            {name: dict(entries) for name, entries in self.metadata.items()},
            dict(self.docs),
            dict(self.notes),
        )

    # -- looking things up ---------------------------------------------------------------

    @property
    def input_names(self) -> set[str]:
        """The value names of the graph's inputs."""
        return {value.name for value in self.graph.inputs}

    @property
    def output_names(self) -> set[str]:
        """The value names of the graph's outputs."""
        return {value.name for value in self.graph.outputs}

    def order(self) -> dict[str, int]:
        """Of every value that a node makes, the node's position in topological order."""
        return {value.name: i for i, n in enumerate(self.graph.nodes) for value in n.outputs}

    def values(self) -> dict[str, gs.Variable]:
        """Every value (graph inputs and node outputs) by name."""
        found = {value.name: value for value in self.graph.inputs}
        for node in self.graph.nodes:
            for value in node.outputs:
                if isinstance(value, gs.Variable) and not value.is_empty():
                    found[value.name] = value
        return found

    def weights(self) -> dict[str, gs.Constant]:
        """Every constant that a node of the top-level graph reads, by name, in graph order."""
        return {constant.name: constant for constant in constants_of(self.graph.nodes)}

    def nodes(self) -> dict[str, gs.Node]:
        """Every node of the top-level graph by name, in topological order."""
        return {node.name: node for node in self.graph.nodes}

    def node(self, name: str) -> gs.Node:
        """The node of that name. Raises KeyError. For several take `nodes`."""
        for node in self.graph.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def nodes_of(self, model: str) -> list[gs.Node]:
        """The nodes that the model's outputs need, in topological order, shared ones included."""
        outputs = set(self.models[model].outputs.values())
        return self.needed_nodes([value for value in self.graph.outputs if value.name in outputs])

    def needed_nodes(self, values: Iterable[gs.Tensor], stop: Iterable[str] = ()) -> list[gs.Node]:
        """The nodes needed to compute `values`, in topological order.

        The walk does not go past values named in `stop` (they are taken as given). Values that
        subgraphs (If, Loop, Scan bodies) read from outside count as inputs of their node.
        """
        stopped = set(stop)
        needed: set[int] = set()
        stack = [value for value in values if value.name not in stopped]
        while stack:
            for node in stack.pop().inputs:
                if id(node) not in needed:
                    needed.add(id(node))
                    stack.extend(t for t in node_inputs(node) if t.name not in stopped)
        return [node for node in self.graph.nodes if id(node) in needed]

    def names(self) -> FreeNames:
        """Where new nodes and values get their names: once for a rewrite, not for every name."""
        taken = {value.name for value in (*self.graph.inputs, *self.graph.outputs)}
        stack = list(self.graph.nodes)
        while stack:
            node = stack.pop()
            taken.add(node.name)
            for tensor in (*node.inputs, *node.outputs):
                taken.add(tensor.name)
            for body in bodies_of(node):
                taken.update(value.name for value in body.inputs)
                stack += body.nodes
        return FreeNames(taken)

    def unique_name(self, wanted: str) -> str:
        """`wanted`, or `wanted_2`, `wanted_3` ... if a node or tensor is already called so.

        Looks through the whole program: who needs several takes `names`.
        """
        return self.names().free(wanted)

    def note(self, node: str) -> Note:
        """The note of a node; a node without one does its own work."""
        return self.notes.get(node) or Note(sources=(node,))

    # -- rewriting -----------------------------------------------------------------------

    def note_fit(self, node: str, by: str) -> None:
        """Note that a pass gave the node new weights."""
        known = self.notes.get(node, Note())
        self.notes[node] = replace(known, made_by=by, gap=False)

    def replace_uses(self, old: gs.Tensor, new: gs.Tensor, keep: Iterable[gs.Node] = ()) -> int:
        """Let every reader of `old` (bodies of If/Loop/Scan included) read `new` instead.

        Graph outputs are left alone: a model output keeps its own name. Nodes in `keep` are
        left alone too. Returns the number of reads moved.
        """
        kept = {id(node) for node in keep}
        moved = 0
        for node in [n for n in old.outputs if id(n) not in kept]:
            for index, tensor in enumerate(node.inputs):
                if tensor is old:
                    node.inputs[index] = new
                    moved += 1
        return moved


def is_standard(node: gs.Node) -> bool:
    """Whether the node is an operator of the ONNX standard, not of another domain."""
    return node.domain in (None, "", "ai.onnx")


def bodies_of(node: gs.Node) -> list[gs.Graph]:
    """The bodies of an If, Loop or Scan: `Node.subgraphs`, asked of every node of a graph often."""
    return [found for found in node.attrs.values() if isinstance(found, gs.Graph)]


def constants_of(nodes: Iterable[gs.Node]) -> list[gs.Constant]:
    """The constants that the nodes read, in order and once each; those of bodies are not theirs."""
    read = (tensor for node in nodes for tensor in node.inputs)
    return list({id(t): t for t in read if isinstance(t, gs.Constant)}.values())


def constants_of_bodies(nodes: Iterable[gs.Node]) -> list[gs.Constant]:
    """The constants that bodies (If, Loop, Scan) of the nodes read, in order and once each."""
    bodies = (body for node in nodes for body in node.subgraphs(recursive=True))
    return constants_of(inner for body in bodies for inner in body.nodes)


def node_inputs(node: gs.Node) -> Iterator[gs.Tensor]:
    """The tensors a node reads, those its subgraphs capture from outside included."""
    yield from (tensor for tensor in node.inputs if not tensor.is_empty())
    if not node.attrs:  # most nodes: a walk asks every one of them
        return
    stack = bodies_of(node)
    while stack:
        for inner in stack.pop().nodes:
            yield from (tensor for tensor in inner.inputs if not tensor.is_empty())
            stack += bodies_of(inner)


class FreeNames:
    """FreeNames that are taken, and new ones: each is given once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}  # the suffix to try: thousands may want one name

    def free(self, wanted: str) -> str:
        """`wanted`, or `wanted_2`, `wanted_3` ... if that is taken; it is taken then."""
        name, suffix = wanted, self._next.get(wanted, 2)
        while name in self._taken:
            name, suffix = f"{wanted}_{suffix}", suffix + 1
        self._next[wanted] = suffix
        self._taken.add(name)
        return name


def free_name(wanted: str, taken: Container[str]) -> str:
    """`wanted`, or `wanted_2`, `wanted_3` ... if that is taken."""
    name, suffix = wanted, 2
    while name in taken:
        name, suffix = f"{wanted}_{suffix}", suffix + 1
    return name


def model_of(name: str) -> str:
    """The model part of a program name: 'resnet' of 'resnet/relu_3'; '' for a tied input."""
    return name.split(SEPARATOR, 1)[0] if SEPARATOR in name else ""


def own_name(name: str) -> str:
    """The user's own name of a value or node: 'relu_3' of 'resnet/relu_3'."""
    return name.split(SEPARATOR, 1)[-1]


def qualified(model: str, name: str) -> str:
    """The program name of a model's value or node."""
    return f"{model}{SEPARATOR}{name}"
