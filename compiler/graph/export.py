"""Programs as ONNX: whole or in part, in memory or on disk."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from ..errors import ModelError
from .dequantising import dequantising
from .opaque import DefaultInput, LocalFunction, NonTensorValue
from .program import (
    Dimension,
    Model,
    Program,
    bodies_of,
    constants_of,
    constants_of_bodies,
    node_inputs,
)
from .weights import (
    SMALL_NBYTES,
    array_of,
    bits_of,
    byte_chunks,
    element_type,
    held_key,
    nbytes_by_bits,
    nbytes_of,
    values_nbytes,
)

# Node metadata needs IR 10; runtimes on devices lag behind, so newer only if an opset needs it.
COMMON_IR = 10
INLINE_LIMIT_NBYTES = 64 * 2**20  # weights above this go to a file of their own
_PAGE, _LINE = 4096, 64  # alignment of weights that are worth mapping, and of others
_PAGED_NBYTES = 2**20
GRAPH_KEY = "repsimc.graph."  # Model.metadata: what the model's GraphProto said of itself
MODEL_KEY = "repsimc.model."  # ModelProto.metadata_props of a program of several models


def to_proto(
    program: Program,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    light_elements: int | None = None,
    data: DataFile | None = None,
) -> onnx.ModelProto:
    """The program as ONNX: all of it, or what computes `outputs` from `inputs` (value names).

    Of a part, graph inputs that it needs besides `inputs` are added after them. Only the
    constants and local functions that are needed are included. Nodes carry the program's
    metadata and docs. With `light_elements`, constants of more elements become graph inputs, so
    that types can be inferred without the weights; with `data`, large ones go there.
    Raises ModelError if there is no value of a given name.
    """
    graph = program.graph
    whole = inputs is None and outputs is None
    if whole:
        nodes, graph_inputs, graph_outputs = graph.nodes, graph.inputs, graph.outputs
    else:
        values = program.values()
        graph_inputs = [_look_up(values, name) for name in inputs or ()]
        graph_outputs = (
            graph.outputs if outputs is None else [_look_up(values, name) for name in outputs]
        )
        nodes = program.needed_nodes(graph_outputs, stop=inputs or ())
        given = {value.name for value in graph_inputs}
        read = {tensor.name for node in nodes for tensor in node_inputs(node)}
        read |= {value.name for value in graph_outputs}
        graph_inputs += [v for v in graph.inputs if v.name in read and v.name not in given]
    proto = onnx.ModelProto()
    given = {value.name for value in graph_inputs}
    exported = _Exporter(program, proto.graph, given, light_elements, data)
    constants = _top_constants(nodes, graph_outputs)
    exported.write_graph(proto.graph, nodes, graph_inputs, graph_outputs, constants, ())
    proto.graph.name = graph.name or "repsimc"
    proto.producer_name = "repsimc"
    _describe(proto, program.models.values(), whole)
    proto.functions.extend(functions_of(graph, nodes))
    used = exported.domains | {f.domain for f in proto.functions} | {""}
    versions = opset_versions(graph)
    for function in proto.functions:
        used |= {entry.domain for entry in function.opset_import}
        for entry in function.opset_import:
            versions.setdefault(entry.domain, entry.version)
    for domain in sorted(used):
        proto.opset_import.append(helper.make_opsetid(domain, versions.get(domain, 1)))
    # The input's own IR version says how new its exporter was, not what the model needs.
    needed = helper.find_min_ir_version_for(list(proto.opset_import), ignore_unknown=True)
    proto.ir_version = max(COMMON_IR, needed)
    return proto


def write_model(
    program: Program,
    directory: Path,
    stem: str = "merged",
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    inline_limit_nbytes: int = INLINE_LIMIT_NBYTES,
    in_floats: bool = False,
) -> list[Path]:
    """The files written: `stem`.onnx and, if the weights exceed the limit, `stem`.onnx.data.

    Stored weights are written in their few bits, with a node each that makes their values, or as
    these values if `in_floats`. Raises ModelError where the opset has no such node.
    `inputs` and `outputs` as for `to_proto`; the limit is held against the whole program.
    Equal programs give equal bytes. Weights go to the data file one piece at a time, at offsets
    that can be memory-mapped; small ones stay in the model. Raises OSError if the disk is full.
    """
    if not in_floats:
        program = dequantising(program)
    path = directory / f"{stem}.onnx"
    constants = constants_of(every_node(program.graph.nodes))
    weights = {constant.name: values_nbytes(constant) for constant in constants}
    if sum(weights.values()) <= inline_limit_nbytes:
        proto = to_proto(program, inputs=inputs, outputs=outputs)
        path.write_bytes(proto.SerializeToString(deterministic=True))
        return [path]
    data = directory / f"{stem}.onnx.data"
    with data.open("wb") as stream:
        into = DataFile(stream, data.name)
        proto = to_proto(program, inputs=inputs, outputs=outputs, data=into)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return [path, data]


def held_nbytes(nodes: Iterable[gs.Node]) -> int:
    """Bytes of the weights that the nodes and their bodies read, as a file holds them.

    Equal ones count once, as they are once the program shares them; small ones of a body, which
    stay in it, count each.
    """
    return sum(map(nbytes_of, _held(nodes)))


def held_nbytes_by_bits(nodes: Iterable[gs.Node]) -> dict[str, int]:
    """What `held_nbytes` counts, by the bits that an element takes: {"32": 4096, "8": 1024}."""
    return nbytes_by_bits((bits_of(weight), nbytes_of(weight)) for weight in _held(nodes))


def _held(nodes: Iterable[gs.Node]) -> list[gs.Constant]:
    """The weights that `held_nbytes` counts, equal ones once."""
    nodes = list(nodes)
    found = {held_key(t): t for t in constants_of(nodes)}
    # One that the top level reads too is held there, whatever its size.
    above = {t.name for t in constants_of(nodes)}
    for tensor in constants_of_bodies(nodes):
        if tensor.name not in above:
            found[held_key(tensor, in_body=True)] = tensor
    return list(found.values())


class DataFile:
    """Weights appended to a file of ONNX external data."""

    def __init__(self, stream: BinaryIO, location: str) -> None:
        self.stream = stream
        self.location = location

    def append(self, constant: gs.Constant) -> onnx.TensorProto:
        """The tensor that points to the constant's bytes, which are written behind the others."""
        array = array_of(constant)
        nbytes = values_nbytes(constant)
        align = _PAGE if nbytes >= _PAGED_NBYTES else _LINE
        self.stream.write(b"\0" * (-self.stream.tell() % align))
        proto = onnx.TensorProto(
            name=constant.name,
            data_type=element_type(array.dtype),
            dims=array.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        for key, value in (
            ("location", self.location),
            ("offset", self.stream.tell()),
            ("length", nbytes),
        ):
            proto.external_data.add(key=key, value=str(value))
        for chunk in byte_chunks(array):
            self.stream.write(chunk)
        return proto


def opset_versions(graph: gs.Graph) -> dict[str, int]:
    """The version of every operator domain the graph imports; '' is the ONNX domain."""
    found = {standard(entry.domain): int(entry.version) for entry in graph.import_domains or ()}
    found[""] = graph.opset
    return found


def standard(domain: str | None) -> str:
    """The domain, with the long name of the ONNX domain made the short one."""
    return "" if domain in (None, "ai.onnx") else domain


def functions_of(graph: gs.Graph, nodes: Iterable[gs.Node]) -> list[onnx.FunctionProto]:
    """The local functions that these nodes need, in the graph's order."""
    known = {(f.domain, f.name): f.proto for f in graph.functions if isinstance(f, LocalFunction)}
    if not known:
        return []
    needed: set[tuple[str, str]] = set()
    stack = [(standard(node.domain), node.op) for node in every_node(nodes)]
    while stack:
        key = stack.pop()
        if key in known and key not in needed:
            needed.add(key)
            stack.extend(calls(known[key].node))
    return [proto for key, proto in known.items() if key in needed]


def calls(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, str]]:
    """Domain and operator of the nodes and of those in their bodies."""
    for node in nodes:
        yield node.domain, node.op_type
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from calls(attribute.g.node)


