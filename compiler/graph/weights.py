"""Weights by content: how many bytes a constant takes, and which constants are equal."""

from __future__ import annotations

import hashlib
import mmap
import weakref
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, cast

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from .arrays import Array
from .program import is_standard
from .stored_weight import StoredWeight

# Bytes of a weight that are looked at in one go: weights may be memory-mapped and larger than RAM.
CHUNK_NBYTES = 16 * 2**20

# A body's weight up to this size stays with the body, since some kernels want their constants at
# hand (shapes, scales, axes); larger ones are held at the top level, once for all that read them.
SMALL_NBYTES = 4096

# By id of the array, since arrays are not hashable; the weak reference tells a new array that
# reuses the address from the one that was hashed.
_digests: dict[int, tuple[weakref.ref[Array], tuple[int, ...], str]] = {}


def array_of(constant: gs.Constant) -> Array:
    """The constant's array, as it is held: no copy, and not read if it is memory-mapped."""
    values = constant._values  # pyright: ignore[reportPrivateUsage]
    return cast(Array, values) if isinstance(values, np.ndarray) else constant.values


def element_type(dtype: Any) -> int:
    """The onnx.TensorProto type of a NumPy (or ml_dtypes) dtype; ONNX types are passed through."""
    if isinstance(dtype, int):
        return dtype
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def element_name(dtype: Any) -> str:
    """NumPy's or ml_dtypes' name of a dtype that may be a number of onnx.TensorProto."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(element_type(dtype))).name


@cache
def element_nbits(onnx_type: int) -> int:
    """Bits that one element takes in ONNX's raw data: 4 for int4, of which two share a byte."""
    eight = np.zeros(8, helper.tensor_dtype_to_np_dtype(onnx_type))
    return len(numpy_helper.from_array(eight).raw_data)


