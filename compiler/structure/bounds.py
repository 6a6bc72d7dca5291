"""Bounds on every value that hold for whatever the model is fed: interval arithmetic per channel.

What weights and activation functions alone prove: a ReLU after a sum of ReLUs changes nothing, a
filter without a positive weight on positive inputs never fires, a filter of zeros gives its bias.
Inputs of the model are taken as finite and otherwise unknown. Integers wrap around, so nothing is
said of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.arrays import Float64
from ..graph.program import Program, is_standard
from ..graph.weights import array_of
from .channel_groups import reduced_axes
from .intervals import ANYTHING, MAX_ELEMENTS, Bounds, float_array, widened
from .linear_bounds import conv_bounds, gemm_bounds, matmul_bounds

_Rule = Callable[[gs.Node, list[Bounds]], Bounds]


# Make infinity or NaN of finite numbers, where nothing is known of these.
_UNSAFE = frozenset(
    {"Acos", "Acosh", "Asin", "Atanh", "Cast", "CastLike", "Cosh", "Div", "Exp", "Log", "Mod",
     "Pow", "Reciprocal", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "Sinh", "Sqrt", "Tan"}
)  # fmt: skip


def bounds_of(program: Program) -> dict[str, Bounds]:
    """Bounds by value name; values that nothing is known of are left out.

    A bound is kept by NaN too, but no value that can be infinite or NaN is told to be a constant:
    zero times infinity is not zero.
    """
    found: dict[str, Bounds] = {}
    unsafe: set[str] = set()
    for node in program.graph.nodes:
        if _is_unsafe(node, found, unsafe):
            unsafe.update(value.name for value in node.outputs)
        if not is_standard(node) or any(True for _ in node.subgraphs()):
            continue
        rule = _RULES.get(node.op)
        if rule is None or not node.outputs or node.outputs[0].is_empty():
            continue
        if not _is_float(node.outputs[0].dtype):
            continue
        given = [_given(tensor, found) for tensor in node.inputs]
        with np.errstate(all="ignore"):
            made = _representable(rule(node, given), node.outputs[0].dtype)
        if node.outputs[0].name in unsafe:
            open_ = np.where(made.constant(), np.inf, 0)
            made = Bounds(made.low - open_, made.high + open_, made.axis)
        if not np.isnan(made.low).any() and not np.isnan(made.high).any() and made.known:
            found[node.outputs[0].name] = made
    return found


def _is_float(dtype: Any) -> bool:
    return dtype is not None and not isinstance(dtype, int) and np.dtype(dtype).kind == "f"


def _representable(bounds: Bounds, dtype: Any) -> Bounds:
    """The bounds, open where the numbers overflow to infinity in this type."""
    most = np.finfo(dtype).max
    return Bounds(
        np.where(bounds.low < -most, -np.inf, bounds.low),
        np.where(bounds.high > most, np.inf, bounds.high),
        bounds.axis,
    )


def _is_unsafe(node: gs.Node, found: Mapping[str, Bounds], unsafe: set[str]) -> bool:
    """Whether what the node makes of finite inputs of the model can be infinite or NaN."""
    for tensor in node.inputs:
        if tensor.name in unsafe:
            return True
        array = array_of(tensor) if isinstance(tensor, gs.Constant) else None
        if array is None or array.dtype.kind != "f" or array.size > MAX_ELEMENTS:
            continue
        if not np.isfinite(array).all():
            return True
    if not is_standard(node) or any(True for _ in node.subgraphs()):
        return True
    if node.op not in _UNSAFE:
        return False
    given = [_given(tensor, found) for tensor in node.inputs]
    if node.op == "Div" and _is_float(node.outputs[0].dtype):
        return not ((given[1].low > 0) | (given[1].high < 0)).all()
    if node.op == "Sqrt":
        return not (given[0].low >= 0).all()
    return not (node.op == "Exp" and (given[0].high < 80).all())


def _given(tensor: gs.Tensor, found: Mapping[str, Bounds]) -> Bounds:
    if not isinstance(tensor, gs.Constant):
        return found.get(tensor.name, ANYTHING)
    array = array_of(tensor)
    if array.dtype.kind != "f" or not 0 < array.size <= MAX_ELEMENTS:
        return ANYTHING
    low, high = float(array.min()), float(array.max())
    return Bounds(np.array([low]), np.array([high]))


# -- element by element -----------------------------------------------------------------------


def _channels(shape: Any, axis: int) -> int | None:
    if shape is None or len(shape) < 2:
        return None
    size = shape[axis]
    return size if isinstance(size, int) else None


def _operands(node: gs.Node, given: list[Bounds]) -> tuple[list[Bounds], int | None]:
    """The operands' bounds, alike in length, and the axis of their channels."""
    out = node.outputs[0].shape
    axes = [bounds.axis for bounds in given if bounds.axis is not None]
    axis = axes[0] if axes else (1 if out is not None and len(out) > 3 else -1)
    channels = _channels(out, axis)
    if channels is None or out is None:
        return [bounds.joined() for bounds in given], None
    rank, wide = len(out), list[Bounds]()
    for tensor, bounds in zip(node.inputs, given):
        array = float_array(tensor)
        if array is not None and array.ndim <= rank:
            full = array.reshape([1] * (rank - array.ndim) + list(array.shape))
            moved = np.moveaxis(full, axis, 0).reshape(full.shape[axis], -1)
            bounds = Bounds(moved.min(axis=1), moved.max(axis=1), axis)
        shape = tensor.shape
        if shape is None or len(shape) != rank:  # its axes are others than the result's
            bounds = bounds if array is not None else bounds.joined()
        wide.append(widened(bounds, channels, axis))
    return wide, axis


