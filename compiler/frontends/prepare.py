"""A model's protobuf made ready: unique names, and weights taken out.

Checking, shape inference and version conversion serialise the whole model; protobuf stops at
2 GB and copies as it goes. So weights are taken out first, and a model without them, the
*light* model, in which they are graph inputs of their type and shape, goes through those steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError
from ..graph.arrays import Array
from ..graph.export import standard
from ..graph.program import FreeNames
from .external_data import TensorFiles

Names = dict[str, str]

# Shape inference reads small constants (shapes, axes, scales); larger ones are weights.
LIGHT_ELEMENTS = 1024


def prepare(
    proto: onnx.ModelProto, files: TensorFiles, defaults: Container[str] = ()
) -> dict[str, Array]:
    """Makes `proto` light, in place, and gives all constants of its top level by name.

    Initializers named in `defaults` are none: they stay inputs with an initializer.

    Afterwards every node has a name; node names, and value names, are unique in the whole
    model, bodies of If, Loop and Scan included; the ONNX domain is called ''; initializers are
    not graph inputs, except those taken out and `defaults`; every output is listed once.
    """
    _check_fields(proto, files.where)
    proto.ir_version = max(proto.ir_version, 4)  # before, every initializer had to be an input
    for entry in proto.opset_import:
        entry.domain = standard(entry.domain)
    for function in proto.functions:
        for entry in function.opset_import:
            entry.domain = standard(entry.domain)
        for node in all_nodes(function.node):
            node.domain = standard(node.domain)
    _list_outputs_once(proto.graph)
    _name_nodes(proto.graph)
    _name_values(proto.graph)
    _plain_functions(proto)
    weights = _Weights(files, defaults)
    weights.take(proto.graph)
    for function in proto.functions:
        for node in all_nodes(function.node):
            weights.inline(node)
    return weights.arrays


def _check_fields(proto: onnx.ModelProto, where: str) -> None:
    """Raises ModelError if a value's type is unknown, or a name is not UTF-8.

    Of such names protobuf gives bytes where it promises str.
    """
    texts: list[Any] = [proto.producer_name, proto.producer_version, proto.doc_string]
    texts += [proto.graph.name, proto.graph.doc_string]
    texts += [entry.domain for entry in proto.opset_import]
    for entry in (*proto.metadata_props, *proto.graph.metadata_props):
        texts += [entry.key, entry.value]
    graphs = [proto.graph]
    nodes: list[onnx.NodeProto] = []
    for function in proto.functions:
        texts += [function.name, function.domain, function.overload, function.doc_string]
        texts += [*function.input, *function.output, *function.attribute]
        texts += [entry.domain for entry in function.opset_import]
        nodes += list(all_nodes(function.node))
    nodes += list(all_nodes(proto.graph.node))
    graphs += [body for node in nodes for body in bodies(node)]
    for node in nodes:
        texts += [node.op_type, node.domain, node.name, node.overload, node.doc_string]
        texts += [*node.input, *node.output]
        for attribute in node.attribute:
            texts += [attribute.name, attribute.ref_attr_name, attribute.t.name]
        for entry in node.metadata_props:
            texts += [entry.key, entry.value]
    for graph in graphs:
        texts.append(graph.name)
        for value in (*graph.input, *graph.output, *graph.value_info):
            texts.append(value.name)
            texts += [dim.dim_param for dim in value.type.tensor_type.shape.dim]
            if value.type.tensor_type.elem_type not in onnx.TensorProto.DataType.values():
                raise ModelError(
                    f"{where} is corrupt: '{value.name}' has an unknown type",
                    "copy, download or export it again",
                )
        said: dict[str, onnx.TypeProto] = {}
        for value in graph.output:
            if said.setdefault(value.name, value.type) != value.type:
                raise ModelError(
                    f"{where} is corrupt: output '{value.name}' is listed twice, with two types",
                    "copy, download or export it again",
                )
        texts += [sparse.values.name for sparse in graph.sparse_initializer]
        for tensor in graph.initializer:
            texts.append(tensor.name)
            for entry in tensor.external_data:
                texts += [entry.key, entry.value]
    if not all(isinstance(text, str) for text in texts):
        raise ModelError(
            f"{where} is corrupt: a name in it is not UTF-8 text",
            "copy, download or export it again",
        )


def all_nodes(nodes: Any) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their bodies, in order."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from all_nodes(body.node)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _list_outputs_once(graph: onnx.GraphProto) -> None:
    """Leaves the first of outputs of one name: callers get outputs by name."""
    once: dict[str, onnx.ValueInfoProto] = {}
    for value in graph.output:
        once.setdefault(value.name, value)
    if len(once) < len(graph.output):
        _replace(graph.output, list(once.values()))


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Keeps the first of equal names; a nameless node is called by its operator and place."""
    nodes = list(all_nodes(graph.node))
    taken = FreeNames(node.name for node in nodes)
    seen: set[str] = set()
    for index, node in enumerate(nodes):
        node.domain = standard(node.domain)
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        node.name = taken.free(node.name or f"{node.op_type}_{index}")
        seen.add(node.name)


