"""Weights that a file holds in few bits: integer codes, and float32 scales that they count in."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from ..errors import InternalFault
from .arrays import Array, Float32, Int8

# The least and the largest code by bits: zero is code 0, for TensorRT takes no other.
RANGES = {8: (-128, 127), 4: (-8, 7)}
# The first opsets whose DequantizeLinear has a scale per tensor, has an axis, and has blocks and
# codes of 4 bits.
_PER_TENSOR, _PER_CHANNEL, OPSET_OF_FOUR_BITS = 10, 13, 21


class StoredWeight(gs.Constant):
    """A float32 constant that takes the room of its codes and scales: `stored` makes them.

    `values` are exactly what DequantizeLinear makes of `codes` (int8, of the weight's shape) and
    `scales` (float32): one for all ([]), one per channel along `axis` ([channels]), or one per
    `block` elements along `axis` (the weight's shape, that axis divided by `block`). `bits` are 8
    or 4. Passes and fits take it for the float constant that it also is, and whoever puts a new
    constant in its place gives the storage up.
    """

    def __init__(
        self,
        name: str,
        values: Float32,
        codes: Int8,
        scales: Float32,
        axis: int,
        bits: int,
        block: int,
    ) -> None:
        super().__init__(name, values)
        self.codes = codes
        self.scales = scales
        self.axis = axis
        self.bits = bits
        self.block = block

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "values":  # codes would tell of other numbers than the passes see
            raise InternalFault(
                f"the values of stored weight '{self.name}' were written to: it is replaced by a "
                "new constant, or it stays"
            )
        super().__setattr__(name, value)

    def copy(self) -> StoredWeight:
        """The same weight without readers; arrays are shared."""
        values: Float32 = self._values
        return StoredWeight(
            self.name, values, self.codes, self.scales, self.axis, self.bits, self.block
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, of which two of 4 bits share one, and of the scales."""
        return -(-self.codes.size * self.bits // 8) + self.scales.nbytes

    @property
    def opset(self) -> int:
        """The first opset of ONNX that can say this storage."""
        if self.block or self.bits == 4:
            return OPSET_OF_FOUR_BITS
        return _PER_CHANNEL if self.scales.ndim else _PER_TENSOR

    def written_codes(self) -> Array:
        """The codes in the type that a file has them in: int8 or int4."""
        return self.codes if self.bits == 8 else self.codes.astype(ml_dtypes.int4)


def stored(
    name: str, codes: Array, scales: Array, axis: int, bits: int, block: int = 0
) -> StoredWeight:
    """The weight of these codes (any integers, int4 too) and scales; see StoredWeight.

    A negative `axis` counts from the end; of a weight with one scale it means nothing. Raises
    InternalFault where shapes disagree, a code does not fit the bits, or a scale or a value is no
    finite number, the scale a positive one.
    """
    shape = codes.shape
    scales = np.asarray(scales, order="C")  # 0-d stays so
    if bits not in RANGES:
        raise _fault(name, f"{bits} bits are none of {', '.join(map(str, RANGES))}")
    if scales.dtype != np.float32:
        raise _fault(name, f"scales are {scales.dtype.name}, not float32")
    if scales.ndim == 0 and not block:
        axis = 0  # it means nothing, and equal storage is to be seen as equal
    elif not -len(shape) <= axis < len(shape):
        raise _fault(name, f"there is no axis {axis} in {list(shape)}")
    else:
        axis %= len(shape)
    if scales.shape != (wanted := _shape_of_scales(name, scales, shape, axis, block)):
        raise _fault(name, f"scales are {list(scales.shape)}, not {list(wanted)}")
    if codes.dtype.kind not in "iu" and codes.dtype != ml_dtypes.int4:
        raise _fault(name, f"codes are {codes.dtype.name}, not integers")
    whole = codes.astype(np.int64)
    least, largest = RANGES[bits]
    if codes.size and not least <= int(whole.min()) <= int(whole.max()) <= largest:
        raise _fault(name, f"codes of {bits} bits go from {least} to {largest}")
    if not np.all(np.isfinite(scales) & (scales > 0)):  # TensorRT refuses a scale of 0
        raise _fault(name, "scales are positive numbers")
    held = whole.astype(np.int8, order="C")
    values = held.astype(np.float32) * _spread(scales, len(shape), axis, block)
    if not np.all(np.isfinite(values)):
        raise _fault(name, "a code times its scale is no finite number")
    return StoredWeight(name, values, held, scales, axis, bits, block)


def _shape_of_scales(
    name: str, scales: Array, shape: tuple[int, ...], axis: int, block: int
) -> tuple[int, ...]:
    if not block:
        return (shape[axis],) if scales.ndim else ()
    if block < 0 or shape[axis] % block:
        raise _fault(name, f"axis {axis} of {list(shape)} is no whole number of blocks of {block}")
    return (*shape[:axis], shape[axis] // block, *shape[axis + 1 :])


def _spread(scales: Float32, rank: int, axis: int, block: int) -> Float32:
    """The scales in a shape that multiplies with the codes."""
    if block:
        return np.repeat(scales, block, axis)
    if scales.ndim:
        return scales.reshape([-1 if place == axis else 1 for place in range(rank)])
    return scales


def _fault(name: str, problem: str) -> InternalFault:
    return InternalFault(f"weight '{name}' cannot be stored: {problem}")
