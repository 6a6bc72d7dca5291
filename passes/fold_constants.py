"""Compute what depends on constants or static shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, inf, isfinite, prod
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from google.protobuf.message import EncodeError

from ..compiler.errors import ModelError
from ..compiler.graph.arrays import Array
from ..compiler.graph.edit import remove_nodes
from ..compiler.graph.export import NonTensorValue, to_proto
from ..compiler.graph.program import Program
from ..compiler.graph.weights import element_type
from ..compiler.isolation.allowance import ModelAllowance
from ..compiler.isolation.steps import Refused, run_session
from .base import Change, is_rewritable

_NEVER_FOLDED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",  # int8 weights stay int8
     "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
     "Bernoulli", "Dropout", "ImageDecoder",
     "TfIdfVectorizer"}
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
class FoldConstants:
    """Values that depend on constants or static shapes alone become constants.

    Unless that adds more than `growth_nbytes` of weights at once. Quantisation, random operators,
    control flow, custom domains and the nodes that make model outputs stay.
    """

    name: ClassVar[str] = "fold-constants"
    exact: ClassVar[bool] = True

    growth_nbytes: int = 2**20

    def run(self, program: Program) -> list[Change]:
        """One change for every node that was computed; what one round leaves, the next may do."""
        return [*_fold_shapes(program), *_fold_constants(program, self.growth_nbytes)]


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
    try:
        arrays = _evaluate(program, wanted)
    except ModelError:  # it takes too much; that ONNX Runtime opens the models was seen before
        return []
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
            not is_rewritable(node)
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


# ONNX Runtime evaluates them, but not through onnx-graphsurgeon's fold_constants, which (0.6.1)
# computes Shape without its start and end, makes float64 of a Constant's value_float, draws
# RandomNormal once and for all, changes weights in place that other nodes read (cast elision),
# evaluates every intermediate value however large, and folds nothing if one node fails.
def _evaluate(program: Program, values: list[gs.Tensor]) -> dict[str, Array] | None:
    """The values by name, computed by ONNX Runtime in the child; None if it cannot.

    Raises ModelError if that takes more memory or time than such constants may.
    """
    if not values:
        return {}
    names = [value.name for value in values]
    try:
        content = to_proto(program, inputs=[], outputs=names).SerializeToString()
        allowance = ModelAllowance("what depends on constants", len(content))
        made = run_session(content, {}, names, allowance, optimised=False)
    except (Refused, EncodeError):  # not folding is safe
        return None
    arrays = dict(zip(names, made, strict=True))
    for value in values:
        known = value.dtype
        if known is not None and element_type(known) != element_type(arrays[value.name].dtype):
            return None
    return arrays
