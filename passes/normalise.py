"""Fold what is constant, remove what does nothing, fold BatchNormalization and biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.graph.program import Program
from .base import Change, Pass
from .fold_batch_norm import FoldBatchNorm
from .fold_bias import FoldBias
from .fold_constants import FoldConstants
from .remove_no_ops import RemoveNoOps


@dataclass(frozen=True)
class Normalise:
    """The same computation in fewer nodes: what later passes compare, cut and refit.

    Runs remove-no-ops, fold-constants, fold-bias and fold-batch-norm, until none finds more: each
    makes room for the others. Constants and normalisations are folded within `growth_nbytes`.
    """

    name: ClassVar[str] = "normalise"
    exact: ClassVar[bool] = True

    growth_nbytes: int = 2**20

    def run(self, program: Program) -> list[Change]:
        """One change for every node removed or folded."""
        steps: tuple[Pass, ...] = (
            RemoveNoOps(),
            FoldConstants(self.growth_nbytes),
            FoldBias(),
            FoldBatchNorm(self.growth_nbytes),
        )
        changes: list[Change] = []
        while found := [change for step in steps for change in step.run(program)]:
            changes += found
        return changes
