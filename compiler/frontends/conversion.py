"""ONNX's version converter, run on single nodes, and what it gets wrong put right."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    what they read besides; both use the node's own names for its inputs and outputs. `read` are
    the outputs that anything reads.
    """

    node: onnx.NodeProto
    inputs: Sequence[onnx.ValueInfoProto]
    constants: dict[str, onnx.TensorProto]
    read: Collection[str]
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
    parts = [part for part in parts if not _converted_here(part, old, new, where)]
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


def _converted_here(part: OldNode, old: int, new: int, where: str) -> bool:
    """Whether the node was given its result without the converter, which gets its kind wrong."""
    if part.node.op_type == "BatchNormalization" and len(part.node.output) > 1 and old < 14 <= new:
        part.result.append(_trained_norm(part, old, where))
        return True
    if part.node.op_type == "Dropout" and old < 12 <= new and part.node.output[1:]:
        _empty_mask(part, old)
        return True
    if part.node.op_type == "GroupNormalization" and old < 21 <= new:
        _per_channel(part)
        return True
    return False


def _empty_mask(part: OldNode, old: int) -> None:
    """Dropout's mask tells what is kept from opset 12 on; before, ONNX Runtime leaves it empty."""
    value, mask = part.node.input[0], part.node.output[1]
    kept = "kept" if mask in part.read else ""
    outputs = [part.node.output[0], kept] if kept else [part.node.output[0]]
    part.result.append(helper.make_node("Dropout", [value], outputs, part.node.name))
    if kept:
        empty = mask if old >= 10 else "nothing"
        part.result.append(helper.make_node("Not", [kept], [empty]))
        if empty != mask:
            part.result.append(helper.make_node("CastLike", [empty, value], [mask]))


def _per_channel(part: OldNode) -> None:
    """A GroupNormalization that has scale and bias per group gets them per channel, as in 21."""
    groups = next(a.i for a in part.node.attribute if a.name == "num_groups")

    def constant(name: str, numbers: list[int]) -> str:
        part.new_constants.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    def node(
        op: str, inputs: list[str], name: str, attributes: dict[str, int] | None = None
    ) -> str:
        made = helper.make_node(op, inputs, [name])
        for key, value in (attributes or {}).items():
            made.attribute.append(helper.make_attribute(key, value))
        part.result.append(made)
        return name

    channels = node("Shape", [part.node.input[0]], "channels", {"start": 1, "end": 2})
    each = node("Div", [channels, constant("groups", [groups])], "channels_of_group")
    sizes = node("Concat", ["groups", each], "groups_and_channels", {"axis": 0})
    column, flat = constant("column", [-1, 1]), constant("flat", [-1])
    wide: list[str] = []
    for given, name in zip(part.node.input[1:], ("scale", "bias"), strict=True):
        apart = node("Reshape", [given, column], f"{name}_of_group")
        every = node("Expand", [apart, sizes], f"{name}_of_group_and_channel")
        wide.append(node("Reshape", [every, flat], f"{name}_of_channel"))
    kept = onnx.NodeProto()
    kept.CopyFrom(part.node)
    kept.input[1:] = wide
    part.result.append(kept)


def _trained_norm(part: OldNode, old: int, where: str) -> onnx.NodeProto:
    """A BatchNormalization that lists training outputs: ONNX Runtime takes the batch's statistics.

    Opset 14 says so in an attribute; it has no outputs for the batch's own mean and variance.
    """
    node = onnx.NodeProto()
    node.CopyFrom(part.node)
    where = f"node '{node.name}' (BatchNormalization) of {where}"
    attributes = {attribute.name: attribute for attribute in node.attribute}
    kept = [attributes[name] for name in ("epsilon", "momentum") if name in attributes]
    if len(node.output) != 5 or not all(node.output):
        raise ModelError(
            f"{where} lists {sum(map(bool, node.output))} outputs; in opset {old} it has one, or "
            "in training all five",
            "export the model for inference",
        )
    if any(name in part.read for name in node.output[3:]):
        raise ModelError(
            f"{where} hands out the batch's own mean and variance, which no newer opset has",
            "export the model for inference, or with opset 14 or newer",
        )
    if "spatial" in attributes and attributes["spatial"].i != 1:
        raise ModelError(f"{where} has spatial=0, which no newer opset has", "export it again")
    del node.output[3:]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("training_mode", 1)])
    return node


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
