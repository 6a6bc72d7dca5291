"""Hold equal weights once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from ..compiler.graph.program import Program
from ..compiler.graph.weights import digest, nbytes_of
from .base import Change


@dataclass(frozen=True)
class ShareEqualWeights:
    """Weights of equal type, shape and bytes become one, within and across models.

    The first in graph order stays. Weights that a body of If, Loop or Scan holds itself are
    left alone; those it reads from outside are shared like any other.
    """

    name: ClassVar[str] = "share-equal-weights"
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> list[Change]:
        """One change for every weight that is no longer held."""
        kept: dict[str, gs.Constant] = {}
        changes: list[Change] = []
        for weight in program.weights().values():
            first = kept.setdefault(digest(weight), weight)
            if first is not weight:
                program.replace_uses(weight, first)
                changes.append(
                    Change(
                        f"weight '{weight.name}' equals '{first.name}' and is held once",
                        weight.name,
                        nbytes_of(weight),
                    )
                )
        return changes
