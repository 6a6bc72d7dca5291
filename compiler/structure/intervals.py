"""Intervals per channel: the lowest and highest number that a value may have there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..graph.arrays import Float64
from ..graph.weights import array_of

# A weight tensor with more elements than this is not looked through.
MAX_ELEMENTS = 1 << 25


@dataclass(frozen=True)
class Bounds:
    """Lowest and highest number of each channel; one entry where channels are not told apart.

    `axis` is that of the channels: 1, or -1 for the last; None with one entry.
    """

    low: Float64
    high: Float64
    axis: int | None = None

    @property
    def known(self) -> bool:
        """Whether anything at all is known."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def joined(self) -> Bounds:
        """The bounds of all channels together."""
        return Bounds(self.low.min(keepdims=True), self.high.max(keepdims=True))

    def constant(self) -> NDArray[np.bool_]:
        """Which channels have one value only."""
        return np.isfinite(self.low) & (self.low == self.high)


ANYTHING = Bounds(np.array([-np.inf]), np.array([np.inf]))


def float_array(tensor: gs.Tensor) -> Float64 | None:
    """The numbers of a constant as float64; None where it is computed, no float or too large."""
    if not isinstance(tensor, gs.Constant):
        return None
    array = array_of(tensor)
    if array.dtype.kind != "f" or array.size > MAX_ELEMENTS:
        return None
    values = tensor.values.astype(np.float64)
    return values if np.isfinite(values).all() else None


def per_channel(array: Float64, rank: int, axis: int, channels: int) -> Float64 | None:
    """The constant as one number per channel of a value of that rank; None if it is more."""
    if array.ndim > rank:
        return None
    full = array.reshape([1] * (rank - array.ndim) + list(array.shape))
    if full.size not in (1, channels) or (full.size > 1 and full.shape[axis] != channels):
        return None
    return np.broadcast_to(full.reshape(-1), (channels,)).copy()


def widened(given: Bounds, channels: int, axis: int) -> Bounds:
    """The bounds with an entry for every channel on that axis."""
    if given.axis != axis or len(given.low) != channels:
        given = given.joined()
    shape = (channels,)
    return Bounds(np.broadcast_to(given.low, shape), np.broadcast_to(given.high, shape), axis)
