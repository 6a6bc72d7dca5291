"""What a bundle says of itself: `manifest.json`, read with every field checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar, cast

from .errors import ModelError

SCHEMA = "repsimc.bundle/1"
MANIFEST = "manifest.json"
GRAPH = "merged.onnx"
PLAN = "plan.json"
REPORT = "report.json"
MAX_NBYTES = 16 * 2**20  # of manifest.json; a bundle is untrusted

Dimension = int | str | None
Shape = tuple[Dimension, ...]
Item = TypeVar("Item")

# NumPy names; bfloat16 and the float8 and int4 kinds are names of ml_dtypes. "object" is text;
# "unknown" is an output that is not a tensor, or whose type no one could infer.
_DTYPE_NAMES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 "
    "complex128 object unknown bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 "
    "float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn int4 uint4 int2 uint2"
)
DTYPES = frozenset(_DTYPE_NAMES.split())
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    `name` is the model's own name, `value` the name in the merged graph. `shape` is None where
    the rank is unknown; a dimension is a size, a symbol, or None where nothing is known.
    """

    name: str
    value: str
    dtype: str
    shape: Shape | None

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values."""
        shape = None if self.shape is None else list(self.shape)
        return {"name": self.name, "value": self.value, "dtype": self.dtype, "shape": shape}


@dataclass(frozen=True)
class SourceFile:
    """The file a model came from: its name, its path relative to the bundle, size and sha256.

    Size and digest cover the .onnx file and then its external data files, in order of name.
    """

    file: str
    path: str
    sha256: str
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        """The source as JSON values."""
        return {
            "file": self.file,
            "path": self.path,
            "sha256": self.sha256,
            "nbytes": self.nbytes,
        }


@dataclass(frozen=True)
class ModelEntry:
    """One model of the bundle.

    `needs` are inputs of other models, as (model, input), that this model's outputs depend on
    besides its own inputs; `unused` are own inputs that they no longer depend on. `fidelity`
    holds one mapping per output, as in the report.
    """

    name: str
    source: SourceFile
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    needs: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()
    fidelity: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON values."""
        return {
            "name": self.name,
            "source": self.source.to_json(),
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "needs": [{"model": model, "input": name} for model, name in self.needs],
            "unused": list(self.unused),
            "fidelity": [dict(entry) for entry in self.fidelity],
        }


@dataclass(frozen=True)
class FileEntry:
    """Digest and size of one file of the bundle."""

    sha256: str
    nbytes: int


