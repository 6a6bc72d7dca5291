"""Parts of a model that no pass looks into: they are kept, and written as they were read."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_graphsurgeon as gs

from .arrays import Array


class NonTensorValue(gs.Variable):
    """A value that is no tensor (sequence, optional, map, sparse): its ONNX type is kept as is.

    `dtype` and `shape` are None: onnx-graphsurgeon has no words for these types, and its own
    `Variable.copy()` forgets that the value is not a tensor.
    """

    def __init__(self, name: str, type_proto: onnx.TypeProto) -> None:
        super().__init__(name)
        self.type_proto = type_proto

    def copy(self) -> NonTensorValue:
        """The same value without producers and readers."""
        return NonTensorValue(self.name, self.type_proto)


class DefaultInput(gs.Variable):
    """An input that callers may leave out: `default` is then its value.

    No pass takes it for a constant. It is exported as an input and an initializer.
    """

    def __init__(self, name: str, default: Array, shape: Any = None) -> None:
        super().__init__(name, default.dtype, default.shape if shape is None else shape)
        self.default = default

    def copy(self) -> DefaultInput:
        """The same input without readers."""
        return DefaultInput(self.name, self.default, self.shape)


class LocalFunction(gs.Function):
    """A local function of a model, kept as it is: `proto` is what is exported.

    Its nodes are not part of the graph; nothing rewrites them.
    """

    def __init__(self, proto: onnx.FunctionProto) -> None:
        opset = next((e.version for e in proto.opset_import if not e.domain), None)
        super().__init__(
            proto.name, proto.domain, opset=opset, import_domains=list(proto.opset_import)
        )
        self.proto = onnx.FunctionProto()
        self.proto.CopyFrom(proto)
