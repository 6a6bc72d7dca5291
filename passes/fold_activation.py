"""Replace an activation function by the affine map per channel that fits it on the frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.execution.statistics import measure_activation
from ..compiler.fitting.reference import Reference
from ..compiler.graph.edit import ChannelAffine, Edit, put_steps
from ..compiler.graph.program import Program, own_name
from ..compiler.structure.activation_functions import activations_of
from .base import Change


@dataclass(frozen=True)
class FoldActivation:
    """A (nearly) linear activation becomes a factor and an offset per channel.

    Channels that stay on one straight piece on all frames get that piece's own numbers, others
    the least-squares fit. Merge-linear then makes one of the linear operators around (Layer
    Folding, arXiv 2106.09309), refit-around repairs what the fit lost.
    """

    name: ClassVar[str] = "fold-activation"
    exact: ClassVar[bool] = False

    model: str
    given: str
    value: str
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """One change; none where an earlier action took the activation away."""
        if self.model not in program.models:
            return []
        nodes = program.nodes_of(self.model)
        for activation in activations_of(program, nodes):
            if (activation.given, activation.value) != (self.given, self.value):
                continue
            found = measure_activation(program, activation, self.reference.frames)
            if found is None:
                return []
            value = program.values()[activation.given]
            node = activation.nodes[-1]
            affine = ChannelAffine(found.slope, found.offset, activation.axis)
            edit = Edit(program)
            saved = put_steps(edit, value, node, affine, self.name)
            edit.done()
            what = (
                f"the activation that makes '{own_name(activation.value)}' became affine "
                f"(keeps {1 - found.damage:.4f} of its variance)"
            )
            return [Change(what, node.name, saved)]
        return []
