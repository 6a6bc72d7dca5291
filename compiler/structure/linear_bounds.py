"""Bounds of what linear operators make of a value within bounds."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.arrays import Float64
from .intervals import ANYTHING, Bounds, float_array, widened
from .windows import may_pad


def _product(weight: Float64, given: Bounds) -> Bounds:
    """Bounds of weight @ x, weight [..., outputs, inputs], of an x within bounds [..., inputs]."""
    up, down = np.maximum(weight, 0), np.minimum(weight, 0)
    low, high = given.low, given.high

    def bound(first: Float64, second: Float64) -> Float64:
        finite_first = np.where(np.isfinite(first), first, 0)
        finite_second = np.where(np.isfinite(second), second, 0)
        total = up @ finite_first[..., None] + down @ finite_second[..., None]
        # A zero weight keeps even the unknown out.
        open_ = (up > 0) @ ~np.isfinite(first)[..., None] | (down < 0) @ ~np.isfinite(second)[
            ..., None
        ]
        return np.where(open_, np.inf, total)[..., 0]

    lowest = bound(low, high)
    return Bounds(np.where(np.isinf(lowest), -np.inf, lowest), bound(high, low))


def _with_bias(node: gs.Node, made: Bounds, axis: int, factor: float = 1.0) -> Bounds:
    bias: Float64 | None = np.zeros(1)
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        bias = float_array(node.inputs[2])
    if bias is None or bias.size not in (1, len(made.low)):
        return ANYTHING
    if bias.ndim > 1 and bias.shape[-1] != bias.size:
        return ANYTHING  # a number per frame
    shift = bias.reshape(-1) * factor
    return Bounds(made.low + shift, made.high + shift, axis)


def conv_bounds(node: gs.Node, given: list[Bounds]) -> Bounds:
    """Of a Conv: the sum over its taps of what each may give; padding counts as zeros."""
    weight = float_array(node.inputs[1])
    if weight is None:
        return ANYTHING
    group = int(node.attrs.get("group", 1))
    outputs, inputs = weight.shape[:2]
    x = widened(given[0], inputs * group, 1)
    if may_pad(node):
        x = Bounds(np.minimum(x.low, 0), np.maximum(x.high, 0), 1)
    taps = weight.reshape(group, outputs // group, inputs, -1)
    low, high = (side.reshape(group, inputs) for side in (x.low, x.high))
    each = [_product(taps[..., k], Bounds(low, high)) for k in range(taps.shape[3])]
    made = Bounds(
        np.sum([tap.low for tap in each], axis=0).reshape(-1),
        np.sum([tap.high for tap in each], axis=0).reshape(-1),
    )
    return _with_bias(node, made, 1)


def gemm_bounds(node: gs.Node, given: list[Bounds]) -> Bounds:
    """Of a Gemm with a constant matrix."""
    weight = float_array(node.inputs[1])
    if weight is None or weight.ndim != 2 or node.attrs.get("transA", 0):
        return ANYTHING
    weight = weight if node.attrs.get("transB", 0) else weight.T
    weight = weight * float(node.attrs.get("alpha", 1.0))
    made = _product(weight, widened(given[0], weight.shape[1], -1))
    return _with_bias(node, made, -1, float(node.attrs.get("beta", 1.0)))


def matmul_bounds(node: gs.Node, given: list[Bounds]) -> Bounds:
    """Of a MatMul with a constant matrix on the right."""
    weight = float_array(node.inputs[1])
    if weight is None or weight.ndim != 2:
        return ANYTHING
    made = _product(weight.T, widened(given[0], weight.shape[0], -1))
    return Bounds(made.low, made.high, -1)
