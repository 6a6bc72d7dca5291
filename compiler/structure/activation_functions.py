"""Where activation functions, attention maps and possible constants are in a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import onnx_graphsurgeon as gs

from ..graph.free_size import equal_shapes, equal_sizes, size_of
from ..graph.layout import ACTIVATIONS
from ..graph.program import Program
from .channel_groups import channel_place

_ELEMENTWISE = ACTIVATIONS | {
    "Add", "Sub", "Mul", "Div", "Neg", "Erf", "Exp", "Pow", "Sqrt", "Abs", "Reciprocal", "Log",
    "Identity", "Min", "Max",
}  # fmt: skip
_AFFINE = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Identity"})


@dataclass(frozen=True)
class Activation:
    """An activation function: one node, or the several that a GELU or SiLU is exported as.

    `given` and `value` name what it reads and makes; `axis` is that of the channels.
    """

    nodes: tuple[gs.Node, ...]
    given: str
    value: str
    axis: int


def activations_of(program: Program, nodes: Sequence[gs.Node]) -> list[Activation]:
    """The activation functions among the nodes: single nodes, and those made of several steps."""
    outside = program.input_names | program.output_names
    found: dict[str, Activation] = {}
    place = {id(node): index for index, node in enumerate(program.graph.nodes)}
    for node in nodes:
        if node.op in ACTIVATIONS and not node.domain and node.outputs[0].name not in outside:
            _note(found, (node,), node.inputs[0], node.outputs[0])
    parts = {id(node) for known in found.values() for node in known.nodes}
    for node in nodes:
        if node.op not in ("Conv", "Gemm", "MatMul") or node.domain:
            continue
        value = node.inputs[0]
        made = value.inputs[0] if len(value.inputs) == 1 else None
        if made is None or id(made) in parts or value.name in outside:
            continue
        unit = _composite(value, place, outside)
        if unit is not None and any(step.op not in _AFFINE for step in unit[0]):
            found = {
                name: other for name, other in found.items()
                if not any(step is part for step in unit[0] for part in other.nodes)
            }  # fmt: skip
            _note(found, unit[0], unit[1], value)
    return list(found.values())


def _note(
    found: dict[str, Activation], nodes: tuple[gs.Node, ...], given: gs.Tensor, value: gs.Tensor
) -> None:
    if not isinstance(given, gs.Variable) or not isinstance(value, gs.Variable):
        return
    place = channel_place(value)
    if given.shape is None or value.shape is None or place is None:
        return
    if len(given.shape) == len(value.shape):
        found[value.name] = Activation(nodes, given.name, value.name, place.axis)


def _composite(
    value: gs.Tensor, place: Mapping[int, int], outside: set[str]
) -> tuple[tuple[gs.Node, ...], gs.Tensor] | None:
    """The elementwise steps that make `value` of one other value, and that value."""
    steps: list[gs.Node] = []
    frontier: dict[int, gs.Tensor] = {id(value): value}
    while True:
        if len(frontier) == 1 and steps:
            (last,) = frontier.values()
            if _is_linear_result(last):
                return tuple(reversed(steps)), last
        makers = [t.inputs[0] for t in frontier.values() if len(t.inputs) == 1]
        if len(makers) != len(frontier) or len(steps) > 16:
            return None
        latest = max(makers, key=lambda node: place.get(id(node), -1))
        made = latest.outputs[0]
        if latest.op not in _ELEMENTWISE or latest.domain or id(latest) not in place:
            return None
        inner = made is not value
        if inner and (made.name in outside or any(id(r) not in place for r in made.outputs)):
            return None
        steps.append(latest)
        del frontier[id(made)]
        for tensor in latest.inputs:
            if isinstance(tensor, gs.Variable) and not tensor.is_empty():
                frontier[id(tensor)] = tensor
        # What a step reads must not be read from outside the steps, or nothing is saved there.
        if inner and any(not any(r is step for step in steps) for r in made.outputs):
            return None


def _is_linear_result(value: gs.Tensor) -> bool:
    if len(value.inputs) != 1:
        return False
    node = value.inputs[0]
    if node.op in ("Conv", "Gemm"):
        return True
    if node.op == "MatMul":
        # With a bias that follows, what follows is the result.
        return not any(
            reader.op == "Add" and any(isinstance(t, gs.Constant) for t in reader.inputs)
            for reader in value.outputs
        )
    if node.op != "Add":
        return False
    return any(
        isinstance(t, gs.Variable) and t.inputs and t.inputs[0].op == "MatMul" for t in node.inputs
    ) and any(isinstance(t, gs.Constant) for t in node.inputs)


def read_by_operators(nodes: Sequence[gs.Node]) -> list[tuple[str, int]]:
    """The values that Conv, Gemm and MatMul read, each with the axis of its channels there."""
    found: dict[str, int] = {}
    for node in nodes:
        if node.op not in ("Conv", "Gemm", "MatMul") or node.domain:
            continue
        value = node.inputs[0]
        if isinstance(value, gs.Variable) and value.shape is not None and len(value.shape) >= 2:
            found[value.name] = 1 if node.op == "Conv" else len(value.shape) - 1
    return list(found.items())


def addends(nodes: Sequence[gs.Node]) -> list[str]:
    """Values that could be a constant where they are read: another operand has the full shape."""
    found: dict[str, None] = {}
    for node in nodes:
        if node.op not in ("Add", "Mul", "Sub", "Div") or node.domain or len(node.inputs) != 2:
            continue
        for value, other in (node.inputs, node.inputs[::-1]):
            made = node.outputs[0].shape
            full = None not in (other.shape, made) and equal_shapes(other.shape, made)
            computed = isinstance(value, gs.Variable) and bool(value.inputs) and value is not other
            if full and computed and isinstance(other, gs.Variable):
                found[value.name] = None
    return list(found)


def attention_pairs(program: Program, models: Sequence[str]) -> list[tuple[str, str]]:
    """Attention maps of adjacent layers: softmaxes that weight the rows of a product."""
    pairs: dict[tuple[str, str], None] = {}
    for model in models:
        maps = [
            node.outputs[0]
            for node in program.nodes_of(model)
            if node.op == "Softmax" and attends(node)
        ]
        for earlier, later in pairwise(maps):
            if may_be_alike(earlier.shape, later.shape):
                pairs[earlier.name, later.name] = None
    return list(pairs)


def attends(node: gs.Node) -> bool:
    """Whether a softmax makes an attention map: of computed scores, read first by a MatMul."""
    value, rank = node.outputs[0], len(node.outputs[0].shape or ())
    readers = value.outputs
    return (
        rank >= 3
        and int(node.attrs.get("axis", -1)) % rank == rank - 1
        and len(readers) == 1
        and readers[0].op == "MatMul"
        and readers[0].inputs[0] is value
        and isinstance(readers[0].inputs[1], gs.Variable)
    )


def may_be_alike(one: Any, other: Any) -> bool:
    """Whether two shapes agree in every size that is known of both."""
    if one is None or other is None or len(one) != len(other):
        return False
    pairs = zip(one, other)
    return all(equal_sizes(a, b) or None in (size_of(a), size_of(b)) for a, b in pairs)
