"""What could be computed in 8 bits: by operator the values that a backend's integer kernel wants.

ONNX Runtime on a processor (1.31, read off its optimised graphs): a convolution whose input,
weight and output are in 8 bits becomes QLinearConv, a ReLU (or a Clip from 0 on) between it and its
output going into the rounding; sums, products of two values, averages and joins become QLinear*
where all that they read and make is in 8 bits; a product with a constant matrix needs no rounded
output. Gemm, products with a bias (of which it makes a Gemm) and transposed convolutions stay in
float. TensorRT takes Q/DQ before convolutions and products, and on the shortcut of a sum.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.eight_bits import before_rounding
from ..graph.program import Program, is_standard
from ..graph.stored_weight import StoredWeight

CPU, TENSORRT = "cpu", "tensorrt"
_PRODUCTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_ALONGSIDE = frozenset(("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"))
# A product between two float ones is rounded and widened for nothing: slower than in float.
_FEWEST_PRODUCTS = 2


@dataclass(frozen=True, eq=False)
class Unit:
    """An operator, the values that it has to read in 8 bits, and the one to make ('': any).

    `product`: it multiplies by a weight, which stands in 8 bits.
    """

    node: gs.Node
    reads: tuple[str, ...]
    makes: str = ""
    product: bool = True

    @property
    def values(self) -> tuple[str, ...]:
        """All values that have to be in 8 bits."""
        return (*self.reads, self.makes) if self.makes else self.reads


def is_product(node: gs.Node) -> bool:
    """Whether the node multiplies values by a constant weight."""
    return (
        is_standard(node)
        and node.op in _PRODUCTS
        and len(node.inputs) > 1
        and isinstance(node.inputs[1], gs.Constant)
        and isinstance(node.inputs[0], gs.Variable)
    )


def why_no_kernel(node: gs.Node, target: str) -> str:
    """Why a product can't be computed in 8 bits by the target, whatever the values; '' if it can.

    `node` is one by `is_product`.
    """
    weight = node.inputs[1]
    if not isinstance(weight, StoredWeight):
        return "weight in float"
    if weight.bits != 8:
        return f"weight in {weight.bits} bits"
    if target == TENSORRT:
        return ""
    if node.op in ("Gemm", "ConvTranspose"):
        return f"no integer kernel of {node.op}"
    if node.op == "MatMul" and _has_bias(node):
        return "no integer kernel of MatMul with a bias"
    return ""


def units_of(program: Program, target: str) -> list[Unit]:
    """The operators that the target could compute in 8 bits, in topological order."""
    found = _for_tensorrt(program) if target == TENSORRT else _for_cpu(program)
    return [unit for unit in found if all(map(_is_float, _tensors(program, unit)))]


def supported(
    units: Sequence[Unit], values: Collection[str], target: str
) -> tuple[list[Unit], list[str]]:
    """Of the units those that run in 8 bits with no other values than these, and the values then.

    Of the values only those are left that such a unit reads or makes.
    """
    kept = set(values)
    while True:
        alive = [unit for unit in units if kept.issuperset(unit.values)]
        if target == CPU:
            alive = _without_lonely(alive)
        wanted = dict.fromkeys(value for unit in alive for value in unit.values)
        if len(wanted) == len(kept):
            return alive, list(wanted)
        kept = set(wanted)


def _for_cpu(program: Program) -> Iterator[Unit]:
    outputs = program.output_names
    for node in program.graph.nodes:
        if is_product(node):
            if not why_no_kernel(node, CPU):
                makes = "" if node.op == "MatMul" else _rounded_result(node, outputs)
                if makes is not None:
                    yield Unit(node, (before_rounding(program, node.inputs[0]).name,), makes)
        elif is_standard(node) and node.op in _ALONGSIDE:
            read = [tensor for tensor in node.inputs if not tensor.is_empty()]
            makes = _rounded_result(node, outputs)
            if makes is not None and all(isinstance(tensor, gs.Variable) for tensor in read):
                reads = (before_rounding(program, tensor).name for tensor in read)
                yield Unit(node, tuple(dict.fromkeys(reads)), makes, False)


def _for_tensorrt(program: Program) -> Iterator[Unit]:
    order = program.order()
    for node in program.graph.nodes:
        if is_product(node) and not why_no_kernel(node, TENSORRT):
            yield Unit(node, (before_rounding(program, node.inputs[0]).name,))
        elif is_standard(node) and node.op == "Add":
            read = [before_rounding(program, tensor) for tensor in node.inputs]
            shortcuts = [t for t in read if isinstance(t, gs.Variable) and t.inputs]
            # Of two results of products the later is the branch into which the sum is fused.
            if len(shortcuts) == 2 and any(is_product(t.inputs[0]) for t in shortcuts):
                first = min(shortcuts, key=lambda t: (is_product(t.inputs[0]), order[t.name]))
                yield Unit(node, (first.name,), "", False)


def _rounded_result(node: gs.Node, outputs: Collection[str]) -> str | None:
    """What is to be rounded of what a node makes: behind a ReLU that alone reads it.

    None where that is an output, which stays in float.
    """
    value = node.outputs[0]
    if value.name not in outputs and len(value.outputs) == 1 and _cuts_at_zero(value.outputs[0]):
        value = value.outputs[0].outputs[0]
    return None if value.name in outputs else value.name


def _cuts_at_zero(node: gs.Node) -> bool:
    if not is_standard(node) or node.op not in ("Relu", "Clip"):
        return False
    if node.op == "Relu":
        return True
    low = node.attrs.get("min")
    if len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        low = node.inputs[1].values
    return low is not None and float(np.asarray(low).reshape(-1)[0]) == 0.0


def most_of(value: gs.Tensor) -> float:
    """What a value is cut off at by the Clip that makes it; infinite where none does.

    A range beyond that would keep ONNX Runtime from leaving the Clip to the rounding.
    """
    node = value.inputs[0] if value.inputs else None
    if node is None or not is_standard(node) or node.op != "Clip":
        return math.inf
    high = node.attrs.get("max")
    if len(node.inputs) > 2 and isinstance(node.inputs[2], gs.Constant):
        high = node.inputs[2].values
    return math.inf if high is None else float(np.asarray(high).reshape(-1)[0])


def _has_bias(node: gs.Node) -> bool:
    readers = node.outputs[0].outputs
    return any(
        reader.op == "Add" and any(isinstance(t, gs.Constant) for t in reader.inputs)
        for reader in readers
    )


def _tensors(program: Program, unit: Unit) -> list[gs.Tensor]:
    read = [before_rounding(program, t) for t in unit.node.inputs if isinstance(t, gs.Variable)]
    return [*(t for t in read if t.name in unit.reads), unit.node.outputs[0]]


def _is_float(tensor: gs.Tensor) -> bool:
    dtype = tensor.dtype
    return dtype is not None and not isinstance(dtype, int) and np.dtype(dtype) == np.float32


def _without_lonely(units: Sequence[Unit]) -> list[Unit]:
    """The units but those of stretches with too few products to pay for the rounding."""
    stretch: dict[str, str] = {}

    def root(value: str) -> str:
        while stretch.setdefault(value, value) != value:
            value = stretch[value]
        return value

    for unit in units:
        for value in unit.values[1:]:
            stretch[root(value)] = root(unit.values[0])
    products: dict[str, int] = {}
    for unit in units:
        if unit.product:
            place = root(unit.values[0])
            products[place] = products.get(place, 0) + 1
    return [u for u in units if products.get(root(u.values[0]), 0) >= _FEWEST_PRODUCTS]


def nodes_in_eight_bits(program: Program, values: Mapping[str, bool]) -> set[str]:
    """The products, by name, that run in 8 bits where these values are (with signed codes?)."""
    target = TENSORRT if any(values.values()) else CPU
    alive = [u for u in units_of(program, target) if set(values).issuperset(u.values)]
    return {unit.node.name for unit in alive if unit.product}
