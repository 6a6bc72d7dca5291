"""Collapse: a region of a model becomes nothing, or one affine map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.graph.adapters import insert_adapter, replaced_value
from ..compiler.graph.program import Program
from ..compiler.planning.plan import CollapseAction
from .base import Change


@dataclass(frozen=True)
class Collapse:
    """Let what read a region's exit read its entry instead, as it is or through an affine map.

    The region is no longer read (drop-dead removes it). The map has zero weights until a refit of
    its value fits it, and with it what is before and after: that refit is not optional. LaCoOT,
    arXiv 2406.08933, removes the same blocks after training for it; ReplaceMe, 2505.02819, fits
    a linear map in closed form.
    """

    name: ClassVar[str] = "collapse"  # COLLAPSE, which the refit looks for
    exact: ClassVar[bool] = False

    action: CollapseAction

    def run(self, program: Program) -> list[Change]:
        """Rewire the region's readers."""
        (link,) = self.action.links
        value, donors, kernel = link.receiver_value, link.donor_values, self.action.kernel
        replaced = replaced_value(program, value, kernel)
        node = insert_adapter(program, value, donors, replaced, kernel, self.name)
        program.graph.toposort()
        return [Change(str(self.action), node.name)]
