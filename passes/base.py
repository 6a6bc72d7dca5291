"""What a pass is, what it reports, and how it notes which nodes one absorbed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import onnx_graphsurgeon as gs

from ..compiler.graph.program import Program


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
    """Notes that `node` now also does what `absorbed` did."""
    sources = sources_of(program, (node, absorbed))
    program.notes[node.name] = replace(program.note(node.name), sources=sources)


def sources_of(program: Program, nodes: Iterable[gs.Node]) -> tuple[str, ...]:
    """The models' nodes whose work these do, once each."""
    lists = (program.note(node.name).sources or (node.name,) for node in nodes)
    return tuple(dict.fromkeys(name for names in lists for name in names))
