"""Share a prefix by representation: a donor's value feeds a receiver's suffix (RepSim)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.fitting.operators import LinearOperator, linear_operator
from ..compiler.fitting.reconstruction import Target, reconstruct
from ..compiler.fitting.reference import Reference
from ..compiler.graph.adapters import Link, insert_adapter, replaced_value
from ..compiler.graph.edit import sort_nodes
from ..compiler.graph.program import Program
from .base import Change
from .refit import is_rectified


@dataclass(frozen=True)
class SharePrefix:
    """Let a donor's value feed a receiver's suffix through a fitted affine adapter.

    The receiver's own prefix is no longer read (drop-dead removes it). The adapter replaces the
    value before the receiver's activation and is solved in closed form against what the original
    had there; kernel 0 uses the donor's value as it is. RepSim, arXiv 2410.11233; adapter as in
    stitching, Bansal et al. 2021.
    """

    name: ClassVar[str] = "share-prefix"
    exact: ClassVar[bool] = False

    links: tuple[Link, ...]
    kernel: int
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """Rewire the receiver and fit the adapters."""
        outputs = program.output_names
        fitted: list[tuple[LinearOperator, Target]] = []
        changes: list[Change] = []
        for link in self.links:
            replaced = replaced_value(program, link.receiver_value, self.kernel)
            target = Target(replaced.name, None, is_rectified(replaced, outputs))
            node = insert_adapter(program, link, replaced, self.kernel, self.name)
            operator = linear_operator(node)
            if operator is not None:
                fitted.append((operator, target))
            sources = " + ".join(link.donor_values)
            changes.append(Change(f"{link.receiver_value} now comes from {sources}", node.name))
        sort_nodes(program)
        if fitted:
            results = [operator.result.name for operator, _ in fitted]
            reconstruct(program, fitted, self.reference, results)
        return changes
