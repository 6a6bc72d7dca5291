"""Collapse: a region of a model becomes nothing, or one affine map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.graph.adapters import Link, insert_adapter, replaced_value
from ..compiler.graph.edit import sort_nodes
from ..compiler.graph.program import Program, own_name
from .base import Change


@dataclass(frozen=True)
class Collapse:
    """Let what read a region's exit read its entry instead, as it is or through an affine map.

    The region is no longer read (drop-dead removes it). The map has zero weights until a refit of
    its value fits it, and with it what is before and after: that refit is not optional. LaCoOT,
    arXiv 2406.08933, removes the same blocks after training for it; ReplaceMe, 2505.02819, fits
    a linear map in closed form. `kernel` is the map's window, 0 for the entry as it is.
    """

    name: ClassVar[str] = "collapse"
    exact: ClassVar[bool] = False

    entry: str
    exit: str
    kernel: int = 0

    def run(self, program: Program) -> list[Change]:
        """Rewire the region's readers."""
        link = Link(self.exit, (self.entry,), region=True)
        replaced = replaced_value(program, self.exit, self.kernel)
        node = insert_adapter(program, link, replaced, self.kernel, self.name)
        sort_nodes(program)
        what = f"{own_name(self.exit)} is made from {own_name(self.entry)}"
        return [Change(what, node.name)]
