"""Programs raised to a newer opset, node by node, with ONNX's version converter.

The converter is given only the nodes whose operator changed, each on its own: run on a whole
model it drops metadata, and stops at local functions, bodies and operators of other domains.
What it gets wrong (seen with onnx 1.23) is put right here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import defs, helper, numpy_helper

from ..errors import ModelError
from ..graph.export import attribute_proto, every_node, named_sizes, opset_versions
from ..graph.opaque import LocalFunction
from ..graph.program import Program, model_of, own_name
from ..graph.weights import array_of, element_type
from .batched_scan import split_batch
from .build import GraphBuilder
from .conversion import OldNode, convert
from .prepare import LIGHT_ELEMENTS, all_nodes, bodies

OLDEST_OPSET = 17  # LayerNormalization; what the passes are written for
WIDELY_RUN = 7  # ONNX Runtime runs few operators as they were before


# Operators that a version of ONNX took back and ONNX Runtime still runs: the first and the last
# opset of that version. The next one has them again.
DEPRECATED = {"GroupNormalization": (18, 20)}


def oldest_for(program: Program) -> int:
    """The opset that the program has to be raised to at least, for the passes and the checker."""
    protos = [f.proto for f in program.graph.functions if isinstance(f, LocalFunction)]
    used = {node.op for node in every_node(program.graph.nodes) if not node.domain}
    used |= {node.op_type for f in protos for node in all_nodes(f.node) if not node.domain}
    last = [
        newest for op, (oldest, newest) in DEPRECATED.items()
        if op in used and oldest <= program.graph.opset <= newest
    ]  # fmt: skip
    return max([OLDEST_OPSET, *(newest + 1 for newest in last)])


def raise_opset(program: Program, opset: int, where: str) -> None:
    """Rewrites the program's nodes for a newer opset of the ONNX domain, in place.

    Nodes whose operator means the same in both are not touched. Others keep their name,
    metadata and docs; nodes that come beside them get them too. Raises ModelError, naming the
    node, where no conversion exists.
    """
    graph = program.graph
    old = graph.opset
    if old >= opset:
        return
    taken = {node.name for node in every_node(graph.nodes)}
    for node in every_node(graph.nodes):
        taken |= {tensor.name for tensor in (*node.inputs, *node.outputs)}
    for scope in [graph, *(b for node in every_node(graph.nodes) for b in node.subgraphs())]:
        _raise_nodes(program, scope, (old, opset), where, taken)
        scope.opset = opset
    graph.functions = [
        _raise_function(function, opset, where)
        for function in graph.functions
        if isinstance(function, LocalFunction)
    ]
    versions = opset_versions(graph) | {"": opset}
    graph.import_domains = [helper.make_opsetid(d, v) for d, v in sorted(versions.items())]


def _raise_nodes(
    program: Program, scope: gs.Graph, opsets: tuple[int, int], where: str, taken: set[str]
) -> None:
    parts: dict[int, OldNode] = {}
    outputs = {id(value) for value in scope.outputs}
    for node in scope.nodes:
        if node.op == "Scan" and not node.domain and opsets[0] < 9 <= opsets[1]:
            builder = GraphBuilder(model_of(node.name))
            builder.names = taken
            split_batch(program, node, builder.free, where)
        if node.domain or not _redefined(node.op, *opsets) or any(node.subgraphs()):
            continue
        proto = helper.make_node(
            node.op,
            [tensor.name for tensor in node.inputs],
            [tensor.name for tensor in node.outputs],
            own_name(node.name),
        )
        proto.attribute.extend(attribute_proto(key, value) for key, value in node.attrs.items())
        read = {value.name for value in node.outputs if value.outputs or id(value) in outputs}
        parts[id(node)] = OldNode(proto, [_info(t) for t in node.inputs], _constants(node), read)
    convert(list(parts.values()), *opsets, where)
    nodes: list[gs.Node] = []
    for node in scope.nodes:
        part = parts.get(id(node))
        nodes += _rebuilt(program, node, part, taken) if part and part.rewritten else [node]
    scope.nodes = nodes


def _redefined(op: str, old: int, new: int) -> bool:
    """Whether the ONNX operator changed after opset `old`, up to opset `new`."""
    try:
        after = defs.get_schema(op, new, "")
        return after.deprecated or after.since_version > old
    except defs.SchemaError:
        return True


def _info(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    kind = onnx.TensorProto.FLOAT if tensor.dtype is None else element_type(tensor.dtype)
    return helper.make_tensor_value_info(tensor.name, kind, named_sizes(tensor))


def _constants(node: gs.Node) -> dict[str, onnx.TensorProto]:
    """The node's small constant inputs: some conversions read them."""
    found: dict[str, onnx.TensorProto] = {}
    for tensor in node.inputs:
        if isinstance(tensor, gs.Constant) and array_of(tensor).size <= LIGHT_ELEMENTS:
            array = np.asarray(array_of(tensor))
            found[tensor.name] = numpy_helper.from_array(array, tensor.name)
    return found


