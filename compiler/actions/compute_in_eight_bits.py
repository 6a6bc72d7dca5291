"""Compute in 8 bits: values of a model are rounded, so that integer kernels take its operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ...passes.base import Pass
from ...passes.compute_in_eight_bits import ComputeInEightBits
from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..fitting.operators import linear_operator
from ..fitting.reference import Reference
from ..graph.program import Program, is_standard
from ..graph.stored_weight import StoredWeight
from ..structure.cost import node_macs
from .action import Disturbed, Effect, OneModel, Reads, Stage, check_models
from .evidence import Evidence
from .site import Sites

# Whose integer kernels are meant: ONNX Runtime's on a processor, or TensorRT's.
CPU, TENSORRT = "cpu", "tensorrt"
# What ONNX Runtime computes in 8 bits between values that are rounded.
_PASSING = frozenset(("AveragePool", "Concat", "GlobalAveragePool", "MaxPool"))
# The same, where one of what they read is rounded: the other then is, too.
_JOINING = frozenset(("Add", "Mul"))
# Folded into the rounding of what they make.
_ACTIVATIONS = frozenset(("Relu", "Clip"))


def _values(reader: Reader) -> tuple[str, ...]:
    found = reader.value
    if not isinstance(found, list) or not found:
        raise ModelError(f"{reader.document}: values is no list, or an empty one")
    values = reader.each(Reader.anything)
    if not all(isinstance(name, str) and name for name in values):
        raise ModelError(f"{reader.document}: values must be names")
    return tuple(values)


def _target(reader: Reader) -> str:
    if reader.value not in (CPU, TENSORRT):
        raise ModelError(f"{reader.document}: target must be {CPU} or {TENSORRT}")
    return reader.text()


@dataclass(frozen=True)
class ComputeInEightBitsAction(OneModel):
    """Values of a model are rounded to 256 numbers each (names in the program it leaves).

    Operators between them run as integers on the `target`. Ranges are found when it is carried out.
    """

    kind: ClassVar[str] = "compute-in-eight-bits"
    stage: ClassVar[Stage] = Stage.ARITHMETIC
    counted: ClassVar[tuple[str, str]] = ("model in 8 bits", "models in 8 bits")
    read: ClassVar[Reads] = {"values": _values, "target": _target}

    values: tuple[str, ...]
    target: str

    @property
    def place(self) -> str:
        """The model, and how many values."""
        count = len(self.values)
        return f"{self.model}: {count} value{'' if count == 1 else 's'} in 8 bits"

    def __str__(self) -> str:
        return f"{self.model} computes with {len(self.values)} values in 8 bits ({self.target})"

    def check(self, program: Program) -> None:
        """Refuse a model that is not there: values may be such as other actions make."""
        check_models(self.models, program)

    def effect(self, program: Program) -> Effect | str:
        """The values are others; nothing is saved of what is counted."""
        return Effect(
            frozenset(self.values) & program.values().keys(),
            owns=frozenset((f"arithmetic of {self.model}",)),
        )

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The rounding of the values."""
        return [ComputeInEightBits(self.values, self.target == TENSORRT, reference)]

    def disturbed(self, program: Program) -> Disturbed:
        """Nothing is fitted again."""
        return Disturbed()


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """None: what can compute in 8 bits is known once weights are stored in 8 (see arithmetic)."""
    return Sites()


def values_in_eight_bits(program: Program, model: str, target: str) -> list[str]:
    """The values of a model that may be rounded, in topological order.

    What operators read whose weights are stored in 8 bits. On a processor what they make, too,
    behind the activation that it is folded with, and what pools and concatenations of only such
    values make, and sums and products with one, so that integers go from operator to operator.
    """
    outputs = program.output_names
    found: dict[str, None] = {}
    for node in program.nodes_of(model):
        if stored_operator(node):
            source = node.inputs[0]
            if isinstance(source, gs.Variable):
                found.setdefault(source.name)
            made = target == CPU
        else:
            read = [t for t in node.inputs if not t.is_empty()]
            rounded = [t.name in found for t in read]
            joins = node.op in _JOINING and any(rounded) and _are_floats(read)
            passes = node.op in _PASSING and bool(read) and all(rounded)
            made = target == CPU and is_standard(node) and (joins or passes)
            if made:
                found |= dict.fromkeys(t.name for t in read)
        if made:
            found.setdefault(_behind_activation(node).name)
    return [name for name in found if name not in outputs]


def _are_floats(values: Sequence[gs.Tensor]) -> bool:
    return all(isinstance(one, gs.Variable) and one.dtype == np.float32 for one in values)


def stored_operator(node: gs.Node) -> bool:
    """Whether a node is a convolution or product whose weight is stored in 8 bits."""
    operator = linear_operator(node)
    return (
        operator is not None
        and isinstance(operator.weight, StoredWeight)
        and operator.weight.bits == 8
        and not operator.weight.block
        and node.op != "ConvTranspose"
    )


def macs_in_eight_bits(program: Program, model: str) -> tuple[int, int]:
    """Multiply-accumulates of a model's operators that read rounded values, and of all."""
    nodes = program.nodes_of(model)
    rounded = [
        node
        for node in nodes
        if stored_operator(node)
        and any(maker.op == "DequantizeLinear" for maker in node.inputs[0].inputs)
    ]
    return sum(map(node_macs, rounded)), sum(map(node_macs, nodes))


def _behind_activation(node: gs.Node) -> gs.Tensor:
    """What a node makes, behind a bias of its own and an activation that alone reads it."""
    value = node.outputs[0]
    operator = linear_operator(node)
    if operator is not None:
        value = operator.result
    readers = value.outputs
    if len(readers) == 1 and readers[0].op in _ACTIVATIONS and is_standard(readers[0]):
        return readers[0].outputs[0]
    return value
