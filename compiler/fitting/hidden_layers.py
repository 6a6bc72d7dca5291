"""Hidden layers: two linear operators with nothing but a function per unit between them.

Their units can be pooled: of two blocks in a row the units of both, fed by the first one's input,
are what one block that replaces the two may choose its own from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.layout import ACTIVATIONS
from ..graph.program import Program, own_name
from .operators import LinearOperator, linear_operator, operator_making

# Functions of one value (with scalar constants) or of several that come from the same unit.
_PER_UNIT = ACTIVATIONS | {"Add", "Sub", "Mul", "Div", "Pow", "Erf", "Neg", "Sqrt", "Identity"}
_LONGEST = 16


@dataclass(frozen=True)
class HiddenLayer:
    """The operator that makes the units, what is applied to each, and the operator that reads them.

    `between` are nodes in topological order, `function` spells them out: equal strings, equal
    functions. `width` is the number of units.
    """

    maker: LinearOperator
    between: tuple[gs.Node, ...]
    reader: LinearOperator
    function: str

    @property
    def width(self) -> int:
        """Number of units."""
        return self.maker.fan_out


def hidden_layer(reader: LinearOperator, outputs: set[str]) -> HiddenLayer | None:
    """The hidden layer that `reader` reads; None where there is none, or where others read it.

    `outputs` names the graph outputs.
    """
    if reader.groups != 1:
        return None
    between: dict[int, gs.Node] = {}
    maker: LinearOperator | None = None
    stack = [reader.source]
    while stack:
        value = stack.pop()
        if len(value.inputs) != 1 or value.name in outputs:
            return None
        node: gs.Node = value.inputs[0]
        if id(node) in between:
            continue
        operator = operator_making(value)
        if operator is not None:
            if maker is not None and maker.node is not operator.node:
                return None
            maker = operator
            continue
        if node.op not in _PER_UNIT or node.domain or len(between) >= _LONGEST:
            return None
        between[id(node)] = node
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                if tensor.values.size != 1:
                    return None
            else:
                stack.append(tensor)
    if maker is None or maker.groups != 1 or type(maker) is not type(reader):
        return None
    members = {*between, id(reader.node)}
    for value in [maker.result, *(node.outputs[0] for node in between.values())]:
        if any(id(one) not in members for one in value.outputs):
            return None
    ordered, function = _ordered(between, maker)
    return HiddenLayer(maker, ordered, reader, function)


def layer_behind(program: Program, value: str) -> HiddenLayer | str:
    """The hidden layer whose reader reads `value`, with its own weights; or why there is none."""
    tensor, name = program.values()[value], own_name(value)
    outputs = program.output_names
    readers = [linear_operator(node) for node in tensor.outputs]
    reader = readers[0] if len(readers) == 1 else None
    if reader is None or reader.source is not tensor:
        return f"no linear operator alone reads '{name}'"
    layer = hidden_layer(reader, outputs)
    if layer is None:
        return f"no linear operator makes '{name}' but for a function per unit, or others read it"
    if any(len(operator.weight.outputs) != 1 for operator in (layer.maker, layer.reader)):
        return f"others read the weights around '{name}', too"
    return layer


def _ordered(between: dict[int, gs.Node], maker: LinearOperator) -> tuple[tuple[gs.Node, ...], str]:
    """The nodes in topological order, and spelled out; none where they go round in a circle."""
    names = {id(maker.result): "x"}
    left, ordered, lines = list(between.values()), list[gs.Node](), list[str]()
    while left:
        ready = (
            node
            for node in left
            if all(isinstance(t, gs.Constant) or id(t) in names for t in node.inputs)
        )
        node = next(ready, None)
        if node is None:
            return (), ""
        left.remove(node)
        ordered.append(node)
        inputs = [
            repr(np.asarray(t.values).reshape(-1).tolist())
            if isinstance(t, gs.Constant)
            else names[id(t)]
            for t in node.inputs
        ]
        names[id(node.outputs[0])] = f"v{len(lines)}"
        lines.append(f"{node.op}({', '.join(inputs)}) {sorted(node.attrs.items())}")
    return tuple(ordered), "; ".join(lines)
