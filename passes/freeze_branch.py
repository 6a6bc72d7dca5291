"""Replace a branch that is the same on every frame by a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ..compiler.execution.statistics import fits_any_size, mean_of, smallest_constant
from ..compiler.fitting.reference import Reference
from ..compiler.graph.program import Program, own_name
from ..compiler.graph.weights import nbytes_of
from .base import Change
from .freeze_constant_branches import constant_reads, replace_reads


@dataclass(frozen=True)
class FreezeBranch:
    """A value becomes its mean over the frames; drop-dead removes what made it.

    One number, one per channel or one per element, whichever says it all.
    """

    name: ClassVar[str] = "freeze-branch"
    exact: ClassVar[bool] = False

    value: str
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """One change; none where no reader can take a constant."""
        value = program.values().get(self.value)
        if value is None or not value.inputs:
            return []
        mean = mean_of(program, value.name, self.reference.frames)
        if mean is None:
            return []
        array = smallest_constant(mean.astype(np.dtype(value.dtype)))
        reads = constant_reads(value, {id(node) for node in program.graph.nodes})
        if not reads or not fits_any_size(array, value):
            return []
        constant = gs.Constant(program.unique_name(f"{value.name}.constant"), array)
        replace_reads(reads, constant)
        what = f"'{own_name(value.name)}' is taken for a constant"
        return [Change(what, value.inputs[0].name, -nbytes_of(constant))]
