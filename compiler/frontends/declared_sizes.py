"""What a model takes by its shapes, held against what it may: before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import helper

from ..errors import ModelError
from ..isolation.allowance import MEMORY_PER_FED_BYTE, ModelAllowance
from ..units import format_bytes
from .prepare import all_nodes, bodies


def check_sizes(
    proto: onnx.ModelProto, weights: Collection[str], allowance: ModelAllowance
) -> None:
    """Raises ModelError if an input or a value is too large by the sizes that are known of it.

    `proto` is the light model with its types. An input may have what the allowance gives to
    opening the model, a value 64 times the bytes of the inputs besides. Free sizes count 1, as do
    sizes of 0: other sizes beside them still have to be held.
    """
    inputs = [value for value in proto.graph.input if value.name not in weights]
    fed = sum(_nbytes(value.type) for value in inputs)
    if fed > allowance.memory_nbytes:
        largest = max(inputs, key=lambda value: _nbytes(value.type))
        raise _too_large(f"input '{largest.name}'", _nbytes(largest.type), allowance)
    limit = allowance.memory_nbytes + MEMORY_PER_FED_BYTE * fed
    for graph in _graphs(proto):
        for value in (*graph.value_info, *graph.output):
            if _nbytes(value.type) > limit:
                raise _too_large(f"value '{value.name}'", _nbytes(value.type), allowance)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for node in all_nodes(proto.graph.node):
        yield from bodies(node)


def _nbytes(kind: onnx.TypeProto) -> int:
    tensor = kind.tensor_type
    if not tensor.elem_type:
        return 0
    sizes = (max(1, dim.dim_value) for dim in tensor.shape.dim)
    return math.prod(sizes) * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).itemsize


def _too_large(what: str, nbytes: int, allowance: ModelAllowance) -> ModelError:
    return ModelError(
        f"{what} of {allowance.where} takes {format_bytes(nbytes)} by its shape; a model of this "
        f"size may ask for {format_bytes(allowance.memory_nbytes)}",
        "if the file is to be trusted, allow more with --parse-memory",
    )
