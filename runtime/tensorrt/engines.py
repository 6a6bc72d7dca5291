"""Engines in a bundle, `engines/<device key>/<layout>-<precision>/`: found, checked, replaced."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ..errors import BackendError, ModelError
from ..files import file_entry
from ..json_reader import FileName, ModelName, Reader, Sha256, read_json
from ..json_values import JsonValue
from ..manifest import LAYOUTS, PRECISIONS, Manifest

SCHEMA = "repsimc.engines/1"
FOLDER = "engines"
RECORD = "engines.json"
LOG = "build.log"
_MAX_NBYTES = 16 * 2**20
_HINT = "build the engines again: repsimc build BUNDLE --backend tensorrt"
_KEYS = {"engines": "plans"}  # where the record's JSON has other names than its fields
_TAGS = (b"ftrt", b"vtrt")  # of TensorRT's plans and of TensorRT-RTX's


def _count_or_none(reader: Reader) -> int | None:
    return reader.count() if reader.value else None


@dataclass(frozen=True)
class EngineFile(JsonValue):
    """A serialized engine: its file, what it needs and gives, its size, scratch memory, time."""

    file: FileName
    models: tuple[ModelName, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nbytes: int
    sha256: Sha256
    seconds: float
    scratch_nbytes: int = 0


@dataclass(frozen=True)
class Checked(JsonValue):
    """An output beside its reference: the largest difference by the largest reference value."""

    model: ModelName
    output: str
    difference: float
    tolerance: float
    runs: int

    @property
    def met(self) -> bool:
        """True if it is within the tolerance; not a number is not."""
        return self.difference <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class EngineRecord(JsonValue):
    """What `engines.json` says: what the engines were built from, for what, and what they are.

    `fingerprint` is of all that decides the plans: the bundle, device, version, options.
    `device` is `Device.to_json()`.
    """

    key: str
    layout: str
    precision: str
    fingerprint: Sha256
    bundle_sha256: Sha256
    workspace_nbytes: Annotated[int | None, _count_or_none] = None
    engines: tuple[EngineFile, ...]
    checked: tuple[Checked, ...] = ()
    notes: tuple[str, ...] = ()
    device: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, with schema version; engines are called plans there."""
        found = super().to_json()
        return {"schema": SCHEMA} | {_KEYS.get(name, name): found[name] for name in found}


def engine_folder(bundle: Path, key: str, layout: str, precision: str) -> Path:
    """Where engines of that device, layout and precision are."""
    return bundle / FOLDER / key / f"{layout}-{precision}"


def read_record(folder: Path) -> EngineRecord:
    """The record of the engines in `folder`. Raises ModelError if it is damaged."""
    path = folder / RECORD
    with path.open("rb") as file:
        content = file.read(_MAX_NBYTES + 1)
    if len(content) > _MAX_NBYTES:
        raise ModelError(f"{path} is too large", _HINT)
    data = read_json(content.decode(errors="replace"), str(path), _HINT)
    top = Reader(str(path), _HINT, data)
    if top.get("schema", Reader.text) != SCHEMA:
        raise ModelError(f"{path} is of another schema than {SCHEMA}", _HINT)
    layout, precision = top.get("layout", Reader.text), top.get("precision", Reader.text)
    if layout not in LAYOUTS or precision not in PRECISIONS:
        raise ModelError(f"{path} has an unknown layout or precision", _HINT)
    return top.record(EngineRecord, keys=_KEYS)


def engine_files(values: object) -> list[EngineFile]:
    """The engine files of a list of JSON values. Raises ModelError."""
    return Reader("plans", "", values).each(lambda file: file.record(EngineFile))


def find_engines(
    bundle: Path, manifest: Manifest, key: str, layout: str, precision: str
) -> tuple[Path, EngineRecord]:
    """The folder of engines for this device and this very bundle, and their record.

    What is read of the folder is held against that record, whatever takes its place. Raises
    BackendError where there are none, naming what there is: plans from elsewhere are never loaded.
    """
    folder = engine_folder(bundle, key, layout, precision)
    command = f"repsimc build {bundle} --backend tensorrt --layout {layout} --precision {precision}"
    if not (folder / RECORD).is_file():
        others = sorted(path.parent for path in (bundle / FOLDER).glob(f"*/*/{RECORD}"))
        told = ", ".join(f"{path.parent.name} ({path.name})" for path in others)
        raise BackendError(
            f"{bundle} has no engines for this device, {key} ({layout}-{precision})"
            + (f"; it has some for {told}, which do not run here" if told else ""),
            f"build them here: {command}",
        )
    record = read_record(folder)
    if (record.key, record.layout, record.precision) != (key, layout, precision):
        raise BackendError(
            f"the engines in {folder} were built for {record.key} "
            f"({record.layout}-{record.precision})",
            f"build them here: {command}",
        )
    if record.bundle_sha256 != bundle_digest(manifest):
        raise BackendError(
            f"the engines in {folder} were built from other files than the bundle holds now",
            f"build them again: {command}",
        )
    return folder, record


def read_engine_file(folder: Path, engine: EngineFile, version: str) -> bytes:
    """A plan's bytes, if they are those that were built, by that version of TensorRT.

    Raises ModelError (damaged) or BackendError (another version).
    """
    path = folder / engine.file
    if not path.is_file() or path.resolve().parent != folder.resolve():
        raise ModelError(f"the plan {path} is missing", _HINT)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != engine.sha256:
        raise ModelError(
            f"the plan {path} is not the one that was built: its sha256 differs", _HINT
        )
    built_by = plan_version(content)
    if built_by is not None and built_by != tuple(version.split("."))[: len(built_by)]:
        raise BackendError(
            f"the plan {path} was built by TensorRT {'.'.join(built_by)}, here is {version}", _HINT
        )
    return content


def plan_version(content: bytes) -> tuple[str, ...] | None:
    """Major and minor version and patch of what built a plan, from its header; None if unknown.

    The layout is that which trtexec's printPlanVersion reads, for 8.6 and later.
    """
    if len(content) < 28 or content[:4] not in _TAGS or struct.unpack("<I", content[4:8])[0] != 0:
        return None
    return tuple(str(number) for number in content[24:27])


def graph_of(manifest: Manifest, precision: str, typed: bool = False) -> tuple[str, bool]:
    """The graph to build from, and whether it has its types in it."""
    if typed and precision == "fp32":
        return manifest.graph, True
    if typed and "fp16" in manifest.lowered:
        return manifest.lowered["fp16"], True
    return manifest.graph, False


def bundle_digest(manifest: Manifest) -> str:
    """A sha256 of all files of the bundle."""
    return digest_of({name: entry.sha256 for name, entry in manifest.files.items()})


def digest_of(value: Any) -> str:
    """The sha256 of a JSON value."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def up_to_date(folder: Path, wanted: str) -> EngineRecord | None:
    """The record of the engines there, if they are whole and of that fingerprint."""
    try:
        record = read_record(folder)
    except (ModelError, OSError):
        return None
    if record.fingerprint != wanted:
        return None
    for engine in record.engines:
        path = folder / engine.file
        if not path.is_file() or file_entry(path).sha256 != engine.sha256:
            return None
    return record
