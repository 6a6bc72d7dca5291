"""What a model file says of its values beside what its nodes make of them, and what of it is kept.

ONNX Runtime takes the shape of a value from what makes it and only warns where the file says
another; exporters, and people who make an axis free by hand, leave stale shapes behind.
"""

from __future__ import annotations

from copy import deepcopy

import onnx
from onnx.helper import make_tensor_value_info

from ..graph.export import standard
from ..graph.program import Shape
from .prepare import all_nodes, bodies


def drop_claims(proto: onnx.ModelProto) -> dict[str, Shape]:
    """Takes every shape out of the model, in place, but those of inputs, weights and constants.

    Gives the shapes that were claimed for outputs, by name.

    ONNX Runtime holds feeds to the shapes of inputs; all other shapes are told anew by inference.
    Element types stay where inference has no word: for what operators of other domains make, for
    outputs, and for what bodies of If, Loop and Scan take and give. ONNX Runtime makes a Loop's
    counter and condition in the shapes that its body says, and what a Loop collects over no turns.
    """
    functions = {(function.domain, function.name) for function in proto.functions}
    opaque = {
        name
        for node in all_nodes(proto.graph.node)
        for name in node.output
        if standard(node.domain) and (node.domain, node.op_type) not in functions
    }
    claimed = {
        info.name: tuple(_dimension(dim) for dim in info.type.tensor_type.shape.dim)
        for info in proto.graph.output
        if info.type.tensor_type.HasField("shape")
    }
    _forget(proto.graph, opaque, len(proto.graph.input))
    for node in all_nodes(proto.graph.node):
        _forget_bodies(node, opaque)
    for function in proto.functions:
        function.ClearField("value_info")
        for node in all_nodes(function.node):
            _forget_bodies(node, set())
    return claimed


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None


def _forget_bodies(node: onnx.NodeProto, opaque: set[str]) -> None:
    loop = node.op_type == "Loop"
    for body in bodies(node):
        collected = {info.name: info.type for info in body.output[1 + len(node.input) - 2 :]}
        kept = {name: deepcopy(kind) for name, kind in collected.items() if loop}
        _forget(body, opaque, 2 if loop else 0)
        for info in body.output:
            if info.name in kept:
                info.type.CopyFrom(kept[info.name])


def _forget(graph: onnx.GraphProto, opaque: set[str], believed: int) -> None:
    """Forgets what a graph says, but for the shapes of as many inputs as are believed."""
    kept = [info for info in graph.value_info if info.name in opaque]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for info in (*graph.value_info, *graph.output, *graph.input[believed:]):
        _clear_shape(info.type)
    # Inference takes an output's entry for all that is known of an input or weight handed out.
    given = {info.name: info for info in graph.input}
    given |= {
        t.name: make_tensor_value_info(t.name, t.data_type, t.dims) for t in graph.initializer
    }
    for info in graph.output:
        if info.name in given:
            info.CopyFrom(given[info.name])


def _clear_shape(kind: onnx.TypeProto) -> None:
    """Forgets the shape of a tensor, or of the tensors that a sequence or an optional holds."""
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        getattr(kind, which).ClearField("shape")
    elif which in ("sequence_type", "optional_type"):
        _clear_shape(getattr(kind, which).elem_type)
