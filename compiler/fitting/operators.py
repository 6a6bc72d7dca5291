"""Linear operators with constant weights (Conv, Gemm, MatMul): their rows, and new weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..execution.rows import Rows, value_rows
from ..graph.program import Program, is_standard
from .regression import Affine

Array = NDArray[Any]


@dataclass(frozen=True)
class LinearOperator:
    """One node y = x * W + b with constant W and, where present, constant b.

    `bias_node` is the Add of a constant that follows a MatMul (PyTorch's Linear as ONNX writes
    it). `result` names the value after the bias: what the operator is fitted to produce.
    """

    node: gs.Node
    weight: gs.Constant
    bias: gs.Constant | None
    bias_node: gs.Node | None

    @property
    def source(self) -> gs.Tensor:
        """The value the operator reads."""
        return self.node.inputs[0]

    @property
    def result(self) -> gs.Tensor:
        """The value the operator produces, its bias included."""
        return (self.bias_node or self.node).outputs[0]

    @property
    def fan_in(self) -> int:
        """Unknowns per output, without the bias."""
        shape = self.weight.shape
        if self.node.op == "Conv":
            return math.prod(shape[1:])
        return int(shape[1] if self.node.op == "Gemm" and self._transposed else shape[0])

    @property
    def fan_out(self) -> int:
        """Output channels."""
        shape = self.weight.shape
        if self.node.op == "Conv" or (self.node.op == "Gemm" and self._transposed):
            return int(shape[0])
        return int(shape[1])

    @property
    def channels_last(self) -> bool:
        """Whether the result carries its channels on the last axis (tokens, features)."""
        return self.node.op != "Conv"

    @property
    def _transposed(self) -> bool:
        return bool(self.node.attrs.get("transB", 0))

    def affine(self) -> Affine:
        """The present weights as an affine map per group (float64)."""
        weight = np.asarray(self.weight.values, dtype=np.float64)
        groups = int(self.node.attrs.get("group", 1)) if self.node.op == "Conv" else 1
        bias = np.zeros(self.fan_out)
        if self.bias is not None:
            bias = np.broadcast_to(
                np.asarray(self.bias.values, dtype=np.float64).reshape(-1), (self.fan_out,)
            ).copy()
        if self.node.op == "Conv":
            matrix = weight.reshape(groups, self.fan_out // groups, -1).transpose(0, 2, 1)
        else:
            matrix = (weight.T if self._transposed else weight)[None]
            matrix = matrix * float(self.node.attrs.get("alpha", 1.0))
            if self.node.op == "Gemm":
                bias = bias * float(self.node.attrs.get("beta", 1.0))
        return Affine(matrix, bias.reshape(groups, -1))

    def write(self, program: Program, affine: Affine) -> None:
        """Give the operator new weights (own constants; whoever shared the old ones keeps them).

        A bias is added where the map has one and the operator had none (Conv and Gemm).
        """
        dtype = self.weight.dtype
        if self.node.op == "Conv":
            weight = affine.weight.transpose(0, 2, 1).reshape(self.weight.shape)
        else:
            weight = affine.weight[0] / float(self.node.attrs.get("alpha", 1.0))
            weight = weight.T if self._transposed else weight
        fresh = gs.Constant(
            program.unique_name(f"{self.weight.name}_refit"),
            np.ascontiguousarray(weight, dtype=dtype),
        )
        self.node.inputs[1] = fresh
        bias = affine.bias.reshape(-1)
        if self.node.op == "Gemm":
            bias = bias / (float(self.node.attrs.get("beta", 1.0)) or 1.0)
        if self.bias is None:
            if self.node.op == "MatMul" or not np.any(bias):
                return
            constant = gs.Constant(program.unique_name(f"{fresh.name}_bias"), bias.astype(dtype))
            self.node.inputs.append(constant)
            return
        reader = self.bias_node or self.node
        index = next(i for i, tensor in enumerate(reader.inputs) if tensor is self.bias)
        shape = self.bias.shape if math.prod(self.bias.shape) == bias.size else bias.shape
        reader.inputs[index] = gs.Constant(
            program.unique_name(f"{self.bias.name}_refit"), bias.reshape(shape).astype(dtype)
        )

    def rows(self, x: Array, positions: Rows) -> NDArray[np.float32]:
        """Receptive fields [frames * p, groups, fan_in] of x at output positions [frames, p]."""
        if self.node.op != "Conv":
            return value_rows(x, positions, channels_last=True)[:, None]
        groups = int(self.node.attrs.get("group", 1))
        return conv_rows(x, positions, self.geometry(x.shape[2:]), groups)

    def geometry(self, spatial: tuple[int, ...]) -> ConvGeometry:
        """The convolution's window arithmetic for an input of that spatial size."""
        attrs = self.node.attrs
        rank = len(spatial)
        kernel = tuple(int(k) for k in self.weight.shape[2:])
        strides = tuple(attrs.get("strides", [1] * rank))
        dilations = tuple(attrs.get("dilations", [1] * rank))
        pads = tuple(attrs.get("pads", [0] * 2 * rank))
        auto = attrs.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            before: list[int] = []
            after: list[int] = []
            for size, k, s, d in zip(spatial, kernel, strides, dilations):
                total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
                small, large = total // 2, total - total // 2
                before.append(small if auto == "SAME_UPPER" else large)
                after.append(large if auto == "SAME_UPPER" else small)
            pads = (*before, *after)
        elif auto == "VALID":
            pads = (0,) * (2 * rank)
        return ConvGeometry(kernel, strides, dilations, pads)


