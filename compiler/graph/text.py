"""The program as text: one line per node, the same bytes for the same program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper, printer

from .export import LocalFunction
from .program import Program, constants_of
from .stored_weight import StoredWeight
from .weights import array_of, digest, element_type

_SHOWN_ELEMENTS = 8  # integer constants up to this size (shapes, axes) are shown with their values
_SHORT_TYPES = {
    "FLOAT": "f32",
    "DOUBLE": "f64",
    "FLOAT16": "f16",
    "BFLOAT16": "bf16",
    "BOOL": "bool",
    "STRING": "str",
}


def text(program: Program) -> str:
    """The program as text, for tests, dumps and comparison: stable and without weight bytes.

    First the models with their inputs and outputs, then the weights with the first 8 digits of
    their digest, then the nodes in order, and the local functions. A node's name follows its
    line where it is not the name of its first output. Bodies of If, Loop and Scan are indented
    below their node.
    """
    graph = program.graph
    values = {value.name: value for value in [*graph.inputs, *graph.outputs]}
    lines = [f"program opset {graph.opset}"]
    for model in program.models.values():
        lines.append(f"model {model.name}")
        for kind, mapping in (
            ("input", model.inputs),
            ("optional input", model.optional),
            ("output", model.outputs),
        ):
            for own, name in mapping.items():
                found = values.get(name)
                lines.append(f"  {kind} {own} = {declared(found) if found is not None else name}")
    weights = constants_of(graph.nodes)
    if weights:
        lines += ["weights", *(f"  {_weight(constant)}" for constant in weights)]
    lines += ["nodes", *_nodes(graph.nodes, 1, {id(constant) for constant in weights})]
    for function in graph.functions:
        lines.append(f"function {function.domain}::{function.name}")
        if isinstance(function, LocalFunction):
            lines += [f"  {line}" for line in printer.to_text(function.proto).splitlines()]
    return "\n".join(lines) + "\n"


def declared(tensor: gs.Tensor) -> str:
    """'a/relu_1: f32[N,16,32,32]': a value's name and what is known of its type and shape."""
    if tensor.is_empty():
        return "_"
    return f"{tensor.name}: {_type(tensor.dtype, tensor.shape)}"


def short_type(dtype: Any) -> str:
    """'f32', 'i64', 'bool': a NumPy or ONNX element type in a few letters; '?' for none."""
    if dtype is None:
        return "?"
    name = onnx.TensorProto.DataType.Name(cast(Any, element_type(dtype)))
    if name in _SHORT_TYPES:
        return _SHORT_TYPES[name]
    return name.lower().replace("uint", "u").replace("int", "i").replace("float", "f")


def _type(dtype: Any, shape: Any) -> str:
    if shape is None:
        return short_type(dtype)
    return f"{short_type(dtype)}[{','.join('?' if d in (None, '') else str(d) for d in shape)}]"


def _weight(constant: gs.Constant) -> str:
    array = array_of(constant)
    line = f"%{constant.name} {_type(array.dtype, array.shape)} #{digest(constant)[:8]}"
    if isinstance(constant, StoredWeight):
        line += f" {_storage(constant)}"
    if array.dtype.kind in "iub" and array.size <= _SHOWN_ELEMENTS:
        line += f" = {_list(array.tolist())}"
    return line


def _storage(weight: StoredWeight) -> str:
    """'in 4 bits, a scale per 32 of axis 1': how a weight is stored."""
    scales = "one scale"
    if weight.block:
        scales = f"a scale per {weight.block} of axis {weight.axis}"
    elif weight.scales.ndim:
        scales = f"a scale per channel of axis {weight.axis}"
    return f"in {weight.bits} bits, {scales}"


def _list(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(_list(element) for element in cast(list[Any], value))}]"
    return str(value)


def _nodes(nodes: Iterable[gs.Node], depth: int, shown: set[int]) -> Iterator[str]:
    for node in nodes:
        indent = "  " * depth
        outputs = list(node.outputs)
        made = ", ".join(declared(value) for value in outputs)
        read = ", ".join(_operand(tensor) for tensor in node.inputs)
        op = f"{node.domain}::{node.op}" if node.domain else node.op
        line = f"{indent}{made} = {op}({read})"
        bodies = {key: value for key, value in node.attrs.items() if isinstance(value, gs.Graph)}
        for key in sorted(set(node.attrs) - set(bodies)):
            line += f" {key}={_attribute(node.attrs[key])}"
        yield line if outputs and outputs[0].name == node.name else f"{line}  # {node.name}"
        for key in sorted(bodies):
            yield from _body(key, bodies[key], depth + 1, shown)


def _body(key: str, body: gs.Graph, depth: int, shown: set[int]) -> Iterator[str]:
    inputs = ", ".join(declared(value) for value in body.inputs)
    outputs = ", ".join(_operand(value) for value in body.outputs)
    yield f"{'  ' * depth}{key}({inputs}) -> ({outputs})"
    own = [constant for constant in constants_of(body.nodes) if id(constant) not in shown]
    yield from (f"{'  ' * (depth + 1)}{_weight(constant)}" for constant in own)
    yield from _nodes(body.nodes, depth + 1, shown | {id(constant) for constant in own})


def _operand(tensor: gs.Tensor) -> str:
    if tensor.is_empty():
        return "_"
    return f"%{tensor.name}" if isinstance(tensor, gs.Constant) else tensor.name


def _attribute(value: Any) -> str:
    if isinstance(value, float):
        # ONNX holds float32: 1e-05 went through it as 9.999999747378752e-06.
        return str(np.float32(value))
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_attribute(element) for element in cast(list[Any], value))}]"
    if isinstance(value, onnx.TensorProto):
        value = gs.Constant("", numpy_helper.to_array(value))
    if isinstance(value, gs.Constant):
        array = array_of(value)
        return f"{_type(array.dtype, array.shape)}#{digest(value)[:8]}"
    if isinstance(value, int):
        return str(int(value))
    if hasattr(value, "SerializeToString"):
        content = np.frombuffer(value.SerializeToString(deterministic=True), np.uint8)
        return f"{type(value).__name__}#{digest(gs.Constant('', content))[:8]}"
    if hasattr(value, "name"):
        return f"@{value.name}"  # an attribute of the local function around
    return str(value)