def every_node(nodes: Iterable[gs.Node]) -> Iterator[gs.Node]:
    """The nodes and those of their bodies (If, Loop, Scan), in order."""
    for node in nodes:
        yield node
        for body in bodies_of(node):
            yield from every_node(body.nodes)


def value_info(value: gs.Tensor) -> onnx.ValueInfoProto:
    """Name, type and shape of a value; without a type if none is known."""
    if isinstance(value, NonTensorValue):
        proto = onnx.ValueInfoProto(name=value.name)
        proto.type.CopyFrom(value.type_proto)
        return proto
    if value.dtype is None:
        return onnx.ValueInfoProto(name=value.name)
    return helper.make_tensor_value_info(value.name, element_type(value.dtype), named_sizes(value))


def named_sizes(value: gs.Tensor) -> list[Dimension] | None:
    """The value's shape as ONNX has it: a free size by its name, or as unknown without one."""
    # A measured size without a name is '', which would read as the name of a size.
    return None if value.shape is None else [None if dim == "" else dim for dim in value.shape]


@contextmanager
def any_rank_allowed(proto: onnx.ModelProto) -> Generator[None]:
    """The model in the form that onnx.checker takes, as long as the context lasts.

    The checker wants a shape for every input and output; the standard and ONNX Runtime do not.
    """
    tensors = [value.type.tensor_type for value in (*proto.graph.input, *proto.graph.output)]
    lacking = [tensor for tensor in tensors if tensor.elem_type and not tensor.HasField("shape")]
    for tensor in lacking:
        tensor.shape.SetInParent()
    try:
        yield
    finally:
        for tensor in lacking:
            tensor.ClearField("shape")


