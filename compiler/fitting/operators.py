"""Linear operators with constant weights, a class each: their rows, and new weights.

A further operator is one more class, and its line in OPERATORS.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ..execution.rows import Rows, value_rows, window_rows
from ..graph.arrays import Array, Float32, Float64, Int8
from ..graph.program import Program, is_standard
from ..structure.channel_removal import bias_slot
from ..structure.windows import Window, transposed_window_of, window_of
from .regression import Affine


@dataclass(frozen=True)
class LinearOperator(ABC):
    """One node y = x * W + b with constant W and, where present, constant b.

    `bias_node` is the Add of a constant that follows a MatMul (PyTorch's Linear as ONNX writes
    it). `result` names the value after the bias: what the operator is fitted to produce.
    """

    node: gs.Node
    weight: gs.Constant
    bias: gs.Constant | None
    bias_node: gs.Node | None = None

    # Whether the result carries its channels on the last axis (tokens, features).
    channels_last: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def of(
        cls, node: gs.Node, weight: gs.Constant, bias: gs.Constant | None
    ) -> LinearOperator | None:
        """The node as such an operator, None where a least-squares fit cannot write it."""

    @property
    def source(self) -> gs.Tensor:
        """The value the operator reads."""
        return self.node.inputs[0]

    @property
    def result(self) -> gs.Tensor:
        """The value the operator produces, its bias included."""
        return (self.bias_node or self.node).outputs[0]

    @property
    def groups(self) -> int:
        """Into how many groups the channels are divided, each with a map of its own."""
        return int(self.node.attrs.get("group", 1))

    @property
    @abstractmethod
    def receptive_field(self) -> tuple[int, ...]:
        """Channels of one group that an output reads, and the kernel."""

    @property
    def fan_in(self) -> int:
        """Unknowns per output, without the bias."""
        return math.prod(self.receptive_field)

    @property
    @abstractmethod
    def fan_out(self) -> int:
        """Output channels."""

    @property
    def fits_bias(self) -> bool:
        """Whether a bias can be written: one is there, or the node takes one."""
        return True

    @property
    def form(self) -> tuple[object, ...]:
        """How the weight is read: operators of equal form could read one weight."""
        dtype = np.dtype(self.weight.dtype).str
        return (self.node.op, tuple(self.weight.shape), dtype, self.groups)

    def affine(self) -> Affine:
        """The present weights as an affine map per group (float64)."""
        bias = np.zeros(self.fan_out)
        if self.bias is not None:
            bias = np.broadcast_to(
                np.asarray(self.bias.values, dtype=np.float64).reshape(-1), (self.fan_out,)
            ).copy()
        matrices = self._matrices(np.asarray(self.weight.values, dtype=np.float64))
        return Affine(matrices, (bias * self._bias_factor).reshape(self.groups, -1))

    def write(self, program: Program, affine: Affine) -> None:
        """Give the operator new weights (own constants; whoever shared the old ones keeps them).

        A bias is added where the map has one and the operator had none, if the node takes one.
        """
        dtype = self.weight.dtype
        fresh = gs.Constant(
            program.unique_name(f"{self.weight.name}_refit"),
            np.ascontiguousarray(self._weight(affine.weight), dtype=dtype),
        )
        self.node.inputs[1] = fresh
        bias = affine.bias.reshape(-1) / self._bias_factor
        if self.bias is not None:
            shape = self.bias.shape if math.prod(self.bias.shape) == bias.size else bias.shape
            name = program.unique_name(f"{self.bias.name}_refit")
            self._replace_bias(gs.Constant(name, bias.reshape(shape).astype(dtype)))
        elif self.fits_bias and np.any(bias):
            name = program.unique_name(f"{fresh.name}_bias")
            constant = gs.Constant(name, bias.astype(dtype))
            self.node.inputs = [*self.node.inputs[:2], constant]

    @property
    def channel_axis(self) -> int | None:
        """The axis of the weight along which each output channel has a scale of its own.

        None where no axis does.
        """
        return 0

    def codes_of(self, codes: Int8) -> Int8:
        """Codes [groups, fan_in, fan_out / groups] of its map as those of the node's weight.

        With `scales_of`, which stay positive, they are that weight.
        """
        laid_out = self._weight(codes.astype(np.float64)) * abs(self._weight_factor)
        return np.ascontiguousarray(np.rint(laid_out).astype(np.int8))

    def scales_of(self, scales: Float32) -> Float32:
        """Positive scales [groups, fan_out / groups] of such codes as those of the weight."""
        found = scales.reshape(-1).astype(np.float64) / abs(self._weight_factor)
        return np.maximum(found, np.finfo(np.float32).tiny).astype(np.float32)

    def resized(
        self, program: Program, fan_in: int | None = None, fan_out: int | None = None
    ) -> LinearOperator:
        """The operator with zero weights of another size, in place in its node."""
        shape = self._weight_shape(fan_in or self.fan_in, fan_out or self.fan_out)
        name = program.unique_name(f"{self.weight.name}_pool")
        self.node.inputs[1] = gs.Constant(name, np.zeros(shape, self.weight.dtype))
        if self.bias is not None and fan_out is not None:
            name = program.unique_name(f"{self.bias.name}_pool")
            self._replace_bias(gs.Constant(name, np.zeros(fan_out, self.weight.dtype)))
        resized = linear_operator(self.node)
        assert resized is not None
        return resized

    def _replace_bias(self, bias: gs.Constant) -> None:
        reader = self.bias_node or self.node
        index = next(i for i, tensor in enumerate(reader.inputs) if tensor is self.bias)
        reader.inputs[index] = bias

    @abstractmethod
    def rows(self, x: Array, positions: Rows, out: Float32 | None = None) -> Float32:
        """Receptive fields [frames * p, groups, fan_in] of x at output positions [frames, p].

        They are written into `out` if that is given.
        """

    # -- between the node's layout of weights and [groups, fan_in, fan_out / groups] --------------

    @property
    def _bias_factor(self) -> float:
        return 1.0

    @property
    def _weight_factor(self) -> float:
        return 1.0

    @abstractmethod
    def _matrices(self, weight: Float64) -> Float64: ...

    @abstractmethod
    def _weight(self, matrices: Float64) -> Float64: ...

    @abstractmethod
    def _weight_shape(self, fan_in: int, fan_out: int) -> tuple[int, ...]: ...


class Conv(LinearOperator):
    """A convolution of one or two axes; W [outputs, inputs / groups, *kernel]."""

    channels_last = False

    @classmethod
    def of(cls, node: gs.Node, weight: gs.Constant, bias: gs.Constant | None) -> Conv | None:
        """The node as a convolution, None for one of other axes."""
        return cls(node, weight, bias) if len(weight.shape) in (3, 4) else None

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Channels of one group, and the kernel."""
        return tuple(self.weight.shape[1:])

    @property
    def fan_out(self) -> int:
        """Output channels."""
        return int(self.weight.shape[0])

    def window(self, spatial: tuple[int, ...]) -> Window:
        """How it slides over an input of that spatial size."""
        window = window_of(self.node, self.receptive_field[1:], spatial)
        assert window is not None
        return window

    def rows(self, x: Array, positions: Rows, out: Float32 | None = None) -> Float32:
        """Patches of x under the kernel."""
        return window_rows(x, positions, self.window(x.shape[2:]), self.groups, out)

    def _matrices(self, weight: Float64) -> Float64:
        return weight.reshape(self.groups, self.fan_out // self.groups, -1).transpose(0, 2, 1)

    def _weight(self, matrices: Float64) -> Float64:
        return matrices.transpose(0, 2, 1).reshape(self.weight.shape)

    def _weight_shape(self, fan_in: int, fan_out: int) -> tuple[int, ...]:
        kernel = self.receptive_field[1:]
        return (fan_out, fan_in // math.prod(kernel), *kernel)


class ConvTranspose(Conv):
    """A transposed convolution of one or two axes; W [inputs, outputs / groups, *kernel].

    Output o reads the taps k with (o + pad - k dilation) divisible by the stride, and only those:
    in its row the others are zero, so that one least-squares problem holds the outputs of all
    phases.
    """

    @classmethod
    def of(
        cls, node: gs.Node, weight: gs.Constant, bias: gs.Constant | None
    ) -> ConvTranspose | None:
        """The node as a transposed convolution; None where a wished size decides its padding."""
        if len(weight.shape) not in (3, 4):
            return None
        found = cls(node, weight, bias)
        return found if transposed_window_of(node, found.receptive_field[1:]) else None

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Channels of one group, and the kernel."""
        return (int(self.weight.shape[0]) // self.groups, *self.weight.shape[2:])

    @property
    def fan_out(self) -> int:
        """Output channels."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def channel_axis(self) -> int | None:
        """That of the outputs, unless groups have outputs at the same places of it."""
        return 1 if self.groups == 1 else None

    def window(self, spatial: tuple[int, ...]) -> Window:
        """How it slides, whatever the size; zero at taps that an output does not read."""
        window = transposed_window_of(self.node, self.receptive_field[1:])
        assert window is not None
        return window

    def _matrices(self, weight: Float64) -> Float64:
        inputs, outputs = weight.shape[:2]
        apart = weight.reshape(self.groups, inputs // self.groups, outputs, -1)
        return apart.transpose(0, 1, 3, 2).reshape(self.groups, -1, outputs)

    def _weight(self, matrices: Float64) -> Float64:
        apart = matrices.reshape(self.groups, self.receptive_field[0], -1, matrices.shape[2])
        shape = self._weight_shape(self.fan_in, self.fan_out)
        return apart.transpose(0, 1, 3, 2).reshape(shape)

    def _weight_shape(self, fan_in: int, fan_out: int) -> tuple[int, ...]:
        kernel = self.receptive_field[1:]
        inputs = fan_in // math.prod(kernel) * self.groups
        return (inputs, fan_out // self.groups, *kernel)


class Gemm(LinearOperator):
    """alpha x W + beta b; W [inputs, outputs], or the other way round with transB."""

    @classmethod
    def of(cls, node: gs.Node, weight: gs.Constant, bias: gs.Constant | None) -> Gemm | None:
        """The node as such; None with transA, a factor of zero or a bias per frame."""
        plain = not node.attrs.get("transA", 0) and all(
            float(node.attrs.get(factor, 1.0)) != 0 for factor in ("alpha", "beta")
        )
        row_bias = bias is None or math.prod(bias.shape) in (1, max(bias.shape[-1:], default=1))
        return cls(node, weight, bias) if plain and row_bias else None

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Inputs."""
        return (int(self.weight.shape[1 if self._transposed else 0]),)

    @property
    def fan_out(self) -> int:
        """Outputs."""
        return int(self.weight.shape[0 if self._transposed else 1])

    @property
    def form(self) -> tuple[object, ...]:
        """How the weight is read."""
        return (*super().form, self._transposed, self._factor)

    @property
    def channel_axis(self) -> int:
        """That of the outputs."""
        return 0 if self._transposed else 1

    def rows(self, x: Array, positions: Rows, out: Float32 | None = None) -> Float32:
        """Rows of x."""
        found = value_rows(x, positions, channels_last=True)[:, None]
        if out is None:
            return found
        out[...] = found
        return out

    @property
    def _transposed(self) -> bool:
        return bool(self.node.attrs.get("transB", 0))

    @property
    def _factor(self) -> float:
        return float(self.node.attrs.get("alpha", 1.0))

    @property
    def _weight_factor(self) -> float:
        return self._factor

    @property
    def _bias_factor(self) -> float:
        return float(self.node.attrs.get("beta", 1.0))

    def _matrices(self, weight: Float64) -> Float64:
        return (weight.T if self._transposed else weight)[None] * self._factor

    def _weight(self, matrices: Float64) -> Float64:
        weight: Float64 = matrices[0] / self._factor
        return weight.T if self._transposed else weight

    def _weight_shape(self, fan_in: int, fan_out: int) -> tuple[int, ...]:
        return (fan_out, fan_in) if self._transposed else (fan_in, fan_out)


class MatMul(Gemm):
    """A product with a constant matrix, and the Add of its bias: a Gemm without factors."""

    @classmethod
    def of(cls, node: gs.Node, weight: gs.Constant, bias: gs.Constant | None) -> MatMul | None:
        """The node as a product, with the Add of a constant where that alone reads it."""
        if len(weight.shape) != 2:
            return None
        slot = bias_slot(node)
        return cls(node, weight, slot.constant, slot.node) if slot else cls(node, weight, None)

    @property
    def fits_bias(self) -> bool:
        """Whether an Add of its bias is there: a product by itself has no place for one."""
        return self.bias is not None


OPERATORS: dict[str, type[LinearOperator]] = {
    "Conv": Conv,
    "ConvTranspose": ConvTranspose,
    "MatMul": MatMul,
    "Gemm": Gemm,
}


def linear_operator(node: gs.Node) -> LinearOperator | None:
    """The node as a linear operator, or None when it is none that a least-squares fit can write.

    Floats only; the right-hand operand, and a bias where there is one, have to be constant.
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
    kind = OPERATORS.get(node.op)
    return None if kind is None else kind.of(node, weight, bias)


def operator_making(value: gs.Tensor) -> LinearOperator | None:
    """The operator whose result, its bias included, is `value`; None where there is none."""
    if len(value.inputs) != 1:
        return None
    node = value.inputs[0]
    for maker in (node, *(made for tensor in node.inputs for made in tensor.inputs)):
        operator = linear_operator(maker)
        if operator is not None and operator.result is value:
            return operator
    return None