def _name_values(graph: onnx.GraphProto) -> None:
    """Renames values of bodies whose name is used elsewhere in the model."""
    taken = FreeNames(_defined(graph))

    def visit(body: onnx.GraphProto, outer: Names) -> None:
        names = dict(outer)
        for name in _defined(body):
            names[name] = taken.free(name)
        if any(old != new for old, new in names.items()):
            _rename(body, names)
        for node in body.node:
            for inner in bodies(node):
                visit(inner, names)

    for node in graph.node:
        for body in bodies(node):
            visit(body, {})


def _defined(graph: onnx.GraphProto) -> dict[str, None]:
    """The names that a graph itself gives to values, in order."""
    found = {value.name: None for value in graph.input}
    found.update({tensor.name: None for tensor in graph.initializer})
    found.update({tensor.values.name: None for tensor in graph.sparse_initializer})
    found.update({name: None for node in graph.node for name in node.output})
    found.pop("", None)
    return found


def _rename(body: onnx.GraphProto, names: Names) -> None:
    for value in (*body.input, *body.output, *body.value_info, *body.initializer):
        value.name = names.get(value.name, value.name)
    for sparse in body.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in body.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)


def _plain_functions(proto: onnx.ModelProto) -> None:
    """Gives overloads of a local function names of their own (graphsurgeon has no overloads)."""
    renamed = {
        (f.domain, f.name, f.overload): f"{f.name}.{f.overload}"
        for f in proto.functions
        if f.overload
    }
    if not renamed:
        return
    for function in proto.functions:
        function.name = renamed.get(
            (function.domain, function.name, function.overload), function.name
        )
        function.ClearField("overload")
    graphs = [proto.graph.node, *(function.node for function in proto.functions)]
    for node in (node for nodes in graphs for node in all_nodes(nodes)):
        node.op_type = renamed.get((node.domain, node.op_type, node.overload), node.op_type)
        node.ClearField("overload")