@dataclass(frozen=True)
class ConvGeometry:
    """Kernel, strides, dilations per spatial axis, and pads (all begins, then all ends)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    def output_size(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial size of the convolution's output."""
        rank = len(spatial)
        return tuple(
            (size + self.pads[axis] + self.pads[rank + axis] - (k - 1) * d - 1) // s + 1
            for axis, (size, k, s, d) in enumerate(
                zip(spatial, self.kernel, self.strides, self.dilations)
            )
        )


def conv_rows(
    x: Array, positions: Rows, geometry: ConvGeometry, groups: int
) -> NDArray[np.float32]:
    """Patches [frames * p, groups, channels / groups * kernel] at output positions [frames, p].

    Only the sampled patches are gathered, never the whole im2col matrix.
    """
    spatial = x.shape[2:]
    size = math.prod(geometry.output_size(spatial))
    items = len(x) // len(positions)  # several per frame where frames are folded into windows
    rank = len(spatial)
    padding = [(0, 0)] + [(geometry.pads[axis], geometry.pads[rank + axis]) for axis in range(rank)]
    last = np.moveaxis(x, 1, -1)
    padded = np.pad(last, [*padding, (0, 0)]) if any(geometry.pads) else last
    corner = np.unravel_index(positions.reshape(-1) % size, geometry.output_size(spatial))
    item = np.arange(len(positions))[:, None] * items + positions // size
    index: list[Array] = [item.reshape(-1, *([1] * rank))]
    for axis in range(rank):
        taps = np.arange(geometry.kernel[axis]) * geometry.dilations[axis]
        shape = [1] * (rank + 1)
        shape[axis + 1] = -1
        start = (corner[axis] * geometry.strides[axis]).reshape(-1, *([1] * rank))
        index.append(start + taps.reshape(shape))
    patches = padded[tuple(index)]  # [rows, *kernel, channels]
    patches = np.moveaxis(patches, -1, 1)
    return np.ascontiguousarray(patches, dtype=np.float32).reshape(len(patches), groups, -1)


def linear_operator(node: gs.Node) -> LinearOperator | None:
    """The node as a linear operator, or None when it is none that a least-squares fit can write.

    Float Conv (1-D and 2-D), Gemm without transA and MatMul with a constant right-hand matrix.
    """
    if not is_standard(node) or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or isinstance(node.inputs[0], gs.Constant):
        return None
    if weight.dtype not in (np.float32, np.float64):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    if bias is not None and not isinstance(bias, gs.Constant):
        return None
    if node.op == "Conv":
        return LinearOperator(node, weight, bias, None) if len(weight.shape) in (3, 4) else None
    if node.op == "Gemm":
        plain = not node.attrs.get("transA", 0) and all(
            float(node.attrs.get(factor, 1.0)) != 0 for factor in ("alpha", "beta")
        )
        row_bias = bias is None or math.prod(bias.shape) in (1, max(bias.shape[-1:], default=1))
        return LinearOperator(node, weight, bias, None) if plain and row_bias else None
    if node.op == "MatMul" and len(weight.shape) == 2:
        readers = node.outputs[0].outputs
        if len(readers) == 1 and readers[0].op == "Add":
            for constant in readers[0].inputs:
                if (
                    isinstance(constant, gs.Constant)
                    and math.prod(constant.shape) == weight.shape[1]
                    and constant.shape[-1:] == type(constant.shape)([weight.shape[1]])
                ):
                    return LinearOperator(node, weight, constant, readers[0])
        return LinearOperator(node, weight, None, None)
    return None
