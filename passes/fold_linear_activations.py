"""Remove activation functions that the graph alone proves to be straight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ..compiler.graph.edit import ChannelAffine, Edit, bypass, is_float, put_steps
from ..compiler.graph.layout import ACTIVATIONS
from ..compiler.graph.program import Program
from ..compiler.structure.bounds import bounds_of
from ..compiler.structure.intervals import ANYTHING, Bounds
from ..compiler.structure.straight_pieces import is_identity, straight
from .base import Change


@dataclass(frozen=True)
class FoldLinearActivations:
    """Activations that are straight on every input they can get.

    A PReLU of slope 1 and an activation whose inputs always lie on its piece of slope 1 go: a ReLU
    after a ReLU, a sum of them, a sigmoid, a pool, or a convolution without negative weights on
    positive inputs; a Clip of what is in its limits. Where channels lie on different pieces the
    activation becomes a factor (and offset) per channel, which merge-linear takes further.
    """

    name: ClassVar[str] = "fold-linear-activations"
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> list[Change]:
        """One change for every activation that went."""
        changes: list[Change] = []
        bounds = bounds_of(program)
        edit = Edit(program)
        for node in program.graph.nodes:
            if node.op not in ACTIVATIONS or not node.inputs or node.outputs[0].is_empty():
                continue
            kind = f"{node.op} '{node.name}'"
            if is_identity(node):
                saved = bypass(edit, node)
                if saved is not None:
                    changes.append(Change(f"{kind} has slope 1 everywhere", node.name, saved))
                continue
            given = bounds.get(node.inputs[0].name, ANYTHING)
            found = _straight(node, given)
            if found is None:
                continue
            if np.all(found.slope == 1) and np.all(found.offset == 0):
                saved = bypass(edit, node)
                if saved is not None:
                    what = f"{kind} changes nothing: what it is given is never beyond its bend"
                    changes.append(Change(what, node.name, saved))
            elif np.any(found.slope != 0) and is_float(node.inputs[0]):
                saved = put_steps(edit, node.inputs[0], node, found, self.name)
                what = f"{kind} is straight in every channel, by its weights"
                changes.append(Change(what, node.name, saved))
        edit.done()
        return changes


def _straight(node: gs.Node, given: Bounds) -> ChannelAffine | None:
    if not given.known or node.inputs[0].shape is None:
        return None
    axis = -1 if given.axis is None else given.axis
    slope, offset = straight(node, given.low, given.high, axis)
    if np.isnan(slope).any():
        return None
    return ChannelAffine(slope, offset, axis)
