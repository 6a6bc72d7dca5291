"""ONNX models as programs: read and checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ..errors import ModelError, UsageError
from ..graph.arrays import Array
from ..graph.program import SEPARATOR, Program, Source
from .build import build
from .check import check_proto, check_runs, check_weights
from .claims import drop_claims
from .external_data import TensorFiles
from .inference import add_types, with_types
from .opset import WIDELY_RUN, oldest_for, raise_opset
from .overridable import are_weights, listed_initializers, take_defaults
from .prepare import prepare
from .scalars import make_ranges_scalar


def read_onnx(path: Path, name: str) -> Program:
    """The program of one model file, called `name`.

    Weights in external data files are memory-mapped, not loaded; data files must lie in the
    model's folder. Raises ModelError if the file is missing, no ONNX model, or a model that
    cannot be used.
    """
    where = f"model '{name}' ({path})"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"there is no file '{path}'", "check the path") from error
    except IsADirectoryError as error:
        raise ModelError(f"'{path}' is a folder", "name the .onnx file in it") from error
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror}") from error
    if not content:
        raise ModelError(f"'{path}' is empty", "copy or download the file again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise _not_onnx(path) from error
    if not proto.HasField("graph") or not proto.ir_version or not proto.graph.output:
        raise _not_onnx(path)
    _check_name(name)
    hashed, nbytes = hashlib.sha256(content), len(content)
    del content
    files = TensorFiles(path.parent, where)
    defaults, remarks = _defaults(proto)
    weights = prepare(proto, files, defaults)
    for data in sorted(files.paths, key=lambda data: data.name):
        nbytes += data.stat().st_size
        with data.open("rb") as stream:
            while piece := stream.read(2**20):
                hashed.update(piece)
    program = _program(proto, weights, name, Source(path, nbytes, hashed.hexdigest()), where)
    program.models[name].remarks += remarks
    return program


def import_model(
    proto: onnx.ModelProto, name: str, source: Source, base: Path | None = None
) -> Program:
    """The program of one model in memory; its external data, if any, lies in folder `base`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _check_name(name)
    where = f"model '{name}' ({source.path})"
    weights = prepare(copy, TensorFiles(base, where), _defaults(copy)[0])
    return _program(copy, weights, name, source, where)


def _defaults(proto: onnx.ModelProto) -> tuple[frozenset[str], tuple[str, ...]]:
    """The initializers that callers may override, and what is to be said where that is unclear."""
    listed = listed_initializers(proto)
    if not listed or not are_weights(proto, listed):
        return listed, ()
    return frozenset(), (
        f"the file lists {len(listed)} of its weights as inputs; they are taken for weights, "
        "which callers of the bundle cannot override",
    )


def _check_name(name: str) -> None:
    if not name or SEPARATOR in name:
        raise UsageError(
            f"'{name}' cannot be a model's name", f"it is empty or has a '{SEPARATOR}'"
        )


def _program(
    proto: onnx.ModelProto, weights: dict[str, Array], name: str, source: Source, where: str
) -> Program:
    claimed = drop_claims(proto)
    defaults = take_defaults(proto)
    proto = with_types(proto)
    proto.graph.initializer.extend(defaults)
    check_proto(proto, where)
    program = build(proto, weights, name, source)
    program.models[name].declared = claimed
    if program.graph.opset < WIDELY_RUN:
        check_runs(program, where)  # as it is: what it means would be guessed otherwise
    oldest = oldest_for(program)
    if program.graph.opset < oldest:
        raise_opset(program, oldest, where)
        add_types(program)
    make_ranges_scalar(program)
    check_weights(program, where)
    check_runs(program, where)
    return program


def _not_onnx(path: Path) -> ModelError:
    return ModelError(
        f"'{path}' is not an ONNX model, or is truncated", "copy, download or export it again"
    )
