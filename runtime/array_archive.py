"""Arrays in an .npz: read without trust (bounded, no pickle), written to the same bytes."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from .errors import ModelError

Array = NDArray[Any]

_MAX_MEMBERS = 1 << 16
_MAX_HEADER_NBYTES = 1 << 16
_CHUNK_NBYTES = 1 << 22
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    OverflowError,
    ValueError,
    MemoryError,
)


def read_arrays(
    path: Path, most_nbytes: int, hint: str, wanted: Callable[[str], bool] = lambda _: True
) -> dict[str, Array]:
    """The arrays of an .npz by name, or those `wanted`; at most so many bytes of them together.

    Raises ModelError, with the hint, for a file that is damaged, too large or says other sizes
    than it has.
    """
    found: dict[str, Array] = {}
    left = most_nbytes
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS:
                raise ValueError(f"it has {len(members)} members")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if not wanted(name):
                    continue
                if name in found:
                    raise ValueError(f"'{name}' is there twice")
                left -= member.file_size
                if left < 0:
                    raise ValueError(f"it unpacks to more than {most_nbytes} bytes")
                if member.compress_type not in _PLAIN:
                    raise ValueError("it is packed in an unusual way")
                with archive.open(member) as stream:
                    found[name] = _array(cast("zipfile.ZipExtFile", stream), member.file_size)
    except _FAULTS as error:
        told = str(error) or type(error).__name__
        raise ModelError(f"{path} cannot be read: {told}", hint) from error
    return found


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz of that name that has the same bytes for the same arrays in that order.

    Raises OSError if the disk is full; what was written until then stays.
    """
    # Not np.savez: it would add a suffix, and stamps the time of day.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                npy_format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def _array(stream: zipfile.ZipExtFile, nbytes: int) -> Array:
    """The array of a member, if its header tells the size that it has."""
    content, at = bytearray(nbytes), 0
    view = memoryview(content)
    while count := stream.readinto(view[at : at + _CHUNK_NBYTES]):
        at += count
    # The check sum is compared where a member ends: read on to there.
    if at != nbytes or stream.read(1):
        raise ValueError("a member has another size than it says")
    start = io.BytesIO(bytes(view[: _MAX_HEADER_NBYTES + 12]))
    try:
        version = npy_format.read_magic(start)
        read_header = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(start, max_header_size=_MAX_HEADER_NBYTES)
    except Exception as error:  # numpy parses headers as Python, and that fails in any way
        raise ValueError(f"a member's header is damaged: {error}") from error
    if dtype.hasobject or any(size < 0 for size in shape):
        raise ValueError("a member holds no plain values")
    if math.prod(shape) * dtype.itemsize != nbytes - start.tell():
        raise ValueError("an array has another size than it says")
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    flat = np.frombuffer(content, dtype, offset=start.tell())
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