def _rebuilt(program: Program, node: gs.Node, part: OldNode, taken: set[str]) -> list[gs.Node]:
    """The nodes that take the node's place; one of them is the node itself, changed."""
    builder = GraphBuilder(model_of(node.name))
    builder.names = taken
    tensors = {tensor.name: tensor for tensor in (*node.inputs, *node.outputs) if tensor.name}

    def tensor(name: str) -> gs.Tensor:
        if not name:
            return gs.Variable.empty()
        if name not in tensors:
            tensors[name] = gs.Variable(builder.free(f"{node.name}/{name}"))
        return tensors[name]

    for constant in part.new_constants:
        name = builder.free(f"{node.name}/{constant.name}")
        tensors[constant.name] = gs.Constant(name, numpy_helper.to_array(constant))
    same = [new for new in part.result if new.op_type == node.op]
    main = (same or part.result)[-1]
    node.inputs.clear()
    node.outputs.clear()
    nodes: list[gs.Node] = []
    for new in part.result:
        attrs: dict[str, Any] = {a.name: builder.attribute(a, {}, {}) for a in new.attribute}
        if new is main:
            target = node
            target.op, target.attrs = new.op_type, attrs
        else:
            target = gs.Node(new.op_type, builder.free(f"{node.name}/{new.op_type}"), attrs)
            if node.name in program.metadata:
                program.metadata[target.name] = dict(program.metadata[node.name])
            program.notes[target.name] = program.note(node.name)
        target.inputs = [tensor(name) for name in new.input]
        target.outputs = [tensor(name) for name in new.output]
        nodes.append(target)
    return nodes


def _raise_function(function: LocalFunction, opset: int, where: str) -> LocalFunction:
    """The function with its nodes, those of bodies included, in the newer opset."""
    proto = onnx.FunctionProto()
    proto.CopyFrom(function.proto)
    told = f"function '{function.name}' of {where}"
    for entry in proto.opset_import:
        if not entry.domain and entry.version < opset:
            scopes = [proto, *(body for node in all_nodes(proto.node) for body in bodies(node))]
            for scope in scopes:
                _raise_protos(scope, (entry.version, opset), told)
            entry.version = opset
    return LocalFunction(proto)


def _raise_protos(
    scope: onnx.FunctionProto | onnx.GraphProto, opsets: tuple[int, int], where: str
) -> None:
    parts: dict[int, OldNode] = {}
    read = {name for node in all_nodes(scope.node) for name in node.input}
    read |= {name if isinstance(name, str) else name.name for name in scope.output}
    read |= {info.name for n in all_nodes(scope.node) for b in bodies(n) for info in b.output}
    for index, node in enumerate(scope.node):
        if node.op_type == "Scan" and not node.domain and opsets[0] < 9:
            raise ModelError(
                f"node '{node.name}' (Scan) of {where} cannot be raised from opset {opsets[0]}",
                "export the model with opset 9 or newer",
            )
        if not node.domain and _redefined(node.op_type, *opsets) and not any(bodies(node)):
            infos = [helper.make_tensor_value_info(n, 1, None) for n in node.input]
            parts[index] = OldNode(node, infos, {}, read)
    convert(list(parts.values()), *opsets, where)
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(scope.node):
        part = parts.get(index)
        if part is None or not part.rewritten:
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            nodes.append(kept)
            continue
        prefix = next(name for name in node.output if name)
        own = {*node.input, *node.output}
        for constant in part.new_constants:
            name = f"{prefix}/{constant.name}"
            nodes.append(helper.make_node("Constant", [], [name], value=constant))
        for new in part.result:
            for names in (new.input, new.output):
                names[:] = [n if n in own else f"{prefix}/{n}" for n in names]
            nodes.append(new)
    del scope.node[:]
    scope.node.extend(nodes)
