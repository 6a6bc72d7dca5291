"""What a pass is, what it reports, and how it notes which nodes one absorbed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import onnx_graphsurgeon as gs

from ..compiler.graph.program import SOURCE_KEY, Program


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


def is_rewritable(node: gs.Node) -> bool:
    """Whether the node is one of ONNX's own operators and has no body (If, Loop, Scan)."""
    return not node.domain and not any(True for _ in node.subgraphs())


def add_source(program: Program, node: gs.Node, absorbed: gs.Node) -> None:
    """Notes in the metadata of `node` that it now also does what `absorbed` did."""
    sources: dict[str, None] = {}
    for name in (node.name, absorbed.name):
        source = program.metadata.get(name, {}).get(SOURCE_KEY, name)
        sources.update(dict.fromkeys(source.split(",")))
    program.metadata.setdefault(node.name, {})[SOURCE_KEY] = ",".join(sources)
