"""Drop what no output needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.graph.edit import remove_nodes
from ..compiler.graph.program import Program
from .base import Change


@dataclass(frozen=True)
class DropDead:
    """Nodes that no graph output needs are removed, and the weights only they read.

    Graph inputs stay even if nothing reads them: they are a model's interface.
    """

    name: ClassVar[str] = "drop-dead"
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> list[Change]:
        """One change for every node removed."""
        needed = {id(node) for node in program.needed_nodes(program.graph.outputs)}
        dead = [node for node in program.graph.nodes if id(node) not in needed]
        # Backwards, so that a weight read twice is counted with its first reader.
        changes = [
            Change(f"no output needs {node.op} '{node.name}'", node.name, nbytes)
            for node, nbytes in zip(reversed(dead), remove_nodes(program, dead[::-1]), strict=True)
        ]
        return changes[::-1]
