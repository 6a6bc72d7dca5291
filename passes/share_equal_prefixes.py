"""Run equal computations once: common subexpression elimination across models."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import defs, helper, numpy_helper

from ..compiler.graph.edit import remove_nodes
from ..compiler.graph.program import FreeNames, Note, Program, model_of
from ..compiler.graph.weights import digest, element_name
from .base import Change, add_source

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
     "Bernoulli"}
)  # fmt: skip
# ONNX Runtime has no Identity for them: an output of such a type keeps the node that makes it.
_NOT_COPIED = frozenset({"int4", "uint4", "int2", "uint2", "float4_e2m1fn", "float8_e8m0fnu"})
# a + b and b + a are the same bits in IEEE arithmetic, as are a * b and b * a.
_COMMUTATIVE = frozenset({"Add", "Mul"})
# A constant of these may have axes of size 1 before its others, or have none: exporters differ.
_BROADCAST = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "Mod", "PRelu", "Where",
     "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"}
)  # fmt: skip


@dataclass(frozen=True)
class ShareEqualPrefixes:
    """Nodes that compute the same from the same values run once, within and across models.

    The same: operator, attributes (defaults filled in), weights by content, and inputs that are
    one value, so whatever precedes a difference is shared and nothing behind it. Random
    operators, control flow and operators of custom domains are never merged. A model output
    keeps its own name: an Identity makes it from the shared value.
    """

    name: ClassVar[str] = "share-equal-prefixes"
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> list[Change]:
        """One change for every node that no longer runs."""
        graph = program.graph
        outputs = program.output_names
        names = program.names()
        kept: dict[Hashable, gs.Node] = {}
        changes: list[Change] = []
        merged: list[gs.Node] = []
        nodes: list[gs.Node] = []  # in order, with the Identities that keep output names
        for node in graph.nodes:
            key = _key(node, graph.opset, outputs)
            first = node if key is None else kept.setdefault(key, node)
            if first is node or any(_keeps_its_maker(v, outputs) for v in node.outputs):
                nodes.append(node)
                continue
            for ours, value in zip(first.outputs, list(node.outputs), strict=True):
                if value.is_empty():
                    continue
                program.replace_uses(value, ours)
                if ours.dtype is None:
                    ours.dtype = value.dtype
                if ours.shape is None:
                    ours.shape = value.shape
                if value.name in outputs:
                    nodes.append(_identity(program, names, node, ours, value))
            add_source(program, first, node)
            merged.append(node)
            nodes.append(node)
            changes.append(_change(node, first))
        graph.nodes = nodes
        freed = remove_nodes(program, merged)
        return [
            Change(change.what, change.node, nbytes)
            for change, nbytes in zip(changes, freed, strict=True)
        ]


def _change(node: gs.Node, first: gs.Node) -> Change:
    where = "within the model" if model_of(node.name) == model_of(first.name) else "once for both"
    return Change(f"{node.op} '{node.name}' equals '{first.name}' and runs {where}", node.name)


def _keeps_its_maker(value: gs.Tensor, outputs: set[str]) -> bool:
    if value.dtype is None or value.name not in outputs:
        return False
    return element_name(value.dtype) in _NOT_COPIED


def _identity(
    program: Program, names: FreeNames, node: gs.Node, ours: gs.Tensor, value: gs.Tensor
) -> gs.Node:
    node.outputs[list(map(id, node.outputs)).index(id(value))] = gs.Variable.empty()
    name = names.free(f"{value.name}.shared")
    identity = gs.Node("Identity", name, {}, [ours], [value])
    sources = program.note(node.name).sources or (node.name,)
    program.notes[name] = Note(sources, ShareEqualPrefixes.name)
    return identity


def _key(node: gs.Node, opset: int, outputs: set[str]) -> Hashable:
    """What the node computes: nodes of equal keys give equal values. None: never merged."""
    if node.domain or node.op in _RANDOM or any(True for _ in node.subgraphs()):
        return None
    if node.op == "Identity" and all(value.name in outputs for value in node.outputs):
        return None  # it holds a model output's own name
    if node.op == "Dropout" and _trains(node, opset):
        return None
    rank = _rank(node) if node.op in _BROADCAST else 0
    inputs = [_operand(tensor, rank) for tensor in node.inputs]
    mode = node.attrs.get("coordinate_transformation_mode")
    if node.op == "Resize" and opset >= 11 and len(inputs) > 1 and mode != "tf_crop_and_resize":
        inputs[1] = "", ""  # the region is read in one mode only: exporters write anything there
    while inputs and inputs[-1] == ("", ""):
        inputs.pop()  # a trailing omitted input may be left out altogether
    if node.op in _COMMUTATIVE:
        inputs.sort()
    given = {key: _attribute(value) for key, value in node.attrs.items()}
    attributes = tuple(sorted({**_defaults(node.op, opset), **given}.items()))
    return node.op, tuple(inputs), attributes, tuple(v.is_empty() for v in node.outputs)


def _trains(node: gs.Node, opset: int) -> bool:
    if opset < 12 or len(node.inputs) < 3 or node.inputs[2].is_empty():
        return False
    mode = node.inputs[2]
    return not (isinstance(mode, gs.Constant) and not mode.values.any())


def _rank(node: gs.Node) -> int:
    """The most axes that a computed input is known to have: the result has as many."""
    shapes = [t.shape for t in node.inputs if isinstance(t, gs.Variable)]
    return max((len(shape) for shape in shapes if shape is not None), default=0)


def _operand(tensor: gs.Tensor, rank: int) -> tuple[str, str]:
    """What an input is; of a constant of at most `rank` axes, leading ones of size 1 left out."""
    if tensor.is_empty():
        return "", ""
    if not isinstance(tensor, gs.Constant):
        return "value", tensor.name
    shape = tuple(tensor.shape)
    if shape[:1] == (1,) and len(shape) <= rank:
        while shape[:1] == (1,):
            shape = shape[1:]
        tensor = gs.Constant("", tensor.values.reshape(shape))
    return "weight", digest(tensor)


@cache
def _defaults(op: str, opset: int) -> dict[str, Hashable]:
    """The attributes that a node of this operator has without saying so."""
    try:
        schema = defs.get_schema(op, opset, "")
    except defs.SchemaError:
        return {}
    return {
        name: _attribute(helper.get_attribute_value(attribute.default_value))
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }


def _attribute(value: Any) -> Hashable:
    """The attribute's value in a form that is equal exactly if the exported bytes are."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, float):
        return "float", np.float32(value).tobytes()  # ONNX holds float32; NaN equals itself
    if isinstance(value, int):
        return "int", int(value)
    if isinstance(value, bytes):
        return "string", value
    if isinstance(value, onnx.TensorProto):
        value = gs.Constant("", numpy_helper.to_array(value))
    if isinstance(value, gs.Constant):
        return "tensor", digest(value)
    if isinstance(value, (list, tuple)):
        return "list", tuple(_attribute(element) for element in cast(list[Any], value))
    if hasattr(value, "SerializeToString"):
        return type(value).__name__, value.SerializeToString(deterministic=True)
    return "object", id(value)  # of a kind unknown here: equal only to itself
