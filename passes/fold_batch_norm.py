"""Fold BatchNormalization into the operator before it."""

from __future__ import annotations

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
class FoldBatchNorm:
    """A Conv, ConvTranspose or Gemm does the BatchNormalization after it too.

    The result keeps its name; a weight with other readers is copied if it is within
    `growth_nbytes`. Not by a library (onnxoptimizer, onnxsim): those rewrite whole ModelProtos,
    drop the names and metadata that must last, and fold the QDQ and opaque nodes that must stay.
    """

    name: ClassVar[str] = "fold-batch-norm"
    exact: ClassVar[bool] = True

    growth_nbytes: int = 2**20

    def run(self, program: Program) -> list[Change]:
        """One change for every BatchNormalization folded."""
        outputs = program.output_names
        changes: list[Change] = []
        edit = Edit(program)
        for node in program.graph.nodes:
            operator = _operator_before(node, outputs)
            arrays = None if operator is None else _folded(operator, node)
            if operator is None or arrays is None:
                continue
            old = {id(t): t for t in [*operator.inputs, *node.inputs] if isinstance(t, gs.Constant)}
            weight = operator.inputs[1]
            if len(weight.outputs) > 1 and arrays[0].nbytes > self.growth_nbytes:
                continue
            bias = operator.inputs[2].name if len(operator.inputs) > 2 else ""
            names = (f"{weight.name}.folded", f"{bias}.folded" if bias else f"{operator.name}.bias")
            new = [
                gs.Constant(edit.names.free(name), array)
                for name, array in zip(names, arrays, strict=True)
            ]
            operator.inputs = [operator.inputs[0], *new]
            if operator.op == "Gemm":
                operator.attrs["beta"] = 1.0
            add_source(program, operator, node)
            result = node.outputs[0]
            edit.remove([node])
            operator.outputs = [result]
            freed = sum(nbytes_of(t) for t in old.values() if not t.outputs)
            into = f"{operator.op} '{operator.name}'"
            what = f"BatchNormalization '{node.name}' is folded into {into}"
            changes.append(Change(what, node.name, freed - sum(nbytes_of(t) for t in new)))
        edit.done()
        return changes


def _operator_before(node: gs.Node, outputs: set[str]) -> gs.Node | None:
    """The operator with constant weights whose only reader this inference-time node is."""
    if (
        node.op != "BatchNormalization"
        or not is_rewritable(node)
        or node.attrs.get("training_mode", 0) != 0
        or node.attrs.get("spatial", 1) != 1
        or any(not value.is_empty() for value in node.outputs[1:])
        or not all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:])
    ):
        return None
    value = node.inputs[0]
    if value.name in outputs or len(value.outputs) != 1 or len(value.inputs) != 1:
        return None
    operator = value.inputs[0]
    weights = [tensor for tensor in operator.inputs[1:] if not tensor.is_empty()]
    known = operator.op in {"Conv", "ConvTranspose", "Gemm"} and is_rewritable(operator)
    return operator if known and all(isinstance(w, gs.Constant) for w in weights) else None


def _folded(operator: gs.Node, node: gs.Node) -> tuple[Array, Array] | None:
    """Weight and bias of the operator with the node's scale and shift in them."""
    weight, *biases = (t.values for t in operator.inputs[1:] if isinstance(t, gs.Constant))
    scale, offset, mean, variance = (
        t.values.astype(np.float64) for t in node.inputs[1:] if isinstance(t, gs.Constant)
    )
    bias = biases[0].astype(np.float64) if biases else np.zeros(1)
    if operator.op == "Gemm":
        bias = bias * operator.attrs.get("beta", 1.0)
    if bias.size not in (1, scale.size) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
        return None
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        scaled = _scaled(operator, weight, factor)
        if scaled is None:
            return None
        scaled = scaled.astype(weight.dtype)
        shifted = ((bias.reshape(-1) - mean) * factor + offset).astype(weight.dtype)
    finite = np.isfinite(scaled).all() and np.isfinite(shifted).all()
    return (scaled, shifted) if finite else None


def _scaled(operator: gs.Node, weight: Array, factor: Array) -> Array | None:
    """The weight, every output channel times its factor; None if their numbers differ."""
    spatial = [1] * (weight.ndim - 2)
    if operator.op == "Conv":
        fits = weight.shape[0] == factor.size
        return weight * factor.reshape(-1, 1, *spatial) if fits else None
    if operator.op == "Gemm":
        transposed = operator.attrs.get("transB", 0)
        fits = weight.shape[0 if transposed else 1] == factor.size
        return weight * (factor.reshape(-1, 1) if transposed else factor) if fits else None
    groups: int = operator.attrs.get("group", 1)
    if groups * weight.shape[1] != factor.size:
        return None
    # [C, M / groups, ...]: output channel m is number m % (M / groups) of its group.
    apart = weight.reshape(groups, -1, *weight.shape[1:])
    return (apart * factor.reshape(groups, 1, -1, *spatial)).reshape(weight.shape)