def _look_up(values: dict[str, gs.Variable], name: str) -> gs.Variable:
    if name not in values:
        raise ModelError(f"the program has no value '{name}'")
    return values[name]


def _describe(proto: onnx.ModelProto, models: Iterable[Model], whole: bool) -> None:
    """Writes what the models say of themselves; a part of a program says nothing."""
    if not whole:
        return
    models = list(models)
    entries: dict[str, str] = {}
    for model in models:
        alone = len(models) == 1
        if alone:
            proto.doc_string = model.doc_string
        elif model.doc_string:
            entries[f"{MODEL_KEY}{model.name}.doc_string"] = model.doc_string
        for key, value in model.metadata.items():
            if not alone:
                entries[f"{MODEL_KEY}{model.name}.{key}"] = value
            elif key == f"{GRAPH_KEY}doc_string":
                proto.graph.doc_string = value
            elif key.startswith(GRAPH_KEY):
                proto.graph.metadata_props.add(key=key.removeprefix(GRAPH_KEY), value=value)
            else:
                entries[key] = value
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value)


def _top_constants(
    nodes: Iterable[gs.Node], outputs: Iterable[gs.Tensor]
) -> dict[str, gs.Constant]:
    """The constants of the top level: read there, by more than one body, or large."""
    readers: dict[str, set[int]] = {}
    found: dict[str, gs.Constant] = {}

    def visit(scope: int, some: Iterable[gs.Node]) -> None:
        for node in some:
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant):
                    found.setdefault(tensor.name, tensor)
                    readers.setdefault(tensor.name, set()).add(scope)
            for body in bodies_of(node):
                visit(id(body), body.nodes)

    visit(0, nodes)
    for tensor in outputs:
        if isinstance(tensor, gs.Constant):
            found[tensor.name] = tensor
            readers[tensor.name] = {0}
    return {
        name: tensor
        for name, tensor in found.items()
        if 0 in readers[name] or len(readers[name]) > 1 or nbytes_of(tensor) > SMALL_NBYTES
    }


