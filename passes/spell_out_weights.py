"""Spell out weights in few bits: codes and scales, which DequantizeLinear multiplies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ..compiler.frontends.opset import raise_opset
from ..compiler.graph.program import Program, node_inputs
from ..compiler.graph.stored_weight import StoredWeight
from .base import Change

# The first with 4-bit integers.
_OPSET_OF_FOUR_BITS = 21
_MADE_BY = "spell-out-weights"


@dataclass(frozen=True)
class SpellOutWeights:
    """Weights that are stored in few bits become what a file holds of them.

    Each is one DequantizeLinear for all that read it, in the weight's name, just before the first:
    no float copy lives longer than it has to. Four bits raise the program to opset 21. Raises
    ModelError where a node cannot be raised.
    """

    name: ClassVar[str] = _MADE_BY
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> list[Change]:
        """One change for every weight."""
        stored = _stored(program)
        if any(weight.bits < 8 for weight in stored):
            raise_opset(program, _OPSET_OF_FOUR_BITS, "the merged program")
            stored = _stored(program)
        names = program.names()
        first = _first_readers(program)
        made: list[gs.Node] = []
        before: dict[int, list[gs.Node]] = {}
        for weight in stored:
            reader = first[weight.name]
            codes = gs.Constant(names.free(f"{weight.name}.codes"), weight.stored_codes)
            scales = gs.Constant(names.free(f"{weight.name}.scales"), weight.scales)
            value = gs.Variable(weight.name, np.dtype(np.float32), list(weight.codes.shape))
            for node in list(weight.outputs):
                for index, tensor in enumerate(node.inputs):
                    if tensor is weight:
                        node.inputs[index] = value
            name = names.free(f"{weight.name}.dequantize")
            node = gs.Node(
                "DequantizeLinear", name, {"axis": weight.axis}, [codes, scales], [value]
            )
            made.append(node)
            before.setdefault(reader, []).append(node)
            program.note_fit(name, self.name)
        program.graph.nodes = [
            one for node in program.graph.nodes for one in (*before.get(id(node), ()), node)
        ]
        return [Change("became codes and scales", node.name) for node in made]


def _first_readers(program: Program) -> dict[str, int]:
    """By weight the node (its id) of the graph that reads it first, itself or in a body."""
    found: dict[str, int] = {}
    for node in program.graph.nodes:
        for tensor in node_inputs(node):
            found.setdefault(tensor.name, id(node))
    return found


def _stored(program: Program) -> list[StoredWeight]:
    return [one for one in program.weights().values() if isinstance(one, StoredWeight)]
