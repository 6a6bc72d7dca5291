"""Arrays in .npy and .npz files, read without trusting the file: no pickle, bounded memory."""

from __future__ import annotations

import io
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ..errors import DataError
from ..units import format_bytes

Array = NDArray[Any]

# All arrays of one load that are decompressed (or small enough to be read whole) are held in
# memory; an uncompressed array is mapped from disk and does not count.
MAX_DECODED_NBYTES = 4 << 30
# Below this an array is read, above it mapped: a folder of thousands of small files would
# otherwise run into the kernel's limit on mappings (65 530 on Linux).
_MAP_FROM_NBYTES = 1 << 20
# numpy writes headers of about 128 bytes; version 2 of the format allows 4 GiB.
_MAX_HEADER_NBYTES = 1 << 16
_MAX_DIMENSIONS = 32
_CHUNK_NBYTES = 1 << 24
_MAGIC = b"\x93NUMPY"
_ENCRYPTED = 0x1
_LOCAL_HEADER_NBYTES = 30
_ZIP_FAULTS = (
    zipfile.BadZipFile,
    NotImplementedError,  # a compression method that Python does not know
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)


@dataclass
class Allowance:
    """The bytes that one load may still decode into memory."""

    nbytes: int = field(default_factory=lambda: MAX_DECODED_NBYTES)
    _left: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._left = self.nbytes

    def take(self, nbytes: int, where: str) -> None:
        """Count `nbytes` as decoded. Raises DataError, naming `where`, when that is too much."""
        if nbytes > self._left:
            already = self.nbytes - self._left
            after = f" after {format_bytes(already)} of other frames" if already else ""
            raise DataError(
                f"{where} unpacks to {format_bytes(nbytes)}{after}, and at most "
                f"{format_bytes(self.nbytes)} are unpacked into memory",
                "give fewer frames (a few hundred are usual), or save them uncompressed with "
                "np.savez or np.save: such arrays are read from disk as needed",
            )
        self._left -= nbytes