@dataclass(frozen=True)
class _Exporter:
    """Writes nodes and bodies into the graph `top`; remembers the domains of their operators."""

    program: Program
    top: onnx.GraphProto
    given: set[str]
    light_elements: int | None
    data: DataFile | None
    domains: set[str] = field(default_factory=set[str])

    def write_graph(
        self,
        proto: onnx.GraphProto,
        nodes: Sequence[gs.Node],
        inputs: Iterable[gs.Tensor],
        outputs: Sequence[gs.Tensor],
        constants: dict[str, gs.Constant],
        visible: Iterable[str],
    ) -> None:
        for value in inputs:
            proto.input.append(value_info(value))
            if isinstance(value, DefaultInput) and self.light_elements is None:
                proto.initializer.append(numpy_helper.from_array(value.default, value.name))
        proto.output.extend(value_info(value) for value in outputs)
        typed = {value.name for value in outputs}
        visible = {*visible, *constants}
        for tensor in constants.values():
            self.write_constant(proto, tensor)
        for node in nodes:
            self.write_node(proto.node.add(), node, visible)
            for value in node.outputs:
                if value.name and value.name not in typed and value.name not in self.given:
                    typed.add(value.name)
                    if value.dtype is not None or isinstance(value, NonTensorValue):
                        proto.value_info.append(value_info(value))

    def write_constant(self, proto: onnx.GraphProto, tensor: gs.Constant) -> None:
        array = array_of(tensor)
        if self.light_elements is not None and array.size > self.light_elements:
            self.top.input.append(value_info(tensor))
        elif (
            self.data is not None
            and array.dtype != object
            and (values_nbytes(tensor) > SMALL_NBYTES)
        ):
            proto.initializer.append(self.data.append(tensor))
        else:
            proto.initializer.append(tensor_proto(tensor))

    def write_node(self, proto: onnx.NodeProto, node: gs.Node, visible: set[str]) -> None:
        proto.op_type = node.op
        proto.name = node.name
        domain = standard(node.domain)
        self.domains.add(domain)
        if domain:
            proto.domain = domain
        proto.input.extend(tensor.name for tensor in node.inputs)
        # A value that is given and also made by a node that is needed for another output.
        proto.output.extend(
            f"{value.name}/recomputed" if value.name in self.given else value.name
            for value in node.outputs
        )
        for key, value in node.attrs.items():
            if isinstance(value, gs.Graph):
                attribute = proto.attribute.add(name=key, type=onnx.AttributeProto.GRAPH)
                self.write_body(attribute.g, value, visible)
            else:
                proto.attribute.append(attribute_proto(key, value))
        strings = self.program.metadata.get(node.name, {})
        if node.name in self.program.notes:
            strings = {**strings, **self.program.notes[node.name].strings()}
        for key, text in strings.items():
            proto.metadata_props.add(key=key, value=text)
        doc = self.program.docs.get(node.name)
        if doc:
            proto.doc_string = doc

    def write_body(self, proto: onnx.GraphProto, body: gs.Graph, visible: set[str]) -> None:
        proto.name = body.name or "body"
        proto.doc_string = body.doc_string or ""
        constants = {
            tensor.name: tensor
            for tensor in [t for node in body.nodes for t in node.inputs] + list(body.outputs)
            if isinstance(tensor, gs.Constant) and tensor.name not in visible
        }
        self.write_graph(proto, body.nodes, body.inputs, body.outputs, constants, visible)


def tensor_proto(constant: gs.Constant) -> onnx.TensorProto:
    """The constant as ONNX, its bytes inside."""
    return numpy_helper.from_array(array_of(constant), constant.name)


def attribute_proto(key: str, value: Any) -> onnx.AttributeProto:
    """The attribute as ONNX; AttributeProtos (kinds that graphsurgeon has no words for) as is."""
    if isinstance(value, onnx.AttributeProto):
        return value
    if isinstance(value, gs.Constant):
        value = tensor_proto(value)
    if isinstance(value, list) and not value:
        return onnx.AttributeProto(name=key, type=onnx.AttributeProto.INTS)
    return helper.make_attribute(key, value)
