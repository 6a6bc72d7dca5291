"""Values that are held in 8 bits: a QuantizeLinear and a DequantizeLinear behind what makes one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from .program import Note, Program

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
MADE_BY = "compute-in-eight-bits"  # in the note of each such node
OPSET_OF_ZERO_POINTS = 10  # the first that has the two operators


@dataclass(frozen=True)
class Grid:
    """The 256 numbers that a value may have: (code - zero) * scale, codes of uint8, or of int8."""

    scale: float
    zero: int
    signed: bool

    @property
    def code(self) -> type[np.uint8] | type[np.int8]:
        """The type of a code."""
        return np.int8 if self.signed else np.uint8


def quantise_value(program: Program, name: str, grid: Grid) -> None:
    """Let all that reads the value (its place as an output excepted) read it on the grid.

    One pair of nodes for all readers: ONNX Runtime gives each its own where that fuses better.
    """
    value = program.values()[name]
    readers = list(value.outputs)
    names = program.names()
    scale = gs.Constant(names.free(f"{name}.scale"), np.asarray(grid.scale, np.float32))
    zero = gs.Constant(names.free(f"{name}.zero"), np.asarray(grid.zero, grid.code))
    codes = gs.Variable(names.free(f"{name}.codes"), np.dtype(grid.code), value.shape)
    back = gs.Variable(names.free(f"{name}.eight_bits"), np.dtype(np.float32), value.shape)
    program.replace_uses(value, back)
    pair = [
        gs.Node(QUANTISE, names.free(f"{name}.quantise"), {}, [value, scale, zero], [codes]),
        gs.Node(DEQUANTISE, names.free(f"{name}.dequantise"), {}, [codes, scale, zero], [back]),
    ]
    makers = value.inputs or readers
    sources = tuple(dict.fromkeys(s for node in makers for s in program.note(node.name).sources))
    for node in pair:
        program.notes[node.name] = Note(sources, MADE_BY)
    place = program.graph.nodes.index(value.inputs[0]) + 1 if value.inputs else 0
    program.graph.nodes[place:place] = pair


def is_pair(program: Program, node: gs.Node) -> bool:
    """Whether the node is one of those that `quantise_value` puts in."""
    return node.op in (QUANTISE, DEQUANTISE) and program.note(node.name).made_by == MADE_BY


def values_in_eight_bits(program: Program) -> dict[str, bool]:
    """The values with such a pair, in order, and whether their codes are signed."""
    return {
        node.inputs[0].name: node.inputs[2].dtype == np.int8
        for node in program.graph.nodes
        if node.op == QUANTISE and is_pair(program, node)
    }


def before_rounding(program: Program, tensor: gs.Tensor) -> gs.Tensor:
    """The value that a tensor is the form of in 8 bits; itself, where it is none."""
    if not tensor.inputs or not is_pair(program, tensor.inputs[0]):
        return tensor
    return tensor.inputs[0].inputs[0].inputs[0].inputs[0]


def after_rounding(program: Program, tensor: gs.Tensor) -> gs.Tensor:
    """The form in 8 bits of a value, where that is all that reads it; else the value itself."""
    readers = tensor.outputs
    if len(readers) != 1 or readers[0].op != QUANTISE or not is_pair(program, readers[0]):
        return tensor
    return readers[0].outputs[0].outputs[0].outputs[0]
