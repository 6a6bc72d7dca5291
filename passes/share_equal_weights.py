"""Hold equal weights once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from ..compiler.graph.program import Program, constants_of_bodies
from ..compiler.graph.weights import SMALL_NBYTES, digest, nbytes_of
from .base import Change


@dataclass(frozen=True)
class ShareEqualWeights:
    """Weights of equal type, shape and bytes become one, within and across models.

    The first in graph order stays. So do large weights that bodies of If, Loop or Scan read, which
    the file then holds outside of them; small ones of a body stay with it.
    """

    name: ClassVar[str] = "share-equal-weights"
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> list[Change]:
        """One change for every weight that is no longer held."""
        kept: dict[str, gs.Constant] = {}
        changes: list[Change] = []
        nodes = program.graph.nodes
        inside = [t for t in constants_of_bodies(nodes) if nbytes_of(t) > SMALL_NBYTES]
        for weight in [*program.weights().values(), *inside]:
            first = kept.setdefault(digest(weight), weight)
            # Copies of a program have one tensor a body of what is, by its name, one weight.
            if first.name != weight.name:
                program.replace_uses(weight, first)
                changes.append(
                    Change(
                        f"weight '{weight.name}' equals '{first.name}' and is held once",
                        weight.name,
                        nbytes_of(weight),
                    )
                )
        return changes
