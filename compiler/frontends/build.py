"""A prepared ONNX model as a program of one model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from ..graph.arrays import Array
from ..graph.export import GRAPH_KEY
from ..graph.opaque import DefaultInput, LocalFunction, NonTensorValue
from ..graph.program import Model, Note, Program, Source, free_name, qualified
from .prepare import all_nodes

Scope = dict[str, gs.Tensor]


def build(proto: onnx.ModelProto, weights: dict[str, Array], name: str, source: Source) -> Program:
    """The program of a light model (see prepare.py) and the weights taken out of it."""
    builder = GraphBuilder(name)
    builder.names |= {qualified(name, node.name) for node in all_nodes(proto.graph.node)}
    builder.names |= {qualified(name, n) for v in all_nodes(proto.graph.node) for n in v.output}
    scope: Scope = {own: gs.Constant(builder.named(own), array) for own, array in weights.items()}
    graph = builder.graph(proto.graph, scope, {})
    graph.name = name
    graph.doc_string = ""
    graph.opset = next((e.version for e in proto.opset_import if not e.domain), 17)
    graph.import_domains = [
        helper.make_opsetid(entry.domain, entry.version) for entry in proto.opset_import
    ]
    graph.ir_version = proto.ir_version
    graph.functions = [LocalFunction(function) for function in proto.functions]
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    metadata |= {f"{GRAPH_KEY}{entry.key}": entry.value for entry in proto.graph.metadata_props}
    if proto.graph.doc_string:
        metadata[f"{GRAPH_KEY}doc_string"] = proto.graph.doc_string
    inputs = {v.name: qualified(name, v.name) for v in proto.graph.input if v.name not in weights}
    defaults = {tensor.name for tensor in proto.graph.initializer} - set(weights)
    model = Model(
        name,
        source,
        {n: value for n, value in inputs.items() if n not in defaults},
        {v.name: value.name for v, value in zip(proto.graph.output, graph.outputs)},
        metadata,
        proto.doc_string,
        optional={n: value for n, value in inputs.items() if n in defaults},
    )
    return Program(graph, {name: model}, builder.metadata, builder.docs, builder.notes)


class GraphBuilder:
    """Makes graphsurgeon graphs, with the names, metadata and docs of their nodes.

    onnx-graphsurgeon's own importer is not used: it decodes binary strings, skips attributes
    that hold types, lists of tensors or sparse tensors, and reads int4 and float8 as other types.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.metadata: dict[str, dict[str, str]] = {}
        self.docs: dict[str, str] = {}
        self.notes: dict[str, Note] = {}
        self.names: set[str] = set()

    def graph(self, proto: onnx.GraphProto, scope: Scope, outer: Scope) -> gs.Graph:
        """The graph; `scope` holds constants it already has, `outer` what it may capture."""
        listed = {} if outer else {value.name: value for value in proto.input}
        for tensor in proto.initializer:
            if tensor.name in listed:
                array = numpy_helper.to_array(tensor)
                shape = self.value(listed[tensor.name]).shape
                scope[tensor.name] = DefaultInput(self.named(tensor.name), array, shape)
            elif tensor.name not in scope:
                scope[tensor.name] = gs.Constant(
                    self.named(tensor.name), numpy_helper.to_array(tensor)
                )
        inputs = [
            value for value in proto.input
            if value.name not in scope or isinstance(scope[value.name], DefaultInput)
        ]  # fmt: skip
        made = {name for node in proto.node for name in node.output}
        local = made | {value.name for value in inputs}
        for info in (*inputs, *proto.value_info, *proto.output):
            if info.name in local and info.name not in scope:
                scope[info.name] = self.value(info)
        nodes = [self.node(node, scope, outer) for node in proto.node]
        # A body may hand its own inputs out, as a loop does with its condition; a model may not,
        # since one value would need two names.
        plain = local if outer else made
        outputs = [
            scope[info.name] if info.name in plain else self.identity(info, scope, outer, nodes)
            for info in proto.output
        ]
        return gs.Graph(
            nodes,
            [scope[value.name] for value in inputs],
            outputs,
            name=proto.name,
            doc_string=proto.doc_string,
        )

    def node(self, proto: onnx.NodeProto, scope: Scope, outer: Scope) -> gs.Node:
        """The node; what it makes is added to `scope`."""

        def read(name: str) -> gs.Tensor:
            if not name:
                return gs.Variable.empty()
            return scope[name] if name in scope else outer[name]

        def made(name: str) -> gs.Tensor:
            if not name:
                return gs.Variable.empty()
            if name not in scope:
                scope[name] = gs.Variable(self.named(name))
            return scope[name]

        inputs = [read(name) for name in proto.input]
        attrs = {a.name: self.attribute(a, scope, outer) for a in proto.attribute}
        name = qualified(self.model, proto.name)
        if proto.metadata_props:
            self.metadata[name] = {e.key: e.value for e in proto.metadata_props}
        self.notes[name] = Note(sources=(name,))
        if proto.doc_string:
            self.docs[name] = proto.doc_string
        outputs = [made(name) for name in proto.output]
        return gs.Node(proto.op_type, name, attrs, inputs, outputs, proto.domain or None)

    def attribute(self, proto: onnx.AttributeProto, scope: Scope, outer: Scope) -> Any:
        """The attribute's value; the AttributeProto itself where Python has no word for it."""
        kind = onnx.AttributeProto
        if proto.type == kind.GRAPH:
            return self.graph(proto.g, {}, {**outer, **scope})
        if proto.type == kind.TENSOR:
            return gs.Constant(proto.t.name, numpy_helper.to_array(proto.t))
        numbers = proto.type in (kind.INT, kind.FLOAT, kind.INTS)
        if numbers or (proto.type == kind.FLOATS and proto.floats):
            return helper.get_attribute_value(proto)
        try:
            if proto.type == kind.STRING:
                return proto.s.decode()
            if proto.type == kind.STRINGS and proto.strings:
                return [text.decode() for text in proto.strings]
        except UnicodeDecodeError:
            pass
        kept = onnx.AttributeProto()
        kept.CopyFrom(proto)
        return kept

    def value(self, info: onnx.ValueInfoProto) -> gs.Variable:
        """The value with its type and shape, as far as they are known."""
        name = self.named(info.name)
        kind = info.type.WhichOneof("value")
        if kind is None:
            return gs.Variable(name)
        if kind != "tensor_type":
            kept = onnx.TypeProto()
            kept.CopyFrom(info.type)
            return NonTensorValue(name, kept)
        tensor = info.type.tensor_type
        if not tensor.elem_type:
            return gs.Variable(name)
        shape = None
        if tensor.HasField("shape"):
            shape = [_dimension(dim) for dim in tensor.shape.dim]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        return gs.Variable(name, dtype, shape)

    def identity(
        self, info: onnx.ValueInfoProto, scope: Scope, outer: Scope, nodes: list[gs.Node]
    ) -> gs.Variable:
        """The output under a name of its own, where it is a constant or comes from outside."""
        own = scope[info.name] if info.name in scope else outer[info.name]
        if isinstance(own, gs.Constant) and info.name in scope:
            own.name = self.free(f"{own.name}/value")
            output = self.value(info)
        else:
            output = self.value(info)
            output.name = self.free(f"{own.name}/output")
        if output.shape is None and not isinstance(output, NonTensorValue):
            output.shape = own.shape
        node = gs.Node("Identity", self.free(f"{output.name}/Identity"), {}, [own], [output])
        self.notes[node.name] = Note(sources=(node.name,))
        nodes.append(node)
        return output

    def named(self, own: str) -> str:
        """The program name of a value."""
        name = qualified(self.model, own)
        self.names.add(name)
        return name

    def free(self, wanted: str) -> str:
        """`wanted`, or with a number behind it if a value or node is called so."""
        name = free_name(wanted, self.names)
        self.names.add(name)
        return name


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None
