"""Writes a program as a bundle: beside its place, checked, then moved into it in one step."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ... import __version__
from ...runtime.files import check_files, file_entry, is_utf8, read_manifest
from ...runtime.json_reader import Reader, read_json
from ...runtime.manifest import (
    DTYPES,
    GRAPH,
    MANIFEST,
    MAX_NBYTES,
    MERGED,
    PLAN,
    REFERENCES,
    REPORT,
    Manifest,
    ModelEntry,
    SourceFile,
    TensorSpec,
)
from ...runtime.placing import alive, put_in_place, sync, write_file
from ..errors import InternalFault, ModelError, RepsimcError, UsageError
from ..execution.measured_sizes import told_sizes
from ..frontends.opset import raise_opset
from ..graph.dequantising import opset_of_stored
from ..graph.export import any_rank_allowed, write_model
from ..graph.opaque import NonTensorValue
from ..graph.program import Model, Program, node_inputs
from ..reports.report import SCHEMA as REPORT_SCHEMA
from .lowering import is_quantised, narrow_integers, to_half
from .references import References, write_references
from .segments import segments_of

HALF = "half"  # stem of the graph in half precision
# What a folder holds that is left of a bundle; weights of a large graph are in files beside it.
_NAMES = frozenset(
    {GRAPH, f"{GRAPH}.data", f"{HALF}.onnx", f"{HALF}.onnx.data", PLAN, REPORT, REFERENCES}
)
_MARK = ".being-written"  # tells our unfinished folders from anyone else's


@dataclass(frozen=True)
class BundleContents:
    """What a bundle is written from.

    `plan` and `report` are JSON values; `memory` and `fidelity` (per model, one mapping per
    output) go into the manifest, as do the `layout` and the `precision` that the bundle is meant
    for; any but fp32 puts a graph in half precision beside the plain one. `references` are what
    engines will be checked against. `check` is asked whether the finished folder may be put in
    place, and raises if not. `made_from` is the digest of what the compilation was made from.
    """

    program: Program
    plan: Any
    report: Any
    memory: Mapping[str, int] = field(default_factory=dict[str, int])
    fidelity: Mapping[str, Sequence[Mapping[str, Any]]] = field(
        default_factory=dict[str, Sequence[Mapping[str, Any]]]
    )
    layout: str = MERGED
    precision: str = "fp32"
    references: References | None = None
    check: Callable[[Path], None] | None = None
    made_from: str = ""


def write_bundle(directory: Path, contents: BundleContents, overwrite: bool = False) -> Path:
    """The folder `directory`, holding the contents as a bundle that `repsimc.load` opens.

    All is written into a hidden folder beside `directory`, which then takes its place, so that
    whatever happens there is either the old bundle or the new. Equal contents give equal bytes,
    wherever the folder is. A bundle of the same bytes stays, engines and all, and its manifest is
    touched; of another, files whose bytes are the same keep their times.
    Raises UsageError if `directory` exists and is not empty, unless it is a bundle and
    `overwrite` is given; or if it cannot be written, say because the disk is full.
    """
    target = directory.resolve()
    check_output(target, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        partial = target.parent / f".{target.name}.partial-{os.getpid()}-{secrets.token_hex(4)}"
        partial.mkdir()
        try:
            write_file(partial / _MARK, b"")
            program = contents.program.copy()
            raise_opset(program, opset_of_stored(program), "the bundle")
            narrow_integers(program)
            ready = replace(contents, program=program)
            _fill(partial, manifest_of(ready), ready)
            if contents.check is not None:
                contents.check(partial)
            (partial / _MARK).unlink()
            sync(partial)
            check_output(target, overwrite)
            if _holds_the_same(target, partial):
                os.utime(target / MANIFEST)  # Make calls again what is older than its inputs
            else:
                _keep_times(partial, target)
                put_in_place(partial, target)
                sync(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be written: {error.strerror or error}",
            "nothing was changed; free space there or choose another output folder",
        ) from error
    return directory


def check_output(directory: Path, overwrite: bool) -> None:
    """Nothing, if a bundle may be written there. Raises UsageError.

    Called at the start of a compilation too: better to refuse before the work than after.
    """
    if not is_utf8(directory.resolve()):
        raise UsageError(
            f"{directory} is in a folder whose name is not UTF-8, where ONNX Runtime opens no file",
            "choose another output folder",
        )
    if not directory.exists() and not directory.is_symlink():
        return
    if not directory.is_dir():
        raise UsageError(f"{directory} exists and is no folder", "choose another output folder")
    if not any(directory.iterdir()):
        return
    if not _is_bundle(directory) and not _is_left_of_one(directory):
        raise UsageError(
            f"{directory} exists and is not a repsimc bundle", "choose another output folder"
        )
    if not overwrite:
        raise UsageError(
            f"{directory} exists", "choose another output folder, or say that it may be replaced"
        )


def manifest_of(contents: BundleContents) -> Manifest:
    """The manifest of the contents as a bundle; its `files` are still empty.

    Raises ModelError if an input has a type that the runtime has no word for.
    """
    program, references = contents.program, contents.references
    return Manifest(
        models=tuple(
            _model_entry(program, model, contents.fidelity.get(model.name, ()))
            for model in program.models.values()
        ),
        files={},
        repsimc=__version__,
        memory=dict(contents.memory),
        segments=segments_of(program),
        quantised=is_quantised(program),
        layout=contents.layout,
        precision=contents.precision,
        references=() if references is None else references.groups,
        sizes={
            program.models[model].inputs[own]: sizes
            for (model, own), sizes in told_sizes(program).items()
            if sizes is not None
        },
        made_from=contents.made_from,
    )


def _fill(
    folder: Path,
    manifest: Manifest,
    contents: BundleContents,
) -> None:
    written = write_model(contents.program, folder, Path(GRAPH).stem)
    _check_model(folder / GRAPH)
    if manifest.precision != "fp32":
        half = write_model(to_half(contents.program), folder, HALF)
        _check_model(half[0])
        manifest.lowered["fp16"] = half[0].name
        written += half
    if contents.references is not None:
        write_references(folder / REFERENCES, contents.references)
        written.append(folder / REFERENCES)
    for name, value in ((PLAN, contents.plan), (REPORT, contents.report)):
        write_file(folder / name, _json(value))
        written.append(folder / name)
    for path in sorted(written):
        manifest.files[path.relative_to(folder).as_posix()] = file_entry(path)
        sync(path)
    content = manifest.dumps()
    # What was written must be what the runtime accepts, or it must not be written.
    Manifest.loads(content)
    write_file(folder / MANIFEST, content.encode())


def _json(value: Any) -> bytes:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _check_model(path: Path) -> None:
    try:
        proto = onnx.ModelProto.FromString(path.read_bytes())
        before = proto.ByteSize()
        with any_rank_allowed(proto):
            same = proto.ByteSize() == before
            checked = path if same else path.with_name(f"{path.stem}-checked.onnx")
            if not same:  # a file beside it: the checker looks for weights in the model's folder
                checked.write_bytes(proto.SerializeToString())
        try:
            onnx.checker.check_model(str(checked))  # pyright: ignore[reportUnknownMemberType]
        finally:
            if not same:
                checked.unlink()
    except onnx.checker.ValidationError as error:
        raise InternalFault(f"the merged graph does not pass onnx.checker: {error}") from error


# -- what is there already -----------------------------------------------------------------


def _holds_the_same(target: Path, other: Path) -> bool:
    """True if the bundle at `target` is whole, and of the bytes of the bundle at `other`."""
    try:
        if (target / MANIFEST).read_bytes() != (other / MANIFEST).read_bytes():
            return False
        check_files(target, read_manifest(target))
    except (ModelError, OSError):
        return False
    return True


def _keep_times(partial: Path, target: Path) -> None:
    """Give new files the times of those of `target` with the same name and the same bytes."""
    for path in partial.iterdir():
        old = target / path.name
        if path.name == MANIFEST or not old.is_file() or old.stat().st_size != path.stat().st_size:
            continue
        if file_entry(old) == file_entry(path):
            found = old.stat()
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


# -- the manifest ------------------------------------------------------------------------


def _model_entry(
    program: Program, model: Model, fidelity: Sequence[Mapping[str, Any]]
) -> ModelEntry:
    values = program.values()
    own = {*model.inputs.values()}.union(*(m.optional.values() for m in program.models.values()))
    behind = _inputs_behind(program, model, values)
    return ModelEntry(
        name=model.name,
        source=SourceFile(
            file=_unicode(model.source.path.name),
            sha256=model.source.sha256,
            nbytes=model.source.nbytes,
        ),
        inputs=tuple(_input(values[value], name, model) for name, value in model.inputs.items()),
        outputs=tuple(_output(values[value], name, model) for name, value in model.outputs.items()),
        needs=tuple(_owner(program, value) for value in behind if value not in own),
        optional=tuple(
            _input(values[value], name, model) for name, value in model.optional.items()
        ),
        unused=tuple(name for name, value in model.inputs.items() if value not in behind),
        fidelity=tuple(dict(entry) for entry in fidelity),
    )


def _unicode(name: str) -> str:
    """A path as JSON can hold it; one that is not UTF-8 is found no more, but by --originals."""
    return os.fsencode(name).decode("utf-8", "replace")


def _input(value: gs.Variable, name: str, model: Model) -> TensorSpec:
    spec = _spec(value, name)
    if isinstance(value, NonTensorValue):
        spec = replace(spec, dtype=_held_name(value.type_proto))
    if spec.dtype == "unknown":
        raise ModelError(
            f"input '{name}' of model '{model.name}' is not a tensor of a known type",
            "inputs are tensors, sequences of them, optional, or maps; no sparse tensors",
        )
    return spec


def _output(value: gs.Variable, name: str, model: Model) -> TensorSpec:
    told = model.told_shape(name, value.shape)
    shape = None if told is None else tuple(map(_dimension, told))
    return replace(_spec(value, name), shape=shape)


def _spec(value: gs.Variable, name: str) -> TensorSpec:
    shape = None if value.shape is None else tuple(_dimension(size) for size in value.shape)
    return TensorSpec(name, value.name, _dtype_name(value.dtype), shape)


def _held_name(kind: onnx.TypeProto) -> str:
    """The type of a value as the manifest calls it: "sequence(float32)"."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return _dtype_name(kind.tensor_type.elem_type)
    if which == "map_type":
        inner = [_dtype_name(kind.map_type.key_type), _held_name(kind.map_type.value_type)]
    elif which in ("sequence_type", "optional_type"):
        inner = [_held_name(getattr(kind, which).elem_type)]
    else:
        inner = ["unknown"]
    known = which is not None and "unknown" not in inner
    return f"{str(which).removesuffix('_type')}({','.join(inner)})" if known else "unknown"


