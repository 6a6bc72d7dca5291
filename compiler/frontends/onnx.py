"""ONNX models as programs: read and checked."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ..errors import ModelError, RepsimcError, UsageError
from ..graph.arrays import Array
from ..graph.program import SEPARATOR, Program, Source
from ..graph.verifier import VerificationError, verify
from ..isolation.allowance import ModelAllowance, ParseLimits
from ..isolation.process import start
from .build import build
from .check import check_opens, check_proto, check_runs, check_weights
from .claims import drop_claims
from .declared_sizes import check_sizes
from .dimensions import forget_placeholders, name_batch
from .external_data import TensorFiles
from .inference import add_types, with_types
from .opset import WIDELY_RUN, oldest_for, raise_opset
from .overridable import are_weights, listed_initializers, take_defaults
from .prepare import prepare
from .scalars import make_ranges_scalar

_MAX_NBYTES = 2**31  # of a protobuf message


def read_onnx(path: Path, name: str, limits: ParseLimits | None = None) -> Program:
    """The program of one model file, called `name`.

    Weights in external data files are memory-mapped, not loaded; data files must lie in the
    model's folder. What ONNX and ONNX Runtime do with the file they do in a child process, within
    `limits`. Raises ModelError if the file is missing, no ONNX model, or a model that cannot be
    used.
    """
    start()  # its imports go on while the file is read
    where = f"model '{name}' ({path})"
    content = _content(path)
    allowance = ModelAllowance(where, len(content), limits)
    try:
        return _read(path, content, name, allowance)
    except (RepsimcError, OSError):
        raise
    except Exception as error:
        # Either the file is wrong in a way that nothing has named yet, or repsimc is.
        said = check_opens(path, 0, allowance)
        if said is None:
            raise
        raise ModelError(
            f"ONNX Runtime cannot run {where}: {said}", "copy, download or export it again"
        ) from error


def _content(path: Path) -> bytes:
    """The file's bytes. Raises ModelError where it cannot be read."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"'{path}' is a folder", "name the .onnx file in it")
        if not stat.S_ISREG(status.st_mode):  # a pipe may never begin, a device never end
            raise ModelError(f"'{path}' is no regular file", "copy the model into one")
        if status.st_size > _MAX_NBYTES:
            raise ModelError(
                f"'{path}' is larger than 2 GiB, which protobuf cannot read",
                "export the model with its weights as external data",
            )
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"there is no file '{path}'", "check the path") from error
    except OSError as error:
        raise ModelError(
            f"'{path}' cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    if not content:
        raise ModelError(f"'{path}' is empty", "copy or download the file again")
    return content


def _read(path: Path, content: bytes, name: str, allowance: ModelAllowance) -> Program:
    where = allowance.where
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
    source = Source(path, nbytes, hashed.hexdigest())
    program = _program(proto, weights, name, source, allowance)
    program.models[name].remarks += remarks
    check_opens(path, nbytes, allowance)
    return program


def import_model(
    proto: onnx.ModelProto, name: str, source: Source, base: Path | None = None
) -> Program:
    """The program of one model in memory; its external data, if any, lies in folder `base`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _check_name(name)
    where = f"model '{name}' ({source.path})"
    allowance = ModelAllowance(where, copy.ByteSize())
    weights = prepare(copy, TensorFiles(base, where), _defaults(copy)[0])
    return _program(copy, weights, name, source, allowance)


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
    proto: onnx.ModelProto,
    weights: dict[str, Array],
    name: str,
    source: Source,
    allowance: ModelAllowance,
) -> Program:
    where = allowance.where
    forget_placeholders(proto)
    claimed = drop_claims(proto)
    defaults = take_defaults(proto)
    proto = with_types(proto, allowance)
    proto.graph.initializer.extend(defaults)
    check_sizes(proto, weights, allowance)
    check_proto(proto, where, allowance)
    program = build(proto, weights, name, source)
    program.models[name].declared = claimed
    if program.graph.opset < WIDELY_RUN:
        check_runs(program, where, allowance)  # as it is: what it means would be guessed otherwise
    oldest = oldest_for(program)
    if program.graph.opset < oldest:
        raise_opset(program, oldest, where)
        add_types(program, where)
    make_ranges_scalar(program)
    name_batch(program)
    try:
        verify(program)  # now: later, what is broken would read as a fault of a pass
    except VerificationError as error:
        raise ModelError(f"{where} cannot be used: {error.problem}", "export it again") from error
    check_weights(program, where)
    check_runs(program, where, allowance)
    return program


def _not_onnx(path: Path) -> ModelError:
    return ModelError(
        f"'{path}' is not an ONNX model, or is truncated", "copy, download or export it again"
    )
