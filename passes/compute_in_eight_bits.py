"""Compute in 8 bits: values are rounded to grids, so that integer kernels take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ..compiler.execution.observing import observe
from ..compiler.fitting.operators import LinearOperator, linear_operator
from ..compiler.fitting.reference import Reference
from ..compiler.fitting.value_ranges import EightBits, ValueRanges
from ..compiler.graph.program import Note, Program
from ..compiler.graph.stored_weight import StoredWeight, stored
from .base import Change

# Units that a bias may have: a quarter of what 32 bits hold, since the products are added to it.
_MOST_BIAS = float(2**29)
QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class ComputeInEightBits:
    """Put a QuantizeLinear and a DequantizeLinear behind each of the values.

    Between an operator's DequantizeLinear and the QuantizeLinear of what it makes backends run the
    integer form of the operator. Ranges are those of the program as it is, on the reference's
    frames; `symmetric` ones are int8 with 0 in the middle (TensorRT), others uint8. Values without
    a range (not finite, or nothing but 0) and those that are not there are left alone.
    """

    name: ClassVar[str] = "compute-in-eight-bits"
    exact: ClassVar[bool] = False

    values: tuple[str, ...]
    symmetric: bool
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """One change for every value."""
        grids = ranges_of(program, self.values, self.symmetric, self.reference)
        put_in(program, grids)
        return [Change("rounded to 8 bits", name) for name in grids]


def ranges_of(
    program: Program, values: Sequence[str], symmetric: bool, reference: Reference
) -> Mapping[str, EightBits]:
    """The grids of those of the values that have one, by name: see ValueRanges."""
    there = program.values()
    ranges = ValueRanges([name for name in values if name in there], symmetric)
    observe(program, lambda limit: reference.frames, [ranges])
    return ranges.grids


def put_in(program: Program, grids: Mapping[str, EightBits]) -> None:
    """Let all that reads the values read what is left of them on their grids."""
    there, names = program.values(), program.names()
    pairs: dict[str, list[gs.Node]] = {}
    for name, grid in grids.items():
        value = there[name]
        maker = value.inputs[0].name if value.inputs else ""
        quantised = gs.Variable(names.free(f"{name}.codes"), _dtype(grid), value.shape)
        again = gs.Variable(names.free(f"{name}.eight_bits"), value.dtype, value.shape)
        constants = [
            gs.Constant(names.free(f"{name}.scale"), np.array(grid.scale, np.float32)),
            gs.Constant(names.free(f"{name}.zero"), np.array(grid.zero, _dtype(grid))),
        ]
        program.replace_uses(value, again)
        nodes = [
            gs.Node(op, names.free(f"{name}.{op}"), {}, [given, *constants], [made])
            for op, given, made in ((QUANTISE, value, quantised), (DEQUANTISE, quantised, again))
        ]
        sources = program.note(maker).sources if maker else ()
        program.notes |= {node.name: Note(sources) for node in nodes}
        pairs.setdefault(maker, []).extend(nodes)
    ordered = list(pairs.get("", []))
    for node in program.graph.nodes:
        ordered += [node, *pairs.get(node.name, [])]
    program.graph.nodes = ordered
    again = {f"{name}.eight_bits": grid for name, grid in grids.items()}
    for node in program.graph.nodes:
        operator = linear_operator(node)
        if operator is not None and operator.source.name in again:
            _leave_room_for_bias(operator, again[operator.source.name])


def _leave_room_for_bias(operator: LinearOperator, grid: EightBits) -> None:
    """Widen the scales of channels whose bias would not fit an integer of 32 bits.

    Integer kernels add it in units of the input's scale times the weight's. A channel that hardly
    reads anything has a tiny scale, and a bias that wraps around: MobileNetV2 lost all by a few.
    Its weights are then too small beside the bias to matter, and take a coarser grid.
    """
    weight, bias = operator.weight, operator.node.inputs[2:3]
    if not isinstance(weight, StoredWeight) or weight.scales.ndim != 1 or weight.block:
        return
    if not bias or not isinstance(bias[0], gs.Constant):
        return
    most = np.abs(np.asarray(bias[0].values, np.float64)).reshape(-1)
    if most.shape != weight.scales.shape:
        return
    wider = np.maximum(weight.scales, (most / (grid.scale * _MOST_BIAS)).astype(np.float32))
    if (wider == weight.scales).all():
        return
    shape = [-1 if axis == weight.axis else 1 for axis in range(weight.codes.ndim)]
    codes = np.round(weight.codes * (weight.scales / wider).reshape(shape)).astype(np.int8)
    widened = stored(weight.name, codes, wider, weight.axis, weight.bits)
    for reader in list(weight.outputs):
        for index, tensor in enumerate(reader.inputs):
            if tensor is weight:
                reader.inputs[index] = widened


def _dtype(grid: EightBits) -> np.dtype[np.integer]:
    return np.dtype(np.int8 if grid.signed else np.uint8)