def _dimension(size: Any) -> int | str | None:
    if isinstance(size, str):
        return size or None
    return int(size) if size is not None and int(size) >= 0 else None


def _dtype_name(dtype: Any) -> str:
    if dtype is None:
        return "unknown"
    if isinstance(dtype, int):  # an onnx.TensorProto type, which onnx gives a NumPy dtype
        dtype = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    name = np.dtype(dtype).name
    if name.startswith("str"):
        return "object"
    return name if name in DTYPES else "unknown"


def _inputs_behind(program: Program, model: Model, values: Mapping[str, gs.Variable]) -> list[str]:
    """The graph inputs that the model's outputs depend on, in the graph's order."""
    outputs = [values[value] for value in model.outputs.values()]
    read = {t.name for node in program.needed_nodes(outputs) for t in node_inputs(node)}
    read.update(value.name for value in outputs)
    return [value.name for value in program.graph.inputs if value.name in read]


def _owner(program: Program, value: str) -> tuple[str, str]:
    """The first (model, input) that the graph input stands for."""
    for model in program.models.values():
        for name, used in model.inputs.items():
            if used == value:
                return model.name, name
    raise RepsimcError(f"graph input '{value}' belongs to no model")


# -- the folder --------------------------------------------------------------------------


def _is_bundle(directory: Path) -> bool:
    try:
        read_manifest(directory)
    except (RepsimcError, OSError):
        return False
    return True


