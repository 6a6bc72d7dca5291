"""Bytes of tensors: inside the model, or in files beside it that are mapped and not loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError
from ..graph.arrays import Array
from ..graph.weights import element_nbits, stored_nbytes
from ..units import format_bytes

# Below this a tensor is read: every mapping holds a file open, and small ones gain nothing.
MAPPED_NBYTES = 2**20
# A sparse tensor is stored dense in a program, many weights may lie at one place of a data file:
# both could ask for any amount, so what weights take is held against what is stored. Nine of ten
# elements of a sparse weight are zero, sometimes 99 of 100.
SMALL_NBYTES = 64 * 2**20
DENSE_PER_STORED = 256
USED_PER_STORED = 16
_MOST_ELEMENTS = 2**48  # more than any disk holds, and what NumPy still counts
_SHOWN = 100  # characters of a file name in an error


class TensorFiles:
    """Arrays of a model's tensors. `folder` is where the model lies, None for one in memory.

    The model is untrusted: a data file must lie in the folder, also after resolving symlinks.
    `where` names the model in errors.
    """

    def __init__(self, folder: Path | None, where: str) -> None:
        self.folder = folder
        self.where = where
        self.paths: set[Path] = set()
        self._sparse = _Amount(DENSE_PER_STORED)
        self._external_files: dict[Path, _Amount] = {}
        self.maps: dict[Path, np.memmap[Any, np.dtype[np.uint8]]] = {}

    def array(self, tensor: onnx.TensorProto, called: str = "") -> Array:
        """The tensor's elements, read-only; memory-mapped if they are external and many.

        `called` stands in errors for a tensor without a name.

        Raises ModelError if the bytes are missing, too few or out of the model's folder.
        """
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._external(tensor)
        try:
            if tensor.data_type not in onnx.TensorProto.DataType.values():
                raise ValueError(f"unknown type {tensor.data_type}")
            _check_shape(tensor.dims)
            if tensor.HasField("raw_data") and tensor.data_type != onnx.TensorProto.STRING:
                expected = stored_nbytes(tensor.data_type, math.prod(tensor.dims))
                if len(tensor.raw_data) != expected:
                    raise ValueError(f"{len(tensor.raw_data)} bytes instead of {expected}")
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError, KeyError) as error:
            raise self.corrupt(tensor.name or called, str(error)) from error
        array.setflags(write=False)
        return array

    def dense(self, sparse: onnx.SparseTensorProto) -> Array:
        """The sparse tensor's elements with the zeros between them."""
        name = sparse.values.name
        shape = tuple(sparse.dims)
        values = self.array(sparse.values)
        places = self.array(sparse.indices)
        if min(shape, default=0) < 0 or (places.size and places.min() < 0):
            raise self.corrupt(name, "its shape or an index is negative")
        try:
            _check_shape(shape)
        except ValueError as error:
            raise self.corrupt(name, str(error)) from error
        dense = math.prod(shape) * values.itemsize
        if not self._sparse.within(dense, values.nbytes + places.nbytes):
            raise ModelError(
                f"sparse weight '{name}' of {self.where} has shape {list(shape)}, too large to be "
                f"stored dense ({format_bytes(dense)} of {format_bytes(values.nbytes)} of values)",
                "export the model with dense weights",
            )
        try:
            array = np.zeros(shape, values.dtype)
            if places.ndim == 2:
                array[tuple(places.T)] = values
            else:
                array.reshape(-1)[places] = values
        except (IndexError, ValueError, TypeError) as error:
            raise self.corrupt(name, str(error)) from error
        array.setflags(write=False)
        return array

    def _external(self, tensor: onnx.TensorProto) -> Array:
        name = tensor.name
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = self._path(name, entries.get("location", ""))
        self.paths.add(path)
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries["length"]) if entries.get("length") else None
        except ValueError as error:
            raise self.corrupt(name, "its offset or length is no number") from error
        try:
            if tensor.data_type == onnx.TensorProto.STRING:
                raise ValueError("strings cannot be external data")
            _check_shape(tensor.dims)
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
            needed = stored_nbytes(tensor.data_type, math.prod(tensor.dims))
        except (ValueError, TypeError, KeyError) as error:
            raise self.corrupt(name, str(error)) from error
        if offset < 0 or (length is not None and length != needed):
            raise self.corrupt(
                name, f"needs {needed} bytes, but has offset {offset} and length {length}"
            )
        size = path.stat().st_size
        if offset + needed > size:
            raise ModelError(
                f"'{path.name}' is truncated: weight '{name}' of {self.where} lies at bytes "
                f"{offset} to {offset + needed}, the file has {size}",
                "copy or download the file again",
            )
        stored = 0 if path in self._external_files else size
        amount = self._external_files.setdefault(path, _Amount(USED_PER_STORED))
        if not amount.within(needed, stored):
            raise ModelError(
                f"weights of {self.where} take {format_bytes(amount.used)} of '{path.name}', which "
                f"has {format_bytes(size)}",
                "export the model again",
            )
        if needed == 0:
            return np.empty(tuple(tensor.dims), dtype)
        if path not in self.maps:
            self.maps[path] = np.memmap(path, np.uint8, "r")
        own = self.maps[path][offset : offset + needed]
        if element_nbits(tensor.data_type) != 8 * dtype.itemsize:
            packed = onnx.TensorProto(
                name=name, data_type=tensor.data_type, dims=tensor.dims, raw_data=own.tobytes()
            )
            array = numpy_helper.to_array(packed)
        else:
            array = own.view(dtype).reshape(tuple(tensor.dims))
            if needed >= MAPPED_NBYTES:
                return array
            array = np.array(array, subok=False)
        array.setflags(write=False)
        return array

    def corrupt(self, name: str, why: str) -> ModelError:
        """The error of a weight that is not what it says."""
        return ModelError(
            f"weight '{name}' of {self.where} is corrupt: {why}",
            "export or download the model again",
        )

    def _path(self, name: str, location: str) -> Path:
        told = f"weight '{name}' of {self.where}"
        if self.folder is None:
            raise ModelError(
                f"{told} is external data, but the model was not read from a file",
                "read the model from its file",
            )
        if not location:
            raise self.corrupt(name, "it is external data in no file")
        folder = self.folder.resolve()
        shown = location if len(location) <= _SHOWN else f"{location[:_SHOWN]}..."
        outside = ModelError(
            f"{told} is external data in '{shown}', outside the model's folder",
            "put the data file, not a link to it, beside the model; "
            "a model that points elsewhere on the disk is not read",
        )
        absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive
        if absolute or "\0" in location:
            raise outside
        path = folder / location
        try:
            path = path.resolve()
            if not path.is_relative_to(folder):
                raise outside
            found = path.is_file()  # no pipe and no device, which may have no end
        except (OSError, RuntimeError, ValueError):  # a name too long, a link to itself
            found = False
        if not found:
            raise ModelError(
                f"{told} is external data in '{shown}', which is missing or no regular file",
                f"put the file into {self.folder}",
            )
        return path


class _Amount:
    """What was taken so far, and what it may be: some times what is stored, and a little."""

    def __init__(self, per_stored: int) -> None:
        self.per_stored = per_stored
        self.used = self.stored = 0

    def within(self, nbytes: int, stored: int) -> bool:
        """Whether that much more, of that much more that is stored, is still in proportion."""
        self.used += nbytes
        self.stored += stored
        return self.used <= SMALL_NBYTES + self.per_stored * self.stored


def _check_shape(dims: Sequence[int]) -> None:
    """Raises ValueError for what no array can be, empty ones with enormous other sizes included."""
    if any(dim < 0 for dim in dims) or math.prod(max(1, dim) for dim in dims) >= _MOST_ELEMENTS:
        raise ValueError(f"shape {list(dims)}")
