"""Weights that are stored in few bits: float constants that know their codes and scales."""

from __future__ import annotations

import math
from typing import cast

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..errors import InternalFault
from .arrays import Array, Float32

BITS = (8, 4)


class StoredWeight(gs.Constant):
    """A float32 constant that is exactly `codes` * `scales`, and is stored as those.

    `codes` have the weight's shape and lie in -127 .. 127, or -7 .. 7 of 4 bits; `scales` are one
    for each place along `axis`. To every pass it is a constant of floats; who gives a node new
    weights makes another constant, so that what is stored is never stale.
    """

    def __init__(
        self, name: str, codes: NDArray[np.int8], scales: Float32, axis: int, bits: int
    ) -> None:
        shape = [1] * codes.ndim
        shape[axis] = -1
        if bits not in BITS or scales.shape != (codes.shape[axis],):
            raise InternalFault(f"{name}: {bits} bits, scales of shape {scales.shape}")
        if int(np.abs(codes.astype(np.int16)).max(initial=0)) >= 2 ** (bits - 1):
            raise InternalFault(f"{name}: codes need more than {bits} bits")
        values = codes.astype(np.float32) * scales.astype(np.float32).reshape(shape)
        super().__init__(name, np.ascontiguousarray(values))
        self.codes, self.scales, self.axis, self.bits = codes, scales, axis, bits

    def copy(self) -> StoredWeight:
        """A constant of the same arrays."""
        found = StoredWeight.__new__(StoredWeight)
        values = cast("Array", self._values)  # pyright: ignore[reportUnknownMemberType]
        gs.Constant.__init__(found, self.name, values)
        found.codes, found.scales = self.codes, self.scales
        found.axis, found.bits = self.axis, self.bits
        return found

    @property
    def stored_nbytes(self) -> int:
        """Bytes of codes and scales."""
        return -(-math.prod(self.codes.shape) * self.bits // 8) + self.scales.nbytes

    @property
    def stored_codes(self) -> Array:
        """The codes in the type that they are written in."""
        return self.codes if self.bits == 8 else self.codes.astype(ml_dtypes.int4)