def _sum(node: gs.Node, given: list[Bounds]) -> Bounds:
    (one, other), axis = _operands(node, given)
    if node.op == "Sub":
        return Bounds(one.low - other.high, one.high - other.low, axis)
    return Bounds(one.low + other.low, one.high + other.high, axis)


def _mul(node: gs.Node, given: list[Bounds]) -> Bounds:
    (one, other), axis = _operands(node, given)
    ends = np.stack([a * b for a in (one.low, one.high) for b in (other.low, other.high)])
    ends = np.where(np.isnan(ends), 0, ends)  # zero times whatever, as long as it is finite
    low, high = ends.min(axis=0), ends.max(axis=0)
    if node.inputs[0] is node.inputs[1]:
        low = np.maximum(low, 0)
    return Bounds(low, high, axis)


def _div(node: gs.Node, given: list[Bounds]) -> Bounds:
    (one, other), axis = _operands(node, given)
    fine = (other.low > 0) | (other.high < 0)
    ends = np.stack([a / b for a in (one.low, one.high) for b in (other.low, other.high)])
    low, high = ends.min(axis=0), ends.max(axis=0)
    return Bounds(np.where(fine, low, -np.inf), np.where(fine, high, np.inf), axis)


def _norm(node: gs.Node, given: list[Bounds]) -> Bounds:
    parts = [float_array(tensor) for tensor in node.inputs[1:]]
    if node.attrs.get("training_mode", 0) or len(parts) != 4 or any(p is None for p in parts):
        return ANYTHING
    scale, shift, mean, variance = (part for part in parts if part is not None)
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    rank = len(node.inputs[0].shape or ())
    x = widened(given[0], len(factor), -1 if rank == 2 else 1)
    ends = np.stack([x.low * factor, x.high * factor])
    ends = np.where(np.isnan(ends), 0, ends)
    offset = shift - mean * factor
    return Bounds(ends.min(axis=0) + offset, ends.max(axis=0) + offset, x.axis)


def _monotone(function: Callable[[Float64], Float64]) -> _Rule:
    def rule(node: gs.Node, given: list[Bounds]) -> Bounds:
        return Bounds(function(given[0].low), function(given[0].high), given[0].axis)

    return rule


def _leaky(node: gs.Node, given: list[Bounds]) -> Bounds:
    slope = float(node.attrs.get("alpha", 0.01))
    return _sloped(given[0], np.array([slope]))


def _prelu(node: gs.Node, given: list[Bounds]) -> Bounds:
    slope = float_array(node.inputs[1])
    if slope is None:
        return ANYTHING
    x = given[0]
    shape = node.inputs[0].shape
    per_channel = slope.size == 1
    if x.axis is not None and shape is not None and slope.ndim <= len(shape):
        full = (1,) * (len(shape) - slope.ndim) + slope.shape
        per_channel = per_channel or slope.size == len(x.low) == full[x.axis]
    if not per_channel:
        x, slope = x.joined(), np.array([slope.min(), slope.max()])
    return _sloped(x, slope.reshape(-1), per_channel)


def _sloped(x: Bounds, slope: Float64, one_each: bool = True) -> Bounds:
    low, high = np.minimum(x.low, 0), np.minimum(x.high, 0)
    slopes = [slope] if one_each else [slope[:1], slope[1:]]
    ends = np.stack([side * s for side in (low, high) for s in slopes])
    ends = np.where(np.isnan(ends), 0, ends)
    # Where the input may be positive, that part goes through as it is.
    bottom = np.where(
        x.low >= 0, x.low, np.minimum(ends.min(axis=0), np.where(x.high > 0, 0, np.inf))
    )
    top = np.where(x.high > 0, np.maximum(x.high, ends.max(axis=0)), ends.max(axis=0))
    return Bounds(bottom, top, x.axis)


def _clip(node: gs.Node, given: list[Bounds]) -> Bounds:
    low, high = float(node.attrs.get("min", -np.inf)), float(node.attrs.get("max", np.inf))
    limits: list[float] = [low, high]
    for index, tensor in enumerate(node.inputs[1:3]):
        if tensor.is_empty():
            continue
        value = float_array(tensor)
        if value is None:
            return ANYTHING
        limits[index] = float(value.reshape(-1)[0])
    x = given[0]
    low_end, high_end = (np.minimum(np.maximum(b, limits[0]), limits[1]) for b in (x.low, x.high))
    return Bounds(low_end, high_end, x.axis)


def _between(low: float, high: float) -> _Rule:
    bounds = Bounds(np.array([low]), np.array([high]))
    return lambda node, given: bounds


