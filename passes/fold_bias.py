"""Fold the addition of a number per channel into the convolution before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ..compiler.graph.arrays import Array
from ..compiler.graph.edit import Edit
from ..compiler.graph.program import Program
from ..compiler.graph.weights import nbytes_of
from .base import Change, add_source, is_rewritable


@dataclass(frozen=True)
class FoldBias:
    """A Conv or ConvTranspose adds what the Add after it adds to each channel.

    Exporters write a bias either way, so that one network looks like two. The result keeps its
    name.
    """

    name: ClassVar[str] = "fold-bias"
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> list[Change]:
        """One change for every Add folded."""
        outputs = program.output_names
        changes: list[Change] = []
        edit = Edit(program)
        for node in program.graph.nodes:
            operator = _operator_before(node, outputs)
            bias = None if operator is None else _bias(operator, node)
            if operator is None or bias is None:
                continue
            old = {id(t): t for t in [*operator.inputs[2:], *node.inputs]}
            bias_name = operator.inputs[2].name if operator.inputs[2:] else ""
            name = f"{bias_name}.folded" if bias_name else f"{operator.name}.bias"
            new = gs.Constant(edit.names.free(name), bias)
            operator.inputs = [*operator.inputs[:2], new]
            add_source(program, operator, node)
            result = node.outputs[0]
            edit.remove([node])
            operator.outputs = [result]
            freed = sum(
                nbytes_of(t) for t in old.values() if isinstance(t, gs.Constant) and not t.outputs
            )
            what = f"Add '{node.name}' is folded into {operator.op} '{operator.name}'"
            changes.append(Change(what, node.name, freed - nbytes_of(new)))
        edit.done()
        return changes


def _operator_before(node: gs.Node, outputs: set[str]) -> gs.Node | None:
    """The convolution with constant weights whose only reader this Add of a constant is."""
    if node.op != "Add" or not is_rewritable(node) or node.outputs[0].is_empty():
        return None
    values = [tensor for tensor in node.inputs if not isinstance(tensor, gs.Constant)]
    if len(values) != 1 or values[0].is_empty() or values[0].name in outputs:
        return None
    value = values[0]
    if len(value.outputs) != 1 or len(value.inputs) != 1:
        return None
    operator = value.inputs[0]
    known = operator.op in {"Conv", "ConvTranspose"} and is_rewritable(operator)
    weights = [tensor for tensor in operator.inputs[1:] if not tensor.is_empty()]
    return operator if known and all(isinstance(w, gs.Constant) for w in weights) else None


def _bias(operator: gs.Node, node: gs.Node) -> Array | None:
    """The convolution's bias with the constant added; None where that is none per channel."""
    weight, *biases = (t.values for t in operator.inputs[1:] if isinstance(t, gs.Constant))
    added = next(t.values for t in node.inputs if isinstance(t, gs.Constant))
    channels = weight.shape[0]
    if operator.op == "ConvTranspose":
        channels = weight.shape[1] * int(operator.attrs.get("group", 1))
    # [C, 1, 1] and [1, C, 1, 1]: a number per channel, and no axis more than the result has.
    shape = (channels, *[1] * (weight.ndim - 2))
    leading = added.shape[: max(added.ndim - len(shape), 0)]
    if added.ndim > weight.ndim or added.shape != (*leading, *shape) or math.prod(leading) != 1:
        return None
    before = biases[0].astype(np.float64) if biases else 0.0
    with np.errstate(over="ignore"):
        bias = (before + added.reshape(-1).astype(np.float64)).astype(weight.dtype)
    return bias if np.isfinite(bias).all() else None