class _Weights:
    """Takes the constants out of a graph and its bodies."""

    def __init__(self, files: TensorFiles, defaults: Container[str]) -> None:
        self.files = files
        self.defaults = defaults
        self.arrays: dict[str, Array] = {}

    def take(self, graph: onnx.GraphProto) -> None:
        """Top level: every constant becomes an entry of `arrays`; small ones stay too."""
        small: list[onnx.TensorProto] = []
        stubs: list[onnx.ValueInfoProto] = []
        for name, array in self.constants(graph, lambda name, array: name not in self.defaults):
            if array.size <= LIGHT_ELEMENTS:
                small.append(numpy_helper.from_array(np.asarray(array), name))
            self._add(name, array)
        self.bodies(graph)
        kept = {tensor.name for tensor in small}
        for name, array in self.arrays.items():
            if name not in kept:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                stubs.append(helper.make_tensor_value_info(name, kind, array.shape))
        inputs = [value for value in graph.input if value.name not in self.arrays]
        _replace(graph.input, [*inputs, *stubs])
        _replace(graph.initializer, [*graph.initializer, *small])

    def bodies(self, graph: onnx.GraphProto) -> None:
        """Moves large constants of bodies to the top level; the others stay, inline."""
        for node in graph.node:
            self.inline(node)
            for body in bodies(node):
                given = {value.name for value in body.input}

                def large(name: str, array: Array, given: set[str] = given) -> bool:
                    return array.size > LIGHT_ELEMENTS and name not in given

                for name, array in self.constants(body, large):
                    self._add(name, array)
                self.bodies(body)

    def constants(
        self, graph: onnx.GraphProto, wanted: Callable[[str, Array], bool]
    ) -> list[tuple[str, Array]]:
        """The constants of this graph that are wanted; they are removed from it."""
        found: list[tuple[str, Array]] = []
        kept: list[onnx.TensorProto] = []

        def sort(name: str, array: Array) -> bool:
            if wanted(name, array):
                found.append((name, array))
                return True
            return False

        for tensor in graph.initializer:
            array = self.files.array(tensor)
            if not sort(tensor.name, array):
                kept.append(numpy_helper.from_array(np.asarray(array), tensor.name))
        for sparse in graph.sparse_initializer:
            array = self.files.dense(sparse)
            if not sort(sparse.values.name, array):
                kept.append(numpy_helper.from_array(array, sparse.values.name))
        nodes = [
            node
            for node in graph.node
            if (array := self.constant(node)) is None or not sort(node.output[0], array)
        ]
        _replace(graph.initializer, kept)
        _replace(graph.sparse_initializer, [])
        _replace(graph.node, nodes)
        return found

    def constant(self, node: onnx.NodeProto) -> Array | None:
        """The array of a Constant node; None for other nodes."""
        if node.op_type != "Constant" or node.domain or not node.attribute:
            return None
        if not node.output or not node.output[0]:
            raise ModelError(
                f"node '{node.name}' of {self.files.where} is a constant without a name",
                "copy, download or export it again",
            )
        attribute = node.attribute[0]
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            attribute.sparse_tensor.values.name = node.output[0]
            return self.files.dense(attribute.sparse_tensor)
        if attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.name = node.output[0]
            return self.files.array(attribute.t)
        dtype = _CONSTANT_DTYPES.get(attribute.name)
        if dtype is None:
            return None
        try:
            if dtype is object:
                if attribute.type == onnx.AttributeProto.STRING:
                    return np.array(attribute.s.decode(), object)
                return np.array([text.decode() for text in attribute.strings], object)
            return np.array(helper.get_attribute_value(attribute), dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise self.files.corrupt(node.output[0], str(error)) from error

    def inline(self, node: onnx.NodeProto) -> None:
        """Puts external data of the node's own tensors into the node, and checks the others."""
        for attribute in node.attribute:
            own = (attribute.t,) if attribute.HasField("t") else ()
            for tensor in (*own, *attribute.tensors):
                array = self.files.array(tensor, f"{node.name}.{attribute.name}")
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), tensor.name))

    def _add(self, name: str, array: Array) -> None:
        if not name or name in self.arrays:
            raise ModelError(
                f"{self.files.where} has two weights named '{name}'", "export the model again"
            )
        self.arrays[name] = array


_CONSTANT_DTYPES: dict[str, Any] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": object,
    "value_strings": object,
}


def _replace(field: Any, entries: Sequence[Any]) -> None:
    """Makes `entries` the content of a repeated protobuf field."""
    copies = [copy.deepcopy(entry) for entry in entries]
    del field[:]
    field.extend(copies)