def _abs(node: gs.Node, given: list[Bounds]) -> Bounds:
    x = given[0]
    ends = np.stack([np.abs(x.low), np.abs(x.high)])
    low = np.where((x.low <= 0) & (x.high >= 0), 0.0, ends.min(axis=0))
    return Bounds(low, ends.max(axis=0), x.axis)


# -- pooling, shapes ------------------------------------------------------------------------------


def _pool(node: gs.Node, given: list[Bounds]) -> Bounds:
    x = given[0] if given[0].axis == 1 else given[0].joined()
    counted = node.op == "AveragePool" and node.attrs.get("count_include_pad", 0)
    if counted and (any(node.attrs.get("pads") or ()) or node.attrs.get("ceil_mode", 0)):
        return Bounds(np.minimum(x.low, 0), np.maximum(x.high, 0), x.axis)
    return x


def _mean(node: gs.Node, given: list[Bounds]) -> Bounds:
    x, shape = given[0], node.inputs[0].shape
    axes = reduced_axes(node)
    if x.axis is None or shape is None or not axes:
        return x.joined()
    rank = len(shape)
    where = x.axis % rank
    reduced = {axis % rank for axis in axes}
    if where in reduced:
        return x.joined()
    if node.attrs.get("keepdims", 1):
        return x
    place = where - sum(axis < where for axis in reduced)
    left = rank - len(reduced)
    axis = -1 if place == left - 1 else (1 if place == 1 else None)
    return Bounds(x.low, x.high, axis) if axis is not None else x.joined()


def _joined(node: gs.Node, given: list[Bounds]) -> Bounds:
    return given[0].joined()


def _flatten(node: gs.Node, given: list[Bounds]) -> Bounds:
    """[N, C, ...] to [N, C x places]: every channel's bounds once for each of its places."""
    x, shape, made = given[0], node.inputs[0].shape, node.outputs[0].shape
    if x.axis != 1 or shape is None or made is None or len(made) != 2 or len(shape) < 2:
        return x.joined()
    places, width = shape[2:], made[1]
    if not all(isinstance(size, int) for size in (*places, width)) or made[0] != shape[0]:
        return x.joined()
    count = math.prod(places)
    if count * len(x.low) != width:
        return x.joined()
    return Bounds(np.repeat(x.low, count), np.repeat(x.high, count), -1)


def _concat(node: gs.Node, given: list[Bounds]) -> Bounds:
    axis = int(node.attrs.get("axis", 0))
    shape = node.outputs[0].shape
    rank = len(shape) if shape is not None else 0
    joined = [bounds.joined() for bounds in given]
    everything = Bounds(
        np.min([b.low for b in joined], axis=0), np.max([b.high for b in joined], axis=0)
    )
    if rank < 2 or axis % rank not in (1, rank - 1):
        return everything
    place = 1 if axis % rank == 1 and rank != 2 else -1
    parts: list[Bounds] = []
    for tensor, bounds in zip(node.inputs, given):
        channels = _channels(tensor.shape, axis)
        if channels is None or isinstance(tensor, gs.Constant):
            return everything
        own = bounds if bounds.axis == place or rank == 2 else bounds.joined()
        if len(own.low) not in (1, channels):
            return everything
        parts.append(widened(Bounds(own.low, own.high, place), channels, place))
    return Bounds(
        np.concatenate([p.low for p in parts]), np.concatenate([p.high for p in parts]), place
    )


def _logistic(x: Float64) -> Float64:
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)


def _elu(node: gs.Node, given: list[Bounds]) -> Bounds:
    alpha = float(node.attrs.get("alpha", 1.0))
    if alpha < 0:
        return ANYTHING
    low, high = (np.where(b > 0, b, alpha * np.expm1(b)) for b in (given[0].low, given[0].high))
    return Bounds(low, high, given[0].axis)


_RULES: dict[str, _Rule] = {
    "Conv": conv_bounds,
    "Gemm": gemm_bounds,
    "MatMul": matmul_bounds,
    "Add": _sum,
    "Sub": _sum,
    "Mul": _mul,
    "Div": _div,
    "BatchNormalization": _norm,
    "Relu": _monotone(lambda x: np.maximum(x, 0)),
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Clip": _clip,
    "Sigmoid": _monotone(_logistic),
    "Tanh": _monotone(np.tanh),
    "Elu": _elu,
    "Softplus": _monotone(lambda x: np.logaddexp(0, x)),
    "HardSigmoid": _between(0.0, 1.0),
    "HardSwish": _between(-0.375, np.inf),
    "Softmax": _between(0.0, 1.0),
    "Exp": _monotone(np.exp),
    "Sqrt": _between(0.0, np.inf),
    "Abs": _abs,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _pool,
    "GlobalMaxPool": _pool,
    "ReduceMean": _mean,
    "ReduceMax": _mean,
    "Identity": _monotone(lambda x: x),
    "Dropout": _monotone(lambda x: x),
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Transpose": _joined,
    "Concat": _concat,
} | dict.fromkeys(("Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Tile", "Split"), _joined)
