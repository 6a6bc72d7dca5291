"""What a bundle says of itself: `manifest.json`, read with every field checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .errors import ModelError
from .json_reader import Reader, read_json, safe_name

SCHEMA = "repsimc.bundle/2"
OLDER = ("repsimc.bundle/1",)  # read as well: without layout, segments, references
MANIFEST = "manifest.json"
GRAPH = "merged.onnx"
PLAN = "plan.json"
REPORT = "report.json"
REFERENCES = "references.npz"
MERGED, TRUNK_HEADS = "merged", "trunk-heads"
LAYOUTS = (MERGED, TRUNK_HEADS)
PRECISIONS = ("fp32", "fp16", "int8")
MAX_NBYTES = 16 * 2**20  # of manifest.json; a bundle is untrusted

Dimension = int | str | None
Shape = tuple[Dimension, ...]

# NumPy names; bfloat16 and the float8 and int4 kinds are names of ml_dtypes. "object" is text;
# "unknown" is an output that is not a tensor, or whose type no one could infer.
_DTYPE_NAMES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 "
    "complex128 object unknown bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 "
    "float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn int4 uint4 int2 uint2"
)
DTYPES = frozenset(_DTYPE_NAMES.split())


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
        return asdict(self)


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
class Segment:
    """A piece of the graph: the nodes that exactly these models need.

    Of several models it is a trunk, of one its head. Listed in an order in which they can run.
    `macs` are multiply-accumulates of one frame; a weight that several segments read counts in
    each.
    """

    models: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int
    weights_nbytes: int

    @property
    def name(self) -> str:
        """What people call it: the models that need it."""
        return "+".join(self.models)

    def to_json(self) -> dict[str, Any]:
        """The segment as JSON values."""
        return {
            "models": list(self.models),
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "macs": self.macs,
            "weights_nbytes": self.weights_nbytes,
        }


@dataclass(frozen=True)
class ReferenceGroup:
    """Models that one run feeds, and how many reference runs the bundle holds for them."""

    models: tuple[str, ...]
    runs: int

    def to_json(self) -> dict[str, Any]:
        """The group as JSON values."""
        return {"models": list(self.models), "runs": self.runs}


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
    session with the merged graph and of one session per original. `layout` is what sessions and
    builds use unless told otherwise. `segments` is empty in bundles of an older schema.
    `references` say what `references.npz` holds; empty where there were no frames. `lowered`
    names graphs for a precision other than float32; `quantised` says that the graph has
    QuantizeLinear or DequantizeLinear nodes.
    """

    models: tuple[ModelEntry, ...]
    files: dict[str, FileEntry]
    repsimc: str
    memory: dict[str, int] = field(default_factory=dict[str, int])
    graph: str = GRAPH
    plan: str = PLAN
    report: str = REPORT
    layout: str = MERGED
    precision: str = "fp32"
    segments: tuple[Segment, ...] = ()
    references: tuple[ReferenceGroup, ...] = ()
    lowered: dict[str, str] = field(default_factory=dict[str, str])
    quantised: bool = False

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
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "memory": dict(self.memory),
            "layout": self.layout,
            "precision": self.precision,
            "segments": [segment.to_json() for segment in self.segments],
            "references": [group.to_json() for group in self.references],
            "lowered": dict(self.lowered),
            "quantised": self.quantised,
        }

    def dumps(self) -> str:
        """The text of manifest.json: the same manifest gives the same bytes."""
        return json.dumps(self.to_json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @staticmethod
    def loads(text: str) -> Manifest:
        """The manifest that `text` describes. Raises ModelError."""
        return Manifest.from_json(read_json(text, MANIFEST, _HINT))

    @staticmethod
    def from_json(data: Any) -> Manifest:
        """The manifest of JSON values that no one has checked. Raises ModelError."""
        top = Reader(MANIFEST, _HINT, data)
        schema = top.get("schema", Reader.text)
        if schema not in (SCHEMA, *OLDER):
            raise ModelError(
                f"this bundle has schema '{schema}'; this repsimc reads '{SCHEMA}'",
                "compile it again, or use the repsimc that wrote it",
            )
        found = Manifest(
            models=tuple(top.items("models", _model)),
            files=top.get("files", _files),
            repsimc=top.get("repsimc", Reader.text),
            memory=top.get("memory", lambda memory: memory.entries(Reader.count)),
            graph=top.get("graph", Reader.file_name),
            plan=top.get("plan", Reader.file_name),
            report=top.get("report", Reader.file_name),
        )
        if schema == SCHEMA:
            found = replace(
                found,
                layout=top.get("layout", lambda layout: layout.one_of(LAYOUTS)),
                precision=top.get("precision", lambda precision: precision.one_of(PRECISIONS)),
                segments=tuple(top.items("segments", _segment)),
                references=tuple(top.items("references", _reference_group)),
                lowered=top.get("lowered", lambda lowered: lowered.entries(Reader.file_name)),
                quantised=top.get("quantised", Reader.flag),
            )
        _check(found)
        return found


_HINT = "the bundle is damaged or was edited: compile it again"


def _dtype(reader: Reader) -> str:
    if reader.text() not in DTYPES:
        raise reader.wrong("a dtype that repsimc knows")
    return reader.text()


def _dimension(reader: Reader) -> Dimension:
    if reader.value is None:
        return None
    return reader.text() if isinstance(reader.value, str) else reader.count()


def _shape(reader: Reader) -> Shape | None:
    return None if reader.value is None else tuple(reader.each(_dimension))


def _tensor(reader: Reader) -> TensorSpec:
    return TensorSpec(
        reader.get("name", Reader.text),
        reader.get("value", Reader.text),
        reader.get("dtype", _dtype),
        reader.get("shape", _shape),
    )


def _source(reader: Reader) -> SourceFile:
    return SourceFile(
        reader.get("file", Reader.text),
        reader.get("path", Reader.text),
        reader.get("sha256", Reader.sha256),
        reader.get("nbytes", Reader.count),
    )


def _need(reader: Reader) -> tuple[str, str]:
    return reader.get("model", Reader.text), reader.get("input", Reader.text)


def _fidelity(reader: Reader) -> dict[str, Any]:
    found = reader.entries(Reader.anything)
    for value in found.values():
        if isinstance(value, float) and not math.isfinite(value):  # 1e999 parses as infinity
            raise reader.wrong("free of infinities")
        if not isinstance(value, (str, int, float, type(None))):
            raise reader.wrong("made of texts and numbers")
    return found


def _model(reader: Reader) -> ModelEntry:
    return ModelEntry(
        reader.get("name", Reader.model_name),
        reader.get("source", _source),
        tuple(reader.items("inputs", _tensor)),
        tuple(reader.items("outputs", _tensor)),
        tuple(reader.items("needs", _need)),
        tuple(reader.items("unused", Reader.text)),
        tuple(reader.items("fidelity", _fidelity)),
    )


def _file(reader: Reader) -> FileEntry:
    return FileEntry(reader.get("sha256", Reader.sha256), reader.get("nbytes", Reader.count))


def _files(reader: Reader) -> dict[str, FileEntry]:
    for name in reader.entries(Reader.anything):
        if not safe_name(name) or name == MANIFEST:
            raise reader.at(name, None).wrong("the name of a file inside the bundle")
    return reader.entries(_file)


def _segment(reader: Reader) -> Segment:
    return Segment(
        tuple(reader.items("models", Reader.model_name)),
        tuple(reader.items("inputs", Reader.text)),
        tuple(reader.items("outputs", Reader.text)),
        reader.get("macs", Reader.count),
        reader.get("weights_nbytes", Reader.count),
    )


def _reference_group(reader: Reader) -> ReferenceGroup:
    return ReferenceGroup(
        tuple(reader.items("models", Reader.model_name)), reader.get("runs", Reader.count)
    )


def _check(manifest: Manifest) -> None:
    """What must hold between fields. Raises ModelError."""

    def refuse(what: str) -> ModelError:
        return ModelError(f"{MANIFEST}: {what}", _HINT)

    if not manifest.models:
        raise refuse("there are no models")
    needed = [manifest.graph, manifest.plan, manifest.report, *manifest.lowered.values()]
    needed += [REFERENCES] if manifest.references else []
    for name in needed:
        if name not in manifest.files:
            raise refuse(f"'{name}' is not among the files")
    by_name: Mapping[str, ModelEntry] = {entry.name: entry for entry in manifest.models}
    for group in (*manifest.segments, *manifest.references):
        if odd := set(group.models) - by_name.keys():
            raise refuse(f"there is no model '{min(odd)}' for a segment or reference")
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
