"""Which inputs of a model have a default that callers may override."""

from __future__ import annotations

import math

import onnx

from .prepare import LIGHT_ELEMENTS, all_nodes

# The inputs that are weights of a linear map: infinite there, every output is infinite or NaN.
LINEAR = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1)}
# Those that are trained: NaN there comes of a training that failed.
TRAINED = {
    **LINEAR, "BatchNormalization": (1, 2, 3, 4), "GRU": (1, 2, 3), "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "LSTM": (1, 2, 3), "LayerNormalization": (1, 2),
    "PRelu": (1,), "RNN": (1, 2, 3),
}  # fmt: skip


def listed_initializers(proto: onnx.ModelProto) -> frozenset[str]:
    """The initializers that are inputs too, from IR 4 on, where that means callers may feed them.

    Before, every initializer had to be an input.
    """
    if proto.ir_version < 4:
        return frozenset()
    listed = {value.name for value in proto.graph.input}
    return frozenset(listed & {tensor.name for tensor in proto.graph.initializer})


def take_defaults(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The initializers that are inputs too, taken out: inference would believe in their values."""
    listed = {value.name for value in proto.graph.input}
    tensors = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(tensor for tensor in tensors if tensor.name not in listed)
    return [tensor for tensor in tensors if tensor.name in listed]


def are_weights(proto: onnx.ModelProto, listed: frozenset[str]) -> bool:
    """Whether the exporter lists all its weights as inputs, as many did long after IR 4 came.

    To take those for settings would keep every weight from being folded, shared or fitted.
    """
    large = any(
        math.prod(tensor.dims) > LIGHT_ELEMENTS
        for tensor in proto.graph.initializer
        if tensor.name in listed
    )
    return large or any(
        index < len(node.input) and node.input[index] in listed
        for node in all_nodes(proto.graph.node)
        if not node.domain
        for index in TRAINED.get(node.op_type, ())
    )
