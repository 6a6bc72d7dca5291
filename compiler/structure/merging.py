"""Adjacent linear operators as one: what Conv, Gemm, MatMul and per-channel steps compose to.

`merged` gives the one map that two of them are, or the reason why there is none: zero padding
between them is what most often stands against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.arrays import Float64
from ..graph.free_size import size_of
from ..graph.program import constants_of
from ..graph.weights import array_of, nbytes_of
from .linear_maps import Linear
from .windows import Window


@dataclass(frozen=True)
class Merged:
    """Two Linears as one, and what that saves: MACs per place of the result, and weight bytes."""

    linear: Linear
    macs_saved: int
    nbytes_saved: int


def merged(first: Linear, second: Linear, growth_nbytes: int = 0) -> Merged | str:
    """The two maps as one where that is cheaper, else why not.

    `second` reads what `first` makes, and nothing else does. Cheaper means fewer MACs and no more
    weight bytes than the constants that go (plus `growth_nbytes`).
    """
    if first.is_scale and second.is_scale:
        return "both are per-channel steps of different layouts"
    if (first.window is None) != (second.window is None) and not (
        first.is_scale or second.is_scale
    ):
        return "one works on images and the other on features"
    if first.is_scale and first.channels_first != (second.window is not None):
        return "their channels are on different axes"
    found = _composed(first, second)
    if isinstance(found, str):
        return found
    dtype = _dtype(first, second)
    if dtype is None:
        return "their weights are of different types"
    before = math.ceil(first.macs() * _places(first, second)) + second.macs()
    after = (found.channels * (found.steps() - 1)) + int(found.weight.size)
    if after >= before:
        return f"one operator would take {after} MACs a place, the two take {before}"
    freed = freed_nbytes((*first.nodes, *second.nodes))
    needed = found.nbytes(dtype.itemsize)
    if needed > freed + growth_nbytes:
        return f"one operator would hold {needed} bytes of weights, the two free {freed}"
    # The widest weight decides whether the product is finite as float32.
    with np.errstate(over="ignore"):
        finite = np.isfinite(found.weight.astype(dtype)).all() and np.isfinite(
            found.bias.astype(dtype)
        ).all()  # fmt: skip
    if not finite:
        return "the product of their weights is not finite"
    return Merged(found, before - after, freed - needed)


def _dtype(first: Linear, second: Linear) -> np.dtype[Any] | None:
    constants = constants_of((*first.nodes, *second.nodes))
    kinds = {np.dtype(array_of(constant).dtype) for constant in constants}
    return kinds.pop() if len(kinds) == 1 else None


def freed_nbytes(nodes: Sequence[gs.Node]) -> int:
    """Bytes of the weights that nothing but these nodes reads."""
    inside = {id(node) for node in nodes}
    freed = (t for t in constants_of(nodes) if all(id(r) in inside for r in t.outputs))
    return sum(map(nbytes_of, freed))


def _places(first: Linear, second: Linear) -> float:
    """Places of the first result for each place of the second's: 4 before a stride of 2."""
    if second.window is None:
        return 1.0
    sizes: list[float] = []
    for axis, stride in enumerate(second.window.strides):
        before, after = (
            size_of(value.shape[2 + axis])
            if value.shape is not None and len(value.shape) > 2
            else None
            for value in (first.result, second.result)
        )
        sizes.append(before / after if before and after else stride)
    return math.prod(sizes)


def _composed(first: Linear, second: Linear) -> Linear | str:
    nodes = (*first.nodes, *second.nodes)
    gemm = first.is_gemm or second.is_gemm
    operator = first if second.is_scale else second
    # The surviving operator comes first; a Gemm takes the bias that a MatMul cannot.
    keep = next((u.operator for u in (operator, first, second) if u.is_gemm == gemm), nodes[0])
    ordered = (keep, *(node for node in nodes if node is not keep))
    ends = {"nodes": ordered, "source": first.source, "result": second.result}
    if first.window is not None and second.window is not None:
        return _convolved(first, second, ordered)
    if second.is_scale:
        return replace(first.scaled(second.weight, second.bias), **ends)
    if second.window is None:
        factor = first.weight[:, None] if first.is_scale else None
        weight = second.weight * factor if factor is not None else first.weight @ second.weight
        bias = first.bias @ second.weight + second.bias
        return replace(second, weight=weight, bias=bias, **ends)
    # Per-channel steps before a convolution: padding adds zeros after them.
    if any(second.window.pads) and np.any(first.bias != 0):
        return "an offset comes before zero padding"
    group = second.group
    kernel = [1] * len(second.window.kernel)
    apart = second.weight.reshape(group, -1, *second.weight.shape[1:])
    factor = first.weight.reshape(group, 1, -1, *kernel)
    taps = apart.sum(axis=tuple(range(3, apart.ndim)))  # [group, outputs, inputs]
    offset = np.einsum("goi,gi->go", taps, first.bias.reshape(group, -1)).reshape(-1)
    weight = (apart * factor).reshape(second.weight.shape)
    return replace(second, weight=weight, bias=second.bias + offset, **ends)


