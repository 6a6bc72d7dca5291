"""Share a prefix by representation: a donor's value feeds a receiver's suffix (RepSim)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.fitting.operators import LinearOperator, linear_operator
from ..compiler.fitting.reconstruction import Target, reconstruct
from ..compiler.fitting.reference import Reference
from ..compiler.graph.adapters import insert_adapter, replaced_value
from ..compiler.graph.program import Program
from ..compiler.planning.plan import SharePrefixAction
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

    action: SharePrefixAction
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """Rewire the receiver and fit the adapters."""
        outputs, kernel = program.output_names, self.action.kernel
        fitted: list[tuple[LinearOperator, Target]] = []
        changes: list[Change] = []
        for link in self.action.links:
            value, donors = link.receiver_value, link.donor_values
            replaced = replaced_value(program, value, kernel)
            target = Target(replaced.name, None, is_rectified(replaced, outputs))
            node = insert_adapter(program, value, donors, replaced, kernel, self.name)
            operator = linear_operator(node)
            if operator is not None:
                fitted.append((operator, target))
            changes.append(Change(f"{value} now comes from {' + '.join(donors)}", node.name))
        program.graph.toposort()
        if fitted:
            results = [operator.result.name for operator, _ in fitted]
            reconstruct(program, fitted, self.reference, results)
        return changes
