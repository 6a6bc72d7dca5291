"""Values of types that NumPy has no word for: bfloat16, and floats and integers of 8 bits or less.

ONNX Runtime computes them, but hands out arrays of NumPy's own types only. Between sessions such a
value goes as ONNX Runtime holds it; callers get it in the narrowest type of NumPy's that holds all
its values.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .feeds import Array

if TYPE_CHECKING:
    import onnxruntime

# What ONNX Runtime calls tensors that NumPy can hold; what is no tensor comes as lists and maps.
_PLAIN_NAMES = (
    "bool float double float16 string int8 int16 int32 int64 uint8 uint16 uint32 uint64 "
    "complex64 complex128"
)
_PLAIN = frozenset(f"tensor({name})" for name in _PLAIN_NAMES.split())
# onnx.TensorProto's numbers of types that ml_dtypes adds to NumPy, an element to a byte or two.
_NUMBERS = {
    "bfloat16": 16,
    "float8_e4m3fn": 17,
    "float8_e4m3fnuz": 18,
    "float8_e5m2": 19,
    "float8_e5m2fnuz": 20,
    "float8_e8m0fnu": 24,
}
# Bits of an element and whether it has a sign, of integers that share a byte.
_INTEGERS = {"int4": (4, True), "uint4": (4, False), "int2": (2, True), "uint2": (2, False)}
# Bits of exponent and mantissa, bias, and which codes are no numbers, by onnx.proto.
_FLOATS = {
    "float8e4m3fn": (4, 3, 7, (0x7F, 0xFF)),
    "float8e4m3fnuz": (4, 3, 8, (0x80,)),
    "float8e5m2": (5, 2, 15, (0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF)),
    "float8e5m2fnuz": (5, 2, 16, (0x80,)),
    "float4e2m1": (2, 1, 1, ()),
}


def run_session(
    session: onnxruntime.InferenceSession,
    outputs: Sequence[str],
    feeds: Mapping[str, Any],
    options: onnxruntime.RunOptions | None = None,
) -> list[Any]:
    """The outputs in order: arrays, and OrtValues of types that NumPy has no word for.

    `feeds` may hold such OrtValues, and arrays of ml_dtypes' types; `options` can stop the run.
    Raises what ONNX Runtime raises.
    """
    if not outputs:
        return []
    types = {value.name: str(value.type) for value in session.get_outputs()}
    opaque = [name for name in outputs if is_narrow(types[name])]
    plain = not any(hasattr(v, "data_ptr") or _number_of(v) for v in feeds.values())
    # Lists, mappings and None have no OrtValue that Python can make.
    listed = any(
        not isinstance(v, np.ndarray) and not hasattr(v, "data_ptr") for v in feeds.values()
    )
    if (plain and not opaque) or listed:
        return session.run(list(outputs), dict(feeds), options)
    import onnxruntime

    ort: Any = onnxruntime  # its stubs know half of OrtValue
    given = {
        name: value if hasattr(value, "data_ptr") else _held(ort.OrtValue, value)
        for name, value in feeds.items()
    }
    made: list[Any] = session.run_with_ort_values(list(outputs), given, options)
    return [
        value if name in opaque or not value.is_tensor() else value.numpy()
        for name, value in zip(outputs, made, strict=True)
    ]


def _number_of(value: Any) -> int:
    """The number in onnx.TensorProto of an array's type that NumPy has from ml_dtypes; else 0."""
    return _NUMBERS.get(str(getattr(value, "dtype", "")), 0)


def _held(kind: Any, value: Any) -> Any:
    """The array as ONNX Runtime holds it."""
    if number := _number_of(value):
        bits = np.asarray(value, order="C").view(f"u{value.dtype.itemsize}")
        return kind.ortvalue_from_numpy_with_onnx_type(bits, number)
    return kind.ortvalue_from_numpy(value)


def is_narrow(kind: str) -> bool:
    """Whether a type, as ONNX Runtime calls it, is a tensor's that NumPy cannot hold."""
    return kind.startswith("tensor(") and kind not in _PLAIN


def readable(value: Any) -> Any:
    """The value as an array, wider where NumPy has no such type; what is no tensor as it is."""
    if not hasattr(value, "data_ptr"):
        return value
    kind = str(value.data_type()).removeprefix("tensor(").removesuffix(")")
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    if kind == "bfloat16":
        bits = _bytes(value, 2 * count).view(np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    if kind in _INTEGERS:
        width, signed = _INTEGERS[kind]
        codes = _unpacked(_bytes(value, -(-count * width // 8)), width, count)
        if signed:
            half = 1 << (width - 1)
            codes = (codes.astype(np.int8) ^ half) - half
        return codes.reshape(shape)
    if kind == "float8e8m0":
        codes = _bytes(value, count)
        powers = np.ldexp(np.float32(1), codes.astype(np.int32) - 127).astype(np.float32)
        return np.where(codes == 255, np.float32(np.nan), powers).reshape(shape)
    if kind in _FLOATS:
        exponent, mantissa, *_ = _FLOATS[kind]
        width = 1 + exponent + mantissa
        codes = _unpacked(_bytes(value, -(-count * width // 8)), width, count)
        return _numbers(kind)[codes].reshape(shape)
    return value


def _bytes(value: Any, nbytes: int) -> Array:
    """A copy of the value's memory."""
    return np.frombuffer(ctypes.string_at(value.data_ptr(), nbytes), np.uint8)


def _unpacked(content: Array, width: int, count: int) -> Array:
    """Codes of `width` bits, the first in the lowest bits of a byte."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    codes = content[:, None] >> shifts & np.uint8((1 << width) - 1)
    return codes.reshape(-1)[:count]


def _numbers(kind: str) -> Array:
    """The number of every code of a small float type."""
    exponent, mantissa, bias, odd = _FLOATS[kind]
    codes = np.arange(1 << (1 + exponent + mantissa))
    sign = np.where(codes >> (exponent + mantissa), -1.0, 1.0)
    power = codes >> mantissa & ((1 << exponent) - 1)
    part = (codes & ((1 << mantissa) - 1)) / (1 << mantissa)
    size = np.where(power, np.ldexp(1 + part, power - bias), np.ldexp(part, 1 - bias))
    found = (sign * size).astype(np.float32)
    found[list(odd)] = np.nan
    if kind == "float8e5m2":
        found[[0x7C, 0xFC]] = np.inf, -np.inf
    return found