def _is_left_of_one(directory: Path) -> bool:
    """True for a bundle without its manifest, which Ninja removes when it is interrupted.

    Its report is one of ours, and nothing else lies there.
    """
    if not {path.name for path in directory.iterdir()} <= _NAMES:
        return False
    try:
        with (directory / REPORT).open("rb") as file:
            report = read_json(file.read(MAX_NBYTES), REPORT, "")
        schema = Reader(REPORT, "", report).get("schema", Reader.text)
    except (ModelError, OSError):
        return False
    return schema == REPORT_SCHEMA


def _remove_leftovers(target: Path) -> None:
    """Removes what earlier writes to `target` left when they were killed; restores a bundle
    that was moved aside and never replaced. Folders that are not ours stay."""
    for folder in _leftovers(target):
        if folder.name.endswith("-old") and _is_bundle(folder) and not target.exists():
            folder.rename(target)
        elif not any(folder.iterdir()) or (folder / _MARK).is_file() or _is_bundle(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _leftovers(target: Path) -> Iterator[Path]:
    start = f".{target.name}.partial-"
    for path in sorted(target.parent.iterdir()):
        if path.name.startswith(start) and path.is_dir() and not path.is_symlink():
            pid = path.name.removeprefix(start).split("-")[0]
            if pid.isdigit() and not alive(int(pid)):
                yield path
