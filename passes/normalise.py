"""Fold what is constant, remove what does nothing, fold BatchNormalization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, inf, isfinite, prod
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort
from numpy.typing import NDArray

from ..compiler.graph.edit import remove_nodes
from ..compiler.graph.export import NonTensorValue, to_proto
from ..compiler.graph.program import Program
from ..compiler.graph.weights import element_type, nbytes_of
from .base import Change, add_source

Array = NDArray[Any]

_NEVER_FOLDED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",  # int8 weights stay int8
     "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
     "Bernoulli", "Dropout", "ImageDecoder"}
)  # fmt: skip
# Operators whose result may be far larger than what they read: only if its size is known.
_GROWING = frozenset(
    {"ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Upsample", "Pad", "OneHot",
     "CenterCropPad", "Col2Im", "ConvTranspose", "MaxUnpool", "RoiAlign", "AffineGrid", "STFT",
     "DFT", "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix"}
)  # fmt: skip
_ROUND_NBYTES = 256 * 2**20  # what is read and computed in one go: models may exceed the memory
_WIDEST_ELEMENT = 16  # bytes, where the type of a value is unknown


@dataclass(frozen=True)
class Normalise:
    """The same computation in fewer nodes: what later passes compare, cut and refit.

    - Values that depend on constants or static shapes alone become constants, unless that adds
      more than `growth_nbytes` of weights at once. Quantisation, random operators, control
      flow, custom domains and the nodes that make model outputs stay.
    - Identity, inference-time Dropout, and Cast, Reshape, Flatten, Transpose and Concat that
      change nothing go, unless they give a model output its name.
    - BatchNormalization is folded into the Conv, ConvTranspose or Gemm before it. Its output
      keeps its name; a weight with other readers is copied if it is within `growth_nbytes`.
    """

    name: ClassVar[str] = "normalise"
    exact: ClassVar[bool] = True

    growth_nbytes: int = 2**20

    def run(self, program: Program) -> list[Change]:
        """One change for every node removed or folded."""
        changes: list[Change] = []
        while found := [
            *_remove_no_ops(program),
            *_fold_shapes(program),
            *_fold_constants(program, self.growth_nbytes),
            *_fold_batch_norms(program, self.growth_nbytes),
        ]:
            changes += found
        return changes


def _rewritable(node: gs.Node) -> bool:
    return not node.domain and not any(True for _ in node.subgraphs())


# -- nodes that do nothing -----------------------------------------------------------------


def _remove_no_ops(program: Program) -> list[Change]:
    outputs = program.output_names
    removed: list[gs.Node] = []
    for node in program.graph.nodes:
        if (
            _rewritable(node)
            and _does_nothing(node, program.graph.opset)
            and node.outputs[0].name not in outputs
        ):
            program.replace_uses(node.outputs[0], node.inputs[0])
            removed.append(node)
    remove_nodes(program, removed)
    return [Change(f"{node.op} '{node.name}' changes nothing", node.name) for node in removed]


def _does_nothing(node: gs.Node, opset: int) -> bool:
    if not node.inputs or node.inputs[0].is_empty() or node.outputs[0].is_empty():
        return False
    given, made = node.inputs[0], node.outputs[0]
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        mode = node.inputs[2] if len(node.inputs) > 2 and opset >= 12 else None
        infers = mode is None or mode.is_empty()
        infers = infers or (isinstance(mode, gs.Constant) and not mode.values.any())
        return infers and not any(mask.name and mask.outputs for mask in node.outputs[1:])
    if node.op == "Cast":
        return given.dtype is not None and element_type(given.dtype) == node.attrs.get("to")
    if node.op == "Concat":
        return len(node.inputs) == 1
    if given.shape is None:
        return False
    if node.op == "Transpose":
        return list(node.attrs.get("perm", ())) == list(range(len(given.shape)))
    if node.op in {"Reshape", "Flatten"} and made.shape is not None:
        pairs = list(zip(given.shape, made.shape, strict=False))
        known = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        # One unknown dimension among equal ones is equal too, by the number of elements.
        return (
            len(given.shape) == len(made.shape)
            and len(pairs) - len(known) <= 1
            and all(a == b and a > 0 for a, b in known)
        )
    return False


# -- constants -----------------------------------------------------------------------------
# ONNX Runtime evaluates them, but not through onnx-graphsurgeon's fold_constants, which (0.6.1)
# computes Shape without its start and end, makes float64 of a Constant's value_float, draws
# RandomNormal once and for all, changes weights in place that other nodes read (cast elision),
# evaluates every intermediate value however large, and folds nothing if one node fails.


def _fold_shapes(program: Program) -> list[Change]:
    """Shape and Size of values of known shape; of partly known ones, what Gather or Slice takes."""
    outputs = program.output_names
    folded: dict[int, gs.Node] = {}
    for shape_of in program.graph.nodes:
        for node, array in _static(shape_of):
            if node.outputs[0].name not in outputs and id(node) not in folded:
                _to_constant(node.outputs[0], array)
                folded[id(node)] = node
    remove_nodes(program, folded.values())
    return [
        Change(f"{node.op} '{node.name}' follows from static shapes", node.name)
        for node in folded.values()
    ]


def _static(node: gs.Node) -> Iterator[tuple[gs.Node, Array]]:
    """The nodes, this one or its readers, whose result follows from the shape it reads."""
    if node.op not in {"Shape", "Size"} or node.domain or node.inputs[0].shape is None:
        return
    dims: list[Any] = list(node.inputs[0].shape)
    if node.op == "Shape":
        dims = dims[node.attrs.get("start", 0) : node.attrs.get("end", len(dims))]
    if all(isinstance(dim, int) for dim in dims):
        yield node, np.array(dims if node.op == "Shape" else prod(dims), np.int64)
    elif node.op == "Shape":
        for reader in list(node.outputs[0].outputs):
            taken = _taken(reader, node.outputs[0], dims)
            if taken is not None:
                yield reader, taken


def _taken(reader: gs.Node, shape: gs.Tensor, dims: list[Any]) -> Array | None:
    """What Gather or Slice takes from a shape, if those dimensions are known."""
    if reader.domain or len(reader.inputs) < 2 or reader.inputs[0] is not shape:
        return None
    arguments = [tensor.values for tensor in reader.inputs[1:] if isinstance(tensor, gs.Constant)]
    if len(arguments) != len(reader.inputs) - 1:
        return None
    positions = np.arange(len(dims))
    if reader.op == "Gather":
        if np.any(arguments[0] >= len(dims)) or np.any(arguments[0] < -len(dims)):
            return None
        positions = positions[arguments[0]]
    elif reader.op == "Slice" and all(argument.size == 1 for argument in arguments):
        start, end, *rest = (int(argument.reshape(())) for argument in arguments)
        step = rest[1] if len(rest) > 1 else 1
        if step < 1:
            return None
        positions = positions[start:end:step]
    else:
        return None
    taken = [dims[position] for position in np.ravel(positions)]
    if not all(isinstance(dim, int) for dim in taken):
        return None
    return np.array(taken, np.int64).reshape(np.shape(positions))


def _to_constant(value: gs.Tensor, array: Array) -> None:
    value.inputs.clear()
    value.to_constant(array)


def _fold_constants(program: Program, growth_nbytes: int) -> list[Change]:
    """The values that depend on constants alone, computed by ONNX Runtime."""
    folded = _foldable(program, growth_nbytes)
    inside = {id(node) for node in folded}
    wanted = [
        value
        for node in folded
        for value in node.outputs
        if any(id(reader) not in inside for reader in value.outputs)
    ]
    makers = {value.name: value.inputs[0].name for value in wanted}
    arrays = _evaluate(program, wanted)
    if arrays is None:  # one node cannot be run: leave it and what follows from it
        arrays = dict[str, Array]()
        for node in folded:
            values = list(node.outputs)
            if all(t.is_empty() or isinstance(t, gs.Constant) for t in node.inputs):
                arrays |= _evaluate(program, values) or {}
            _replace(values, arrays)
            makers |= {value.name: node.name for value in values}
        folded = [node for node in folded if not node.outputs]
    else:
        _replace(wanted, arrays)
    added = dict.fromkeys((node.name for node in folded), 0)
    for name, array in arrays.items():
        added[makers[name]] += array.nbytes
    freed = remove_nodes(program, folded[::-1])[::-1]
    return [
        Change(
            f"{node.op} '{node.name}' depends on constants alone",
            node.name,
            nbytes - added[node.name],
        )
        for node, nbytes in zip(folded, freed, strict=True)
    ]


def _replace(values: list[gs.Tensor], arrays: Mapping[str, Array]) -> None:
    for value in values:
        if value.name in arrays:
            _to_constant(value, arrays[value.name])


def _foldable(program: Program, growth_nbytes: int) -> list[gs.Node]:
    """Nodes that can be computed now, in order, as many as fit one round."""
    outputs = program.output_names
    sizes: dict[int, tuple[int, int]] = {}  # elements and bytes of what they make, at most
    found: list[gs.Node] = []
    left = _ROUND_NBYTES
    for node in program.graph.nodes:
        made = list(node.outputs)
        read = [tensor for tensor in node.inputs if not tensor.is_empty()]
        if (
            not _rewritable(node)
            or node.op in _NEVER_FOLDED
            or any(v.is_empty() or v.name in outputs or isinstance(v, NonTensorValue) for v in made)
            or not all(isinstance(tensor, gs.Constant) or id(tensor) in sizes for tensor in read)
        ):
            continue
        given = [sizes.get(id(tensor)) or _size(tensor) for tensor in read]
        results = [_result_size(node, value, given) for value in made]
        if not all(results):
            continue
        nbytes = sum(size[1] for size in results if size)
        replaced = sum(
            size[1] for t, size in zip(read, given, strict=True) if size and len(t.outputs) == 1
        )
        cost = nbytes + sum(size[1] for size in given if size)
        if nbytes <= max(growth_nbytes, replaced) and cost <= left:
            left -= cost
            found.append(node)
            sizes |= {id(v): size for v, size in zip(made, results, strict=True) if size}
    return found


def _size(tensor: gs.Tensor) -> tuple[int, int] | None:
    """Elements and bytes of a tensor of known shape and type."""
    if tensor.shape is None or tensor.dtype is None:
        return None
    if not all(isinstance(dim, int) for dim in tensor.shape):
        return None
    return prod(tensor.shape), prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


def _result_size(
    node: gs.Node, value: gs.Tensor, given: list[tuple[int, int] | None]
) -> tuple[int, int] | None:
    """Elements and bytes of a result at most; None if that cannot be told yet."""
    if node.op in _GROWING:
        arguments = [tensor.values for tensor in node.inputs if isinstance(tensor, gs.Constant)]
        elements = _grown(node.op, arguments) if len(arguments) == len(node.inputs) else None
        return _size(value) if elements is None else (elements, elements * _WIDEST_ELEMENT)
    counts = [max(1, size[0]) for size in given if size]
    bound = max(sum(counts), prod(counts))
    return _size(value) or (bound, bound * _WIDEST_ELEMENT)


def _grown(op: str, arguments: list[Array]) -> int | None:
    if op == "Range" and all(argument.size == 1 for argument in arguments):
        start, limit, step = (float(argument.reshape(())) for argument in arguments)
        count = (limit - start) / step if step else inf
        return max(0, ceil(count)) if isfinite(count) else None
    if op in {"ConstantOfShape", "Expand", "Tile"}:
        base = 1 if op == "ConstantOfShape" else arguments[0].size
        return base * prod(max(1, int(factor)) for factor in arguments[-1].ravel())
    return None


def _evaluate(program: Program, values: list[gs.Tensor]) -> dict[str, Array] | None:
    """The values by name, computed by ONNX Runtime; None if it cannot."""
    if not values:
        return {}
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    names = [value.name for value in values]
    try:
        content = to_proto(program, inputs=[], outputs=names).SerializeToString()
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        arrays = dict(zip(names, session.run(names, {}), strict=True))
    except Exception:  # ONNX Runtime and protobuf raise kinds of their own; not folding is safe
        return None
    for value in values:
        known = value.dtype
        if known is not None and element_type(known) != element_type(arrays[value.name].dtype):
            return None
    return arrays


# -- BatchNormalization --------------------------------------------------------------------
# Not by a library (onnxoptimizer, onnxsim): those rewrite whole ModelProtos, drop the names and
# metadata that must last, and fold the QDQ and opaque nodes that must stay.


def _fold_batch_norms(program: Program, growth_nbytes: int) -> list[Change]:
    outputs = program.output_names
    changes: list[Change] = []
    for node in list(program.graph.nodes):
        operator = _operator_before(node, outputs)
        arrays = None if operator is None else _folded(operator, node)
        if operator is None or arrays is None:
            continue
        old = {id(t): t for t in [*operator.inputs, *node.inputs] if isinstance(t, gs.Constant)}
        weight = operator.inputs[1]
        if len(weight.outputs) > 1 and arrays[0].nbytes > growth_nbytes:
            continue
        bias = operator.inputs[2].name if len(operator.inputs) > 2 else ""
        names = (f"{weight.name}.folded", f"{bias}.folded" if bias else f"{operator.name}.bias")
        new = [
            gs.Constant(program.unique_name(name), array)
            for name, array in zip(names, arrays, strict=True)
        ]
        operator.inputs = [operator.inputs[0], *new]
        if operator.op == "Gemm":
            operator.attrs["beta"] = 1.0
        add_source(program, operator, node)
        result = node.outputs[0]
        remove_nodes(program, [node])
        operator.outputs = [result]
        freed = sum(nbytes_of(t) for t in old.values() if not t.outputs)
        what = f"BatchNormalization '{node.name}' is folded into {operator.op} '{operator.name}'"
        changes.append(Change(what, node.name, freed - sum(nbytes_of(t) for t in new)))
    return changes


def _operator_before(node: gs.Node, outputs: set[str]) -> gs.Node | None:
    """The operator with constant weights whose only reader this inference-time node is."""
    if (
        node.op != "BatchNormalization"
        or not _rewritable(node)
        or node.attrs.get("training_mode", 0) != 0
        or node.attrs.get("spatial", 1) != 1
        or any(not value.is_empty() for value in node.outputs[1:])
        or not all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:])
    ):
        return None
    value = node.inputs[0]
    if value.name in outputs or len(value.outputs) != 1 or len(value.inputs) != 1:
        return None
    operator = value.inputs[0]
    weights = [tensor for tensor in operator.inputs[1:] if not tensor.is_empty()]
    known = operator.op in {"Conv", "ConvTranspose", "Gemm"} and _rewritable(operator)
    return operator if known and all(isinstance(w, gs.Constant) for w in weights) else None


def _folded(operator: gs.Node, node: gs.Node) -> tuple[Array, Array] | None:
    """Weight and bias of the operator with the node's scale and shift in them."""
    weight, *biases = (t.values for t in operator.inputs[1:] if isinstance(t, gs.Constant))
    scale, offset, mean, variance = (
        t.values.astype(np.float64) for t in node.inputs[1:] if isinstance(t, gs.Constant)
    )
    bias = biases[0].astype(np.float64) if biases else np.zeros(1)
    if operator.op == "Gemm":
        bias = bias * operator.attrs.get("beta", 1.0)
    if bias.size not in (1, scale.size) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
        return None
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        scaled = _scaled(operator, weight, factor)
        if scaled is None:
            return None
        scaled = scaled.astype(weight.dtype)
        shifted = ((bias.reshape(-1) - mean) * factor + offset).astype(weight.dtype)
    finite = np.isfinite(scaled).all() and np.isfinite(shifted).all()
    return (scaled, shifted) if finite else None


def _scaled(operator: gs.Node, weight: Array, factor: Array) -> Array | None:
    """The weight, every output channel times its factor; None if their numbers differ."""
    spatial = [1] * (weight.ndim - 2)
    if operator.op == "Conv":
        fits = weight.shape[0] == factor.size
        return weight * factor.reshape(-1, 1, *spatial) if fits else None
    if operator.op == "Gemm":
        transposed = operator.attrs.get("transB", 0)
        fits = weight.shape[0 if transposed else 1] == factor.size
        return weight * (factor.reshape(-1, 1) if transposed else factor) if fits else None
    groups: int = operator.attrs.get("group", 1)
    if groups * weight.shape[1] != factor.size:
        return None
    # [C, M / groups, ...]: output channel m is number m % (M / groups) of its group.
    apart = weight.reshape(groups, -1, *weight.shape[1:])
    return (apart * factor.reshape(groups, 1, -1, *spatial)).reshape(weight.shape)