def stored_nbytes(onnx_type: int, count: int) -> int:
    """Bytes of ONNX's raw data for that many elements of a type that is not STRING."""
    return -(-count * element_nbits(onnx_type) // 8)


def nbytes_of(constant: gs.Constant) -> int:
    """Bytes of the constant's content as a file stores it (int4 takes half a byte per element).

    Of a stored weight its codes and scales, whatever its values would take.
    """
    return constant.nbytes if isinstance(constant, StoredWeight) else values_nbytes(constant)


def values_nbytes(constant: gs.Constant) -> int:
    """Bytes of the constant's values: more than `nbytes_of` where they are stored in few bits."""
    array = array_of(constant)
    if array.dtype == object:
        return sum(len(_encoded(text)) for text in array.reshape(-1))
    return stored_nbytes(element_type(array.dtype), array.size)


def bits_of(constant: gs.Constant) -> int:
    """Bits that an element takes in a file; 8 of strings, which are bytes.

    Scales and zero points take those of the codes that DequantizeLinear multiplies out with them.
    """
    if isinstance(constant, StoredWeight):
        return constant.bits
    codes = [_scaled_by(constant, reader) for reader in constant.outputs]
    if codes and all(code is not None for code in codes):
        return max(bits_of(code) for code in codes if code is not None)
    array = array_of(constant)
    return 8 if array.dtype == object else element_nbits(element_type(array.dtype))


def _scaled_by(constant: gs.Constant, reader: gs.Node) -> gs.Constant | None:
    """The codes that the reader multiplies out, where their scale or zero point is the constant."""
    if reader.op != "DequantizeLinear" or not is_standard(reader):
        return None
    codes = reader.inputs[0]
    return codes if isinstance(codes, gs.Constant) and codes is not constant else None


def digest(constant: gs.Constant) -> str:
    """The sha256, in hex, of the constant's type, shape and bytes; of all that is stored.

    Two constants with one digest are the same weight: -0.0 and 0.0, and two kinds of NaN,
    differ. So do a stored weight and a plain one of the same values: taken for one, whichever
    came first would decide what both cost. Read in chunks; remembered for as long as the array
    lives (weights are replaced, never written to).
    """
    if isinstance(constant, StoredWeight):
        arrays = _digest(constant.codes), _digest(constant.scales)
        told = f"stored {constant.bits} {constant.axis} {constant.block} {' '.join(arrays)}"
        return hashlib.sha256(told.encode()).hexdigest()
    return _digest(array_of(constant))


def _digest(array: Array) -> str:
    known = _digests.get(id(array))
    if known is not None and known[0]() is array and known[1] == array.shape:
        return known[2]
    found = hashlib.sha256(f"{element_type(array.dtype)}{array.shape}".encode())
    for chunk in byte_chunks(array):
        found.update(chunk)
    key = id(array)
    _digests[key] = (
        weakref.ref(array, lambda _, key=key: _digests.pop(key, None)),
        array.shape,
        found.hexdigest(),
    )
    return found.hexdigest()


def unique_nbytes(constants: Iterable[gs.Constant]) -> int:
    """Bytes of all constants, equal ones (by content) counted once."""
    sizes = {digest(constant): nbytes_of(constant) for constant in constants}
    return sum(sizes.values())


def nbytes_by_bits(sizes: Iterable[tuple[int, int]]) -> dict[str, int]:
    """Bytes by the bits of an element ("32", "8"), most bits first, of (bits, bytes) pairs.

    By names, as JSON has them. The scales of a stored weight count with its codes.
    """
    found: dict[int, int] = {}
    for bits, nbytes in sizes:
        found[bits] = found.get(bits, 0) + nbytes
    return {str(bits): found[bits] for bits in sorted(found, reverse=True) if found[bits]}


def held_key(constant: gs.Constant, in_body: bool = False) -> str:
    """What weights that a program and its file hold once have in common; see SMALL_NBYTES."""
    if in_body and nbytes_of(constant) <= SMALL_NBYTES:
        return constant.name
    return digest(constant)


def chunks(array: Array, nbytes: int = CHUNK_NBYTES) -> Iterator[Array]:
    """The array's elements in order, as flat arrays of at most `nbytes` bytes each.

    Pages of a memory-mapped weight are given back after each piece: reading all of a model
    larger than RAM takes the memory of one piece.
    """
    step = max(1, nbytes // max(1, array.itemsize))
    if not array.flags.c_contiguous:
        for start in range(0, array.size, step):
            yield array.flat[start : start + step]
        return
    flat = np.asarray(array).reshape(-1)
    mapped = _mapping(array)
    for start in range(0, flat.size, step):
        piece = flat[start : start + step]
        yield piece
        if mapped is not None:
            _give_back(mapped, piece)


def _mapping(array: Array) -> mmap.mmap | None:
    """The read-only file mapping that the array looks into."""
    if not isinstance(array, np.memmap) or array.flags.writeable:
        return None
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _give_back(mapped: mmap.mmap, piece: Array) -> None:
    if not hasattr(mapped, "madvise"):  # not on Windows
        return
    first = np.frombuffer(mapped, np.uint8).ctypes.data
    start = piece.ctypes.data - first
    start -= start % mmap.PAGESIZE
    stop = piece.ctypes.data - first + piece.nbytes
    mapped.madvise(mmap.MADV_DONTNEED, start, stop - start)


def byte_chunks(array: Array) -> Iterator[bytes | memoryview]:
    """The bytes that ONNX stores for the array (`raw_data`), in pieces of bounded size."""
    if array.dtype == object:
        for text in array.reshape(-1):
            encoded = _encoded(text)
            yield len(encoded).to_bytes(8, "little")
            yield encoded
    elif element_nbits(element_type(array.dtype)) != 8 * array.itemsize:
        yield numpy_helper.from_array(np.ascontiguousarray(array)).raw_data
    else:
        for chunk in chunks(array):
            yield np.ascontiguousarray(chunk).view(np.uint8).data


def _encoded(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()