def _convolved(first: Linear, second: Linear, nodes: tuple[gs.Node, ...]) -> Linear | str:
    """Two convolutions as one.

    Place n of the result reads the middle value at s2 n - p2 + d2 j and the source at
    s1 (s2 n - p2 + d2 j) - p1 + d1 i: strides multiply, pads become p1 + s1 p2, and the taps lie
    at s1 d2 j + d1 i. Beyond the middle value's border the second reads zeros, so the first has to
    give zero there: a 1x1 without bias and padding does.
    """
    one, two = first.window, second.window
    assert one is not None and two is not None
    if len(one.kernel) != len(two.kernel):
        return "they slide over different axes"
    if any(two.pads):
        if any(size > 1 for size in one.kernel) or any(one.pads):
            return "the second pads what the first, wider than 1x1, makes"
        if np.any(first.bias != 0):
            return "the second pads what the first adds a bias to"
    group = math.gcd(first.group, second.group)
    rank = len(one.kernel)
    kernel: list[int] = []
    dilations: list[int] = []
    for axis in range(rank):
        outer, inner = one.strides[axis] * two.dilations[axis], one.dilations[axis]
        reach = outer * (two.kernel[axis] - 1) + inner * (one.kernel[axis] - 1)
        step = math.gcd(
            outer if two.kernel[axis] > 1 else 0, inner if one.kernel[axis] > 1 else 0
        )  # fmt: skip
        dilations.append(step or 1)
        kernel.append(reach // (step or 1) + 1)
    inputs = first.weight.shape[1] * first.group
    macs = second.channels * (inputs // group) * math.prod(kernel)
    limit = math.ceil(first.macs() * _places(first, second)) + second.macs()
    if macs >= limit:  # told before the product is made, which may be large
        return f"one operator would take {macs} MACs a place, the two take {limit}"
    left = _in_groups(first.weight, first.group, group)
    right = _in_groups(second.weight, second.group, group)
    weight = np.zeros((group, second.channels // group, inputs // group, *kernel))
    for j in np.ndindex(*two.kernel):
        tap = right[(slice(None), slice(None), slice(None), *j)]
        for i in np.ndindex(*one.kernel):
            place = tuple(
                (one.strides[a] * two.dilations[a] * j[a] + one.dilations[a] * i[a]) // dilations[a]
                for a in range(rank)
            )
            product = np.matmul(tap, left[(slice(None), slice(None), slice(None), *i)])
            weight[(slice(None), slice(None), slice(None), *place)] += product
    taps = right.sum(axis=tuple(range(3, right.ndim)))
    bias = second.bias + np.einsum("goi,gi->go", taps, first.bias.reshape(group, -1)).reshape(-1)
    window = Window(
        tuple(kernel),
        tuple(a * b for a, b in zip(one.strides, two.strides)),
        tuple(dilations),
        tuple(p + s * q for p, s, q in zip(one.pads, one.strides * 2, two.pads)),
    )
    flat = weight.reshape(second.channels, inputs // group, *kernel)
    return Linear(nodes, first.source, second.result, flat, bias, window, group, True)


def _in_groups(weight: Float64, groups: int, wanted: int) -> Float64:
    """[O, I / groups, ...] as [wanted, O / wanted, I / wanted, ...]; `wanted` divides `groups`."""
    outputs, inputs, *kernel = weight.shape
    inner = groups // wanted
    each = outputs // groups
    apart = weight.reshape(wanted, inner, each, inputs, *kernel)
    dense = np.zeros((wanted, inner, each, inner, inputs, *kernel))
    for block in range(inner):
        dense[:, block, :, block] = apart[:, block]
    return dense.reshape(wanted, outputs // wanted, inner * inputs, *kernel)
