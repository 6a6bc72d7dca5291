"""Types and shapes of values, told by ONNX's shape inference without the weights."""

from __future__ import annotations

import onnx

from ..graph.export import to_proto
from ..graph.program import SEPARATOR, Program
from ..isolation.allowance import ModelAllowance
from ..isolation.steps import Refused, infer_shapes
from .build import build
from .prepare import LIGHT_ELEMENTS


def with_types(proto: onnx.ModelProto, allowance: ModelAllowance) -> onnx.ModelProto:
    """The light model with value_info for all values whose type can be told.

    Raises ModelError if that needs more than the allowance.
    """
    try:
        return infer_shapes(proto, allowance)
    except Refused:  # what is wrong is told better by ONNX Runtime, which loads the model next
        return proto


def add_types(program: Program, where: str) -> None:
    """Gives types and shapes to values that have none yet; `where` names the model in errors."""
    light = to_proto(program, light_elements=LIGHT_ELEMENTS)
    proto = with_types(light, ModelAllowance(where, light.ByteSize()))
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
