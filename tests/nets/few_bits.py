"""Weights of a program stored in few bits, rounded to the nearest code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.stored_weight import RANGES, StoredWeight, stored

Storing = Callable[[str, NDArray[Any]], StoredWeight]


def per_tensor(bits: int) -> Storing:
    """One scale for all."""

    def store(name: str, array: NDArray[Any]) -> StoredWeight:
        scale = np.asarray(_scale(np.abs(array).max(), bits), np.float32)
        return stored(name, _codes(array / scale, bits), scale, 0, bits)

    return store


def per_channel(bits: int, axis: int) -> Storing:
    """A scale per channel along the axis."""

    def store(name: str, array: NDArray[Any]) -> StoredWeight:
        others = tuple(other for other in range(array.ndim) if other != axis)
        scales = _scale(np.abs(array).max(axis=others, keepdims=True), bits)
        return stored(name, _codes(array / scales, bits), scales.reshape(-1), axis, bits)

    return store


def per_block(bits: int, axis: int, block: int) -> Storing:
    """A scale per block along the axis."""

    def store(name: str, array: NDArray[Any]) -> StoredWeight:
        shape = list(array.shape)
        shape[axis : axis + 1] = [shape[axis] // block, block]
        scales = _scale(np.abs(array.reshape(shape)).max(axis=axis + 1), bits)
        codes = _codes(array / np.repeat(scales, block, axis), bits)
        return stored(name, codes, scales, axis, bits, block)

    return store


def put(program: Program, name: str, storing: Storing) -> StoredWeight:
    """Stores that weight of the program, in its place and by its name."""
    old = program.weights()[name]
    new = storing(name, old.values)
    program.replace_uses(old, new)
    assert isinstance(program.weights()[name], gs.Constant)
    return new


def _scale(largest: Any, bits: int) -> NDArray[np.float32]:
    return (np.maximum(largest, 1e-6) / RANGES[bits][1]).astype(np.float32)


def _codes(array: NDArray[Any], bits: int) -> NDArray[np.int8]:
    return np.clip(np.rint(array), *RANGES[bits]).astype(np.int8)
