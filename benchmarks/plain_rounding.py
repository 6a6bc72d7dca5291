"""Weights rounded to 8 bits and nothing else: what error feedback and refits are compared with.

Every channel is divided by its largest weight and rounded to the nearest of 255 steps, as every
quantiser does that looks at no frames. The integers stand in the file, and a DequantizeLinear makes
floats of them: operators compute as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, version_converter

Array = NDArray[Any]

# DequantizeLinear has a scale for each channel since this version of the operator set.
OPSET = 13
STEPS = 127


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model is written in."""
    return next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)


def with_opset(model: onnx.ModelProto, least: int = OPSET) -> onnx.ModelProto:
    """The model in this version of the operators, or as it is where it has that or a later one.

    Raises RuntimeError (onnx's own) for operators that it cannot convert.
    """
    return model if opset_of(model) >= least else version_converter.convert_version(model, least)


def rounded(weight: Array, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The nearest integers, of the weight's shape, and the scale of each channel along `axis`."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest = np.abs(weight).max(axis=others, initial=0.0)
    # A channel of zeros is exact at any scale.
    scale = np.where(largest > 0, largest / STEPS, 1.0).astype(np.float32)
    # The smallest numbers have no 127th.
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    along = np.expand_dims(scale, others).astype(np.float64)
    steps = np.rint(weight.astype(np.float64) / along)
    return np.clip(steps, -STEPS, STEPS).astype(np.int8), scale


def plainly_rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the weights of all linear operators stand in 8 bits, a scale per channel.

    Weights may be initializers or Constants, behind Identities too. Those inside of other nodes
    (If, Loop), those that a caller may override and those that are no float32 stay. Raises
    RuntimeError where the operators cannot be brought to `OPSET`.
    """
    made = onnx.ModelProto()
    made.CopyFrom(with_opset(model))
    graph = made.graph
    constants = constants_of(graph)
    names: dict[tuple[str, int], str] = {}
    dequantised: list[onnx.NodeProto] = []
    for node in graph.node:
        for index, axis in weights_of(node):
            weight = constants.get(node.input[index])
            if weight is None or weight.dtype != np.float32 or weight.ndim < 2 or not weight.size:
                continue
            key = (node.input[index], axis % weight.ndim)
            if key not in names:
                names[key] = f"{key[0]}_rounded_{key[1]}"
                steps, scale = rounded(weight, key[1])
                stored = [f"{names[key]}_steps", f"{names[key]}_scale"]
                graph.initializer.append(numpy_helper.from_array(steps, stored[0]))
                graph.initializer.append(numpy_helper.from_array(scale, stored[1]))
                dequantised.append(
                    helper.make_node("DequantizeLinear", stored, [names[key]], axis=key[1])
                )
            node.input[index] = names[key]
    for node in reversed(dequantised):
        graph.node.insert(0, node)
    without_unused(graph)
    return made


def weights_of(node: onnx.NodeProto) -> Sequence[tuple[int, int]]:
    """(input, axis of the outputs) of what may be weights of a linear operator."""
    if node.domain not in ("", "ai.onnx"):
        return ()
    attributes = {one.name: one.i for one in node.attribute}
    if node.op_type == "Conv":
        return ((1, 0),)
    if node.op_type == "ConvTranspose":
        return ((1, 1),)
    if node.op_type == "Gemm":
        return ((1, 0 if attributes.get("transB") else 1),)
    return ((0, -2), (1, -1)) if node.op_type == "MatMul" else ()


def constants_of(graph: onnx.GraphProto) -> Mapping[str, Array]:
    """All constants by name, also by the names that Identities give them."""
    given = {value.name for value in graph.input}
    found = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name not in given
    }
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def without_unused(graph: onnx.GraphProto) -> None:
    """Take out what made the floats, where nobody reads them any more."""
    while True:
        read = {*_read(graph), *(value.name for value in graph.output)}
        idle = [
            node
            for node in graph.node
            if node.op_type in ("Constant", "Identity") and not read & set(node.output)
        ]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for tensor in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(tensor)


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """The names that nodes read, those inside of other nodes too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read(inner)
                yield from (value.name for value in inner.output)
