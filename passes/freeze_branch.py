"""Replace a branch that is the same on every frame by a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..compiler.analysis.activations import mean_of
from ..compiler.analysis.reconstruction import Reference
from ..compiler.graph.program import Program, own_name
from ..compiler.graph.weights import nbytes_of
from ..compiler.planning.fold_actions import FreezeBranchAction
from .base import Change
from .freeze_constant_branches import replace_reads


@dataclass(frozen=True)
class FreezeBranch:
    """A value becomes its mean over the frames; drop-dead removes what made it.

    One number, one per channel or one per element, whichever says it all.
    """

    name: ClassVar[str] = "freeze-branch"
    exact: ClassVar[bool] = False

    action: FreezeBranchAction
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """One change; none where no reader can take a constant."""
        value = program.values().get(self.action.value)
        if value is None or not value.inputs:
            return []
        mean = mean_of(program, value.name, self.reference.frames)
        if mean is None:
            return []
        array = smallest(mean.astype(np.dtype(value.dtype)))
        constant = gs.Constant(program.unique_name(f"{value.name}.constant"), array)
        if not replace_reads(program, value, constant):
            return []
        what = f"'{own_name(value.name)}' is taken for a constant"
        return [Change(what, value.inputs[0].name, -nbytes_of(constant))]


def smallest(array: NDArray[Any]) -> NDArray[Any]:
    """The smallest array that broadcasts to the same [1, ...]: axes of equal numbers shrink."""
    scale = float(np.abs(array).max(initial=0))
    for axis in range(array.ndim):
        if array.shape[axis] > 1 and float(np.ptp(array, axis=axis).max()) <= 1e-6 * scale:
            array = array.mean(axis=axis, keepdims=True, dtype=np.float64).astype(array.dtype)
    while array.ndim and array.shape[0] == 1:
        array = array[0]
    return np.ascontiguousarray(array)
