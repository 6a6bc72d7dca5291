"""Types and shapes of values, told by ONNX's shape inference without the weights."""

from __future__ import annotations

import onnx
from onnx import shape_inference

from ..graph.export import to_proto
from ..graph.program import SEPARATOR, Program
from .build import build
from .prepare import LIGHT_ELEMENTS


def with_types(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The light model with value_info for all values whose type can be told."""
    try:
        return shape_inference.infer_shapes(proto, data_prop=True)
    except Exception:  # what is wrong is told better by ONNX Runtime, which loads the model next
        return proto


def add_types(program: Program) -> None:
    """Gives types and shapes to values that have none yet."""
    proto = with_types(to_proto(program, light_elements=LIGHT_ELEMENTS))
    values = program.values()
    typed = build(proto, {}, "typed", next(iter(program.models.values())).source).values()
    for name, value in values.items():
        found = typed.get(f"typed{SEPARATOR}{name}")
        if found is None:
            continue
        if value.dtype is None:
            value.dtype = found.dtype
        if value.shape is None:
            value.shape = found.shape