@dataclass(frozen=True)
class Manifest:
    """A bundle's table of contents.

    `files` names every file of the bundle but the manifest, relative to it. `memory` holds
    byte counts by name; `merged_nbytes` and `apart_nbytes` are the predicted memory of one
    session with the merged graph and of one session per original.
    """

    models: tuple[ModelEntry, ...]
    files: dict[str, FileEntry]
    repsimc: str
    memory: dict[str, int] = field(default_factory=dict[str, int])
    graph: str = GRAPH
    plan: str = PLAN
    report: str = REPORT

    def model(self, name: str) -> ModelEntry:
        """The entry of that model. Raises KeyError."""
        for entry in self.models:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values; models keep their order."""
        return {
            "schema": SCHEMA,
            "repsimc": self.repsimc,
            "graph": self.graph,
            "plan": self.plan,
            "report": self.report,
            "models": [entry.to_json() for entry in self.models],
            "files": {
                name: {"sha256": entry.sha256, "nbytes": entry.nbytes}
                for name, entry in self.files.items()
            },
            "memory": dict(self.memory),
        }

    def dumps(self) -> str:
        """The text of manifest.json: the same manifest gives the same bytes."""
        return json.dumps(self.to_json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @staticmethod
    def loads(text: str) -> Manifest:
        """The manifest that `text` describes. Raises ModelError."""
        try:
            data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{MANIFEST} is not valid JSON: {error}", _HINT) from error
        return Manifest.from_json(data)

    @staticmethod
    def from_json(data: Any) -> Manifest:
        """The manifest of JSON values that no one has checked. Raises ModelError."""
        top = _Reader("", data)
        schema = top.get("schema", _Reader.text)
        if schema != SCHEMA:
            raise ModelError(
                f"this bundle has schema '{schema}'; this repsimc reads '{SCHEMA}'",
                "compile it again, or use the repsimc that wrote it",
            )
        found = Manifest(
            models=tuple(top.items("models", _model)),
            files=top.get("files", _files),
            repsimc=top.get("repsimc", _Reader.text),
            memory=top.get("memory", _memory),
            graph=top.get("graph", _Reader.file_name),
            plan=top.get("plan", _Reader.file_name),
            report=top.get("report", _Reader.file_name),
        )
        _check(found)
        return found


_HINT = "the bundle is damaged or was edited: compile it again"


def safe_name(name: str) -> bool:
    """True if `name` is a plain relative path that stays in its folder, on any system."""
    parts = name.split("/")
    return (
        name != ""
        and "\\" not in name
        and ":" not in name
        and all(part not in ("", ".", "..") for part in parts)
        and name.isprintable()
        and not PurePosixPath(name).is_absolute()
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number that JSON knows")


class _Reader:
    """A JSON value and the path to it, for errors that say where."""

    def __init__(self, where: str, value: Any) -> None:
        self.where = where
        self.value = value

    def wrong(self, wanted: str) -> ModelError:
        return ModelError(f"{MANIFEST}: '{self.where or 'top level'}' is not {wanted}", _HINT)

    def get(self, key: str, read: Callable[[_Reader], Item]) -> Item:
        entries = self._object()
        where = f"{self.where}.{key}" if self.where else key
        if key not in entries:
            raise ModelError(f"{MANIFEST} has no '{where}'", _HINT)
        return read(_Reader(where, entries[key]))

    def entries(self) -> dict[str, _Reader]:
        found = self._object()
        return {key: _Reader(f"{self.where}.{key}", value) for key, value in found.items()}

    def _object(self) -> dict[str, Any]:
        value: object = self.value
        if not isinstance(value, dict):
            raise self.wrong("an object")
        return cast("dict[str, Any]", value)

    def each(self, read: Callable[[_Reader], Item]) -> list[Item]:
        value: object = self.value
        if not isinstance(value, list):
            raise self.wrong("a list")
        found = cast("list[Any]", value)
        return [read(_Reader(f"{self.where}[{i}]", item)) for i, item in enumerate(found)]

    def items(self, key: str, read: Callable[[_Reader], Item]) -> list[Item]:
        return self.get(key, lambda reader: reader.each(read))

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.wrong("a non-empty text")
        return self.value

    def model_name(self) -> str:
        name = self.text()
        if "/" in name or not name.isprintable():
            raise self.wrong("a model name (printable, without '/')")
        return name

    def file_name(self) -> str:
        if not safe_name(self.text()):
            raise self.wrong("the name of a file inside the bundle")
        return self.text()

    def count(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 0:
            raise self.wrong("a count (a whole number, zero or more)")
        return self.value

    def sha256(self) -> str:
        if _SHA256.fullmatch(self.text()) is None:
            raise self.wrong("a sha256 digest (64 lowercase hex digits)")
        return self.text()

    def dtype(self) -> str:
        if self.text() not in DTYPES:
            raise self.wrong("a dtype that repsimc knows")
        return self.text()

    def dimension(self) -> Dimension:
        if self.value is None:
            return None
        return self.text() if isinstance(self.value, str) else self.count()

    def shape(self) -> Shape | None:
        return None if self.value is None else tuple(self.each(_Reader.dimension))


def _tensor(reader: _Reader) -> TensorSpec:
    return TensorSpec(
        reader.get("name", _Reader.text),
        reader.get("value", _Reader.text),
        reader.get("dtype", _Reader.dtype),
        reader.get("shape", _Reader.shape),
    )


def _source(reader: _Reader) -> SourceFile:
    return SourceFile(
        reader.get("file", _Reader.text),
        reader.get("path", _Reader.text),
        reader.get("sha256", _Reader.sha256),
        reader.get("nbytes", _Reader.count),
    )


def _need(reader: _Reader) -> tuple[str, str]:
    return reader.get("model", _Reader.text), reader.get("input", _Reader.text)


def _fidelity(reader: _Reader) -> dict[str, Any]:
    found = {key: entry.value for key, entry in reader.entries().items()}
    for value in found.values():
        if isinstance(value, float) and not math.isfinite(value):  # 1e999 parses as infinity
            raise reader.wrong("free of infinities")
        if not isinstance(value, (str, int, float, type(None))):
            raise reader.wrong("made of texts and numbers")
    return found


def _model(reader: _Reader) -> ModelEntry:
    return ModelEntry(
        reader.get("name", _Reader.model_name),
        reader.get("source", _source),
        tuple(reader.items("inputs", _tensor)),
        tuple(reader.items("outputs", _tensor)),
        tuple(reader.items("needs", _need)),
        tuple(reader.items("unused", _Reader.text)),
        tuple(reader.items("fidelity", _fidelity)),
    )


def _file(reader: _Reader) -> FileEntry:
    return FileEntry(reader.get("sha256", _Reader.sha256), reader.get("nbytes", _Reader.count))


def _files(reader: _Reader) -> dict[str, FileEntry]:
    found: dict[str, FileEntry] = {}
    for name, entry in reader.entries().items():
        if not safe_name(name) or name == MANIFEST:
            raise _Reader(f"files.{name}", None).wrong("the name of a file inside the bundle")
        found[name] = _file(entry)
    return found


def _memory(reader: _Reader) -> dict[str, int]:
    return {name: entry.count() for name, entry in reader.entries().items()}


def _check(manifest: Manifest) -> None:
    """What must hold between fields. Raises ModelError."""

    def refuse(what: str) -> ModelError:
        return ModelError(f"{MANIFEST}: {what}", _HINT)

    if not manifest.models:
        raise refuse("there are no models")
    for name in (manifest.graph, manifest.plan, manifest.report):
        if name not in manifest.files:
            raise refuse(f"'{name}' is not among the files")
    by_name: Mapping[str, ModelEntry] = {entry.name: entry for entry in manifest.models}
    if len(by_name) != len(manifest.models):
        raise refuse("two models have one name")
    dtypes: dict[str, str] = {}
    for entry in manifest.models:
        for kind, specs in (("inputs", entry.inputs), ("outputs", entry.outputs)):
            if len({spec.name for spec in specs}) != len(specs):
                raise refuse(f"two {kind} of model '{entry.name}' have one name")
        if not entry.outputs:
            raise refuse(f"model '{entry.name}' has no outputs")
        for spec in entry.inputs:
            if dtypes.setdefault(spec.value, spec.dtype) != spec.dtype:
                raise refuse(f"input value '{spec.value}' has two dtypes")
        if odd := set(entry.unused) - {spec.name for spec in entry.inputs}:
            raise refuse(f"'{entry.name}' has no input '{min(odd)}' to leave unused")
        for model, name in entry.needs:
            if model not in by_name or name not in {s.name for s in by_name[model].inputs}:
                raise refuse(f"'{entry.name}' needs input '{name}' of '{model}': there is none")
