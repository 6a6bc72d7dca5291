"""Bytes of tensors: inside the model, or in files beside it that are mapped and not loaded."""

from __future__ import annotations

import math
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
# A sparse tensor is stored dense in a program; its header alone could ask for any amount.
DENSE_LIMIT_NBYTES = 2**31


class TensorFiles:
    """Arrays of a model's tensors. `folder` is where the model lies, None for one in memory.

    The model is untrusted: a data file must lie in the folder, also after resolving symlinks.
    `where` names the model in errors.
    """

    def __init__(self, folder: Path | None, where: str) -> None:
        self.folder = folder
        self.where = where
        self.paths: set[Path] = set()
        self.maps: dict[Path, np.memmap[Any, np.dtype[np.uint8]]] = {}

    def array(self, tensor: onnx.TensorProto) -> Array:
        """The tensor's elements, read-only; memory-mapped if they are external and many.

        Raises ModelError if the bytes are missing, too few or out of the model's folder.
        """
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._external(tensor)
        try:
            if any(dim < 0 for dim in tensor.dims):
                raise ValueError(f"shape {list(tensor.dims)}")
            if tensor.HasField("raw_data") and tensor.data_type != onnx.TensorProto.STRING:
                expected = stored_nbytes(tensor.data_type, math.prod(tensor.dims))
                if len(tensor.raw_data) != expected:
                    raise ValueError(f"{len(tensor.raw_data)} bytes instead of {expected}")
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError, KeyError) as error:
            raise self._corrupt(tensor.name, str(error)) from error
        array.setflags(write=False)
        return array

    def dense(self, sparse: onnx.SparseTensorProto) -> Array:
        """The sparse tensor's elements with the zeros between them."""
        name = sparse.values.name
        shape = tuple(sparse.dims)
        values = self.array(sparse.values)
        places = self.array(sparse.indices)
        if min(shape, default=0) < 0 or (places.size and places.min() < 0):
            raise self._corrupt(name, "its shape or an index is negative")
        if math.prod(shape) * values.itemsize > DENSE_LIMIT_NBYTES:
            raise ModelError(
                f"sparse weight '{name}' of {self.where} has shape {list(shape)}, too large to be "
                f"stored dense (limit {format_bytes(DENSE_LIMIT_NBYTES)})",
                "export the model with dense weights as external data",
            )
        array = np.zeros(shape, values.dtype)
        try:
            if places.ndim == 2:
                array[tuple(places.T)] = values
            else:
                array.reshape(-1)[places] = values
        except (IndexError, ValueError) as error:
            raise self._corrupt(name, str(error)) from error
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
            raise self._corrupt(name, "its offset or length is no number") from error
        try:
            if tensor.data_type == onnx.TensorProto.STRING or any(d < 0 for d in tensor.dims):
                raise ValueError(f"type {tensor.data_type} and shape {list(tensor.dims)}")
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
            needed = stored_nbytes(tensor.data_type, math.prod(tensor.dims))
        except (ValueError, TypeError, KeyError) as error:
            raise self._corrupt(name, str(error)) from error
        if offset < 0 or (length is not None and length != needed):
            raise self._corrupt(
                name, f"needs {needed} bytes, but has offset {offset} and length {length}"
            )
        size = path.stat().st_size
        if offset + needed > size:
            raise ModelError(
                f"'{path.name}' is truncated: weight '{name}' of {self.where} lies at bytes "
                f"{offset} to {offset + needed}, the file has {size}",
                "copy or download the file again",
            )
        if needed == 0:
            return np.empty(tuple(tensor.dims), dtype)
        if path not in self.maps:
            self.maps[path] = np.memmap(path, np.uint8, "r")
        stored = self.maps[path][offset : offset + needed]
        if element_nbits(tensor.data_type) != 8 * dtype.itemsize:
            packed = onnx.TensorProto(
                name=name, data_type=tensor.data_type, dims=tensor.dims, raw_data=stored.tobytes()
            )
            array = numpy_helper.to_array(packed)
        else:
            array = stored.view(dtype).reshape(tuple(tensor.dims))
            if needed >= MAPPED_NBYTES:
                return array
            array = np.array(array, subok=False)
        array.setflags(write=False)
        return array

    def _corrupt(self, name: str, why: str) -> ModelError:
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
            raise self._corrupt(name, "it is external data in no file")
        folder = self.folder.resolve()
        outside = ModelError(
            f"{told} is external data in '{location}', outside the model's folder",
            "put the data file, not a link to it, beside the model; "
            "a model that points elsewhere on the disk is not read",
        )
        absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive
        if absolute or "\0" in location:
            raise outside
        path = (folder / location).resolve()
        if not path.is_relative_to(folder):
            raise outside
        if not path.is_file():
            raise ModelError(
                f"{told} is external data in '{location}', which is missing",
                f"put the file into {self.folder}",
            )
        return path
