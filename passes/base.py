"""What a pass is, what it reports, and the two steps that rewrites have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import onnx_graphsurgeon as gs

from ..compiler.graph.program import SOURCE_KEY, Program, node_inputs
from ..compiler.graph.weights import nbytes_of


@dataclass(frozen=True)
class Change:
    """One thing a pass did.

    `what` says it in plain words with the user's names, `node` is the node (or weight) it was
    done to, `nbytes_saved` the weight bytes that the program no longer needs because of it.
    """

    what: str
    node: str
    nbytes_saved: int = 0


class Pass(Protocol):
    """One rewrite of a program: a frozen dataclass whose fields are its options.

    `name` is the CLI name. An `exact` pass must not move any output beyond float noise; the
    others obey an action of the plan and are measured.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]

    def run(self, program: Program) -> list[Change]:
        """What was changed, in order; empty when the program is left exactly as it was."""
        ...


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
            program.docs.pop(part.name, None)
        freed.append(
            sum(
                nbytes_of(tensor)
                for tensor in read.values()
                if isinstance(tensor, gs.Constant) and not tensor.outputs
            )
        )
    gone = {id(node) for node in removed}
    program.graph.nodes = [node for node in program.graph.nodes if id(node) not in gone]
    return freed


def add_source(program: Program, node: gs.Node, absorbed: gs.Node) -> None:
    """Notes in the metadata of `node` that it now also does what `absorbed` did."""
    sources: dict[str, None] = {}
    for name in (node.name, absorbed.name):
        source = program.metadata.get(name, {}).get(SOURCE_KEY, name)
        sources.update(dict.fromkeys(source.split(",")))
    program.metadata.setdefault(node.name, {})[SOURCE_KEY] = ",".join(sources)
