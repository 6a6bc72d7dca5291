"""ONNX's version converter, run on single nodes, and what it gets wrong put right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError
from ..isolation.allowance import ModelAllowance
from ..isolation.steps import Refused, convert_version


@dataclass
class OldNode:
    """A node to convert, and what became of it.

    `inputs` gives type and shape of the node's inputs, in order; `constants` the small constant
    ones among them. Afterwards `result` holds the nodes that replace it and `new_constants`
    what they read besides; both use the node's own names for its inputs and outputs.
    """

    node: onnx.NodeProto
    inputs: Sequence[onnx.ValueInfoProto]
    constants: dict[str, onnx.TensorProto]
    result: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    new_constants: list[onnx.TensorProto] = field(default_factory=list[onnx.TensorProto])

    @property
    def rewritten(self) -> bool:
        """Whether the node has to be replaced at all."""
        if len(self.result) != 1 or self.new_constants:
            return True
        new = self.result[0]
        return (
            new.op_type != self.node.op_type
            or list(new.input) != list(self.node.input)
            or list(new.output) != list(self.node.output)
            or _attributes(new) != _attributes(self.node)
        )


def convert(parts: Sequence[OldNode], old: int, new: int, where: str) -> None:
    """Fills the parts' results. Raises ModelError, naming the node, if there is no conversion.

    All parts are converted in one call, unconnected: a call costs 2.5 ms whatever it is given.
    """
    if not parts:
        return
    try:
        converted = _converted(parts, old, new, where)
    except Refused:
        for part in parts:
            try:
                _converted([part], old, new, where)
            except Refused as error:
                raise ModelError(
                    f"node '{part.node.name}' ({part.node.op_type}) of {where} cannot be raised "
                    f"from opset {old} to {new}: {(str(error).splitlines() or [error.kind])[-1]}",
                    f"export the model with opset {new}",
                ) from error
        raise
    _assign(parts, converted)
    for part in parts:
        _mend(part, old, new, where)


def _converted(parts: Sequence[OldNode], old: int, new: int, where: str) -> onnx.GraphProto:
    graph = onnx.GraphProto(name="parts")
    for index, part in enumerate(parts):
        node = graph.node.add()
        node.CopyFrom(part.node)
        node.ClearField("metadata_props")
        node.name = str(index)
        if node.op_type == "Hardmax" and old < 13 <= new:
            node.op_type = "Softmax"  # changed alike, but the converter leaves Hardmax as it is
        for attribute in node.attribute:
            _probe(attribute)
        for place, (name, info) in enumerate(zip(part.node.input, part.inputs)):
            if not name:
                continue
            node.input[place] = f"{index}.in.{place}"
            if name in part.constants:
                graph.initializer.append(part.constants[name])
                graph.initializer[-1].name = node.input[place]
            else:
                graph.input.append(info)
                graph.input[-1].name = node.input[place]
        for place, name in enumerate(part.node.output):
            if name:
                node.output[place] = f"{index}.out.{place}"
                graph.output.add(name=node.output[place])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", old)], ir_version=8)
    return convert_version(model, new, ModelAllowance(where, model.ByteSize())).graph


def _assign(parts: Sequence[OldNode], graph: onnx.GraphProto) -> None:
    """Gives each part the nodes and constants that hang together with its own values."""
    owners: dict[str, int] = {}
    for index, part in enumerate(parts):
        owners |= {f"{index}.in.{place}": index for place in range(len(part.node.input))}
        owners |= {f"{index}.out.{place}": index for place in range(len(part.node.output))}
    placed: dict[int, int] = {}
    pending = list(enumerate(graph.node))
    while pending:
        left: list[tuple[int, onnx.NodeProto]] = []
        for place, node in pending:
            names = [name for name in (*node.input, *node.output) if name]
            owner = next((owners[name] for name in names if name in owners), None)
            if owner is None:
                left.append((place, node))
                continue
            owners.update(dict.fromkeys(names, owner))
            placed[place] = owner
        assert len(left) < len(pending), "a converted node hangs together with nothing"
        pending = left
    for place, node in enumerate(graph.node):
        part = parts[placed[place]]
        if node.op_type == "Constant" and not node.input and part.node.op_type != "Constant":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            part.new_constants.append(tensor)
        else:
            if part.node.op_type == "Hardmax" and node.op_type == "Softmax":
                node.op_type = "Hardmax"
            part.result.append(node)
    for tensor in graph.initializer:
        if ".in." not in tensor.name and tensor.name in owners:
            parts[owners[tensor.name]].new_constants.append(tensor)
    for index, part in enumerate(parts):
        own = {f"{index}.in.{place}": name for place, name in enumerate(part.node.input)}
        own |= {f"{index}.out.{place}": name for place, name in enumerate(part.node.output)}
        for node in part.result:
            node.input[:] = [own.get(name, name) for name in node.input]
            node.output[:] = [own.get(name, name) for name in node.output]


def _probe(attribute: onnx.AttributeProto) -> None:
    """Stands in for an attribute that a local function fills in at its call."""
    if not attribute.ref_attr_name:
        return
    attribute.ClearField("ref_attr_name")
    if attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = 0.0
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = 0
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = b""


def _attributes(node: onnx.NodeProto) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for attribute in node.attribute:
        plain = onnx.AttributeProto()
        plain.CopyFrom(attribute)
        _probe(plain)
        plain.ClearField("doc_string")
        if plain.type == onnx.AttributeProto.TENSOR:
            plain.t.ClearField("name")
        found[plain.name] = plain.SerializeToString(deterministic=True)
    return found


def _mend(part: OldNode, old: int, new: int, where: str) -> None:
    op = part.node.op_type
    if part.rewritten and any(a.ref_attr_name for a in part.node.attribute):
        raise ModelError(
            f"node '{part.node.name}' ({op}) of {where} cannot be raised from opset {old} to "
            f"{new}: its attributes are given by the function's caller",
            f"export the model with opset {new}",
        )
    if op in ("Upsample", "Resize") and old < 11:
        _mend_resize(part, where)
    elif op in ("Clip", "Pad") and old < 11 and part.inputs:
        kind = part.inputs[0].type.tensor_type.elem_type
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        for index, constant in enumerate(part.new_constants):
            if constant.data_type == onnx.TensorProto.FLOAT:
                array = numpy_helper.to_array(constant).astype(dtype)
                part.new_constants[index] = numpy_helper.from_array(array, constant.name)


def _mend_resize(part: OldNode, where: str) -> None:
    """Before opset 11 pixels were taken at x / scale, downsampling rounded up (ONNX Runtime)."""
    scales = part.constants.get(part.node.input[1]) if len(part.node.input) > 1 else None
    known = [tensor for tensor in (scales, *part.new_constants) if tensor is not None]
    factors = [numpy_helper.to_array(tensor) for tensor in known if list(tensor.dims) != [8]]
    factor = np.concatenate([f.reshape(-1) for f in factors]) if factors else np.ones(1)
    down = bool((factor < 1).any())
    if down and bool((factor > 1).any()):
        raise ModelError(
            f"node '{part.node.name}' of {where} makes one axis larger and another smaller, "
            "which no newer opset can say",
            "export the model with opset 11 or newer",
        )
    resize = part.result[-1]
    kept = [a for a in resize.attribute if a.name == "mode"]
    kept.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    kept.append(helper.make_attribute("nearest_mode", "ceil" if down else "floor"))
    del resize.attribute[:]
    resize.attribute.extend(kept)