@dataclass(frozen=True)
class StoredArray:
    """An array whose shape and dtype are known and whose data is read when first asked for.

    `where` says in words where it lies: "array 'x' of calib.npz".
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Array] = field(repr=False, compare=False)

    @cached_property
    def array(self) -> Array:
        """The data, in memory or mapped from disk. Raises DataError for a damaged file."""
        return self.read()

    @classmethod
    def of(cls, array: Array, where: str) -> StoredArray:
        """An array that is already in memory."""
        return cls(where, array.shape, array.dtype, lambda: array)


class _Header(NamedTuple):
    """What a .npy header says, and at which byte the data begins."""

    where: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def stored(self, read: Callable[[], Array]) -> StoredArray:
        return StoredArray(self.where, self.shape, self.dtype, read)


def read_npy(path: Path, allowance: Allowance) -> StoredArray:
    """The array of a .npy file; only its header has been read.

    Raises DataError for a file that is empty, truncated, pickled or no .npy file.
    """
    where = str(path)
    size = _size(path)
    with _opened(path) as file:
        header = _header(file, where, size)

    def read() -> Array:
        if header.nbytes >= _MAP_FROM_NBYTES:
            return _mapped(path, header)
        allowance.take(header.nbytes, where)
        with _opened(path) as file:
            file.seek(header.offset)
            return _filled(file, header)

    return header.stored(read)


def read_npz(path: Path, allowance: Allowance) -> dict[str, StoredArray]:
    """The arrays of a .npz file by key, in the file's order; only headers have been read.

    Raises DataError for a file that is empty, truncated, encrypted, pickled or no archive, and
    for member names that point out of the archive.
    """
    size = _size(path)
    with _opened(path) as file:
        start = file.read(len(_MAGIC))
    if start == _MAGIC:
        raise DataError(f"{path} is one .npy array, not an .npz archive", "rename it to .npy")
    if not zipfile.is_zipfile(path):
        _refuse_pickle(start, str(path))
        if start[:4] == b"PK\x03\x04":
            raise DataError(
                f"{path} ({format_bytes(size)}) is a truncated .npz archive: its end is missing",
                "copy or save it again",
            )
        raise DataError(
            f"{path} is not an .npz archive (it does not begin like one)",
            "save the frames with np.savez(path, input_name=array)",
        )
    arrays: dict[str, StoredArray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                key = _key(path, info)
                if key is None:
                    continue
                if key in arrays:
                    raise DataError(f"{path} holds array '{key}' twice", "save the file again")
                arrays[key] = _member(path, archive, info, key, allowance)
    except _ZIP_FAULTS as error:
        raise _damaged(str(path), error) from error
    if not arrays:
        raise DataError(f"{path} holds no arrays", "save with np.savez(path, input_name=array)")
    return arrays


def _key(path: Path, info: zipfile.ZipInfo) -> str | None:
    name = info.filename
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or "\\" in name:
        raise DataError(
            f"{path} has a member '{name}' that points out of the archive; it is refused",
            "save the frames with np.savez",
        )
    if info.flag_bits & _ENCRYPTED:
        raise DataError(f"{path} is encrypted ('{name}')", "save the frames with np.savez")
    return name.removesuffix(".npy") if name.endswith(".npy") else None


def _member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, allowance: Allowance
) -> StoredArray:
    where = f"array '{key}' of {path}"
    with archive.open(info) as stream:
        header = _header(stream, where, info.file_size)
    if info.compress_type == zipfile.ZIP_STORED and header.nbytes >= _MAP_FROM_NBYTES:
        return header.stored(partial(_mapped, path, header, _data_start(path, info)))

    def read() -> Array:
        allowance.take(header.nbytes, where)
        try:
            with zipfile.ZipFile(path) as archive, archive.open(info.filename) as stream:
                stream.read(header.offset)
                return _filled(stream, header)
        except _ZIP_FAULTS as error:
            raise _damaged(where, error) from error

    return header.stored(read)


def _data_start(path: Path, info: zipfile.ZipInfo) -> int:
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(_LOCAL_HEADER_NBYTES)
    name_nbytes, extra_nbytes = struct.unpack("<2H", local[-4:])
    return info.header_offset + _LOCAL_HEADER_NBYTES + name_nbytes + extra_nbytes


def _header(stream: IO[bytes], where: str, size: int) -> _Header:
    """The header of `size` bytes of .npy format, which have to hold the data, too."""
    start = stream.read(8)
    if start[:6] != _MAGIC:
        _refuse_pickle(start, where)
        raise DataError(
            f"{where} is not in .npy format", "save the frames with np.savez or np.save"
        )
    length_nbytes = {1: 2, 2: 4}.get(start[6])
    if length_nbytes is None:
        # Version 3 exists for field names beyond latin-1, and records are no frames.
        raise DataError(
            f"{where} is .npy format version {start[6]}.{start[7]}, which is not read here",
            "save plain numeric arrays with np.savez or np.save",
        )
    length = stream.read(length_nbytes)
    nbytes = int.from_bytes(length, "little")
    if nbytes > min(_MAX_HEADER_NBYTES, size):
        raise DataError(f"{where} has a damaged header", "copy or save it again")
    text = io.BytesIO(length + stream.read(nbytes))
    parse = (
        npy_format.read_array_header_1_0 if length_nbytes == 2 else npy_format.read_array_header_2_0
    )
    try:
        shape, fortran, dtype = parse(text)
    except Exception as error:  # a damaged header fails in any place of numpy's parser
        raise DataError(f"{where} has a damaged header", "copy or save it again") from error
    if dtype.hasobject:
        raise DataError(
            f"{where} holds pickled Python objects, and unpickling runs code; it is refused",
            "save plain numeric arrays: np.savez(path, name=np.asarray(frames, np.float32))",
        )
    if any(extent < 0 for extent in shape) or len(shape) > _MAX_DIMENSIONS:
        raise DataError(f"{where} has a damaged header (shape {shape})", "copy or save it again")
    header = _Header(where, tuple(shape), fortran, dtype, 8 + length_nbytes + nbytes)
    if header.offset + header.nbytes > size:
        raise _truncated(header, size - header.offset)
    return header


def _filled(stream: IO[bytes], header: _Header) -> Array:
    buffer = np.empty(header.nbytes, dtype=np.uint8)
    done = 0
    while done < header.nbytes:
        chunk = stream.read(min(_CHUNK_NBYTES, header.nbytes - done))
        if not chunk:
            raise _truncated(header, done)
        buffer[done : done + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
        done += len(chunk)
    stream.read(1)  # reaching the end of an archive member is what checks its CRC
    flat = buffer.view(header.dtype)
    return flat.reshape(header.shape[::-1]).T if header.fortran else flat.reshape(header.shape)


# A mapped archive member's CRC is not checked: that would read the whole file once more.
def _mapped(path: Path, header: _Header, start: int = 0) -> Array:
    order, offset = "F" if header.fortran else "C", start + header.offset
    try:
        return np.memmap(path, header.dtype, "r", offset, header.shape, order)
    except (OSError, ValueError) as error:
        raise _damaged(header.where, error) from error


def _size(path: Path) -> int:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if not size:
        raise DataError(f"{path} is empty (0 bytes)", "copy or save it again")
    return size


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a path that the system refuses to read."""
    reason = error.strerror or type(error).__name__
    return DataError(f"{path} can't be read: {reason}", "check the path and its permissions")


def _refuse_pickle(start: bytes, where: str) -> None:
    if start[:1] == b"\x80" or start[:2] in (b"(l", b"(d", b"cn"):
        raise DataError(
            f"{where} is a Python pickle, and unpickling runs code; it is refused",
            "save plain numeric arrays with np.savez or np.save",
        )


def _truncated(header: _Header, held: int) -> DataError:
    return DataError(
        f"{header.where} is truncated: {header.dtype} {list(header.shape)} needs "
        f"{header.nbytes} bytes, and {max(held, 0)} are there",
        "copy or save it again",
    )


def _damaged(where: str, error: Exception) -> DataError:
    return DataError(
        f"{where} is damaged: {str(error) or type(error).__name__}", "copy or save it again"
    )
