"""What a bundle says of itself: `manifest.json`, read with every field checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

from .errors import ModelError
from .json_reader import FileName, ModelName, Reader, Sha256, read_json, safe_name
from .json_values import JsonValue

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
_HINT = "the bundle is damaged or was edited: compile it again"
_NOT_IN_OLDER = ("layout", "precision", "segments", "references", "lowered", "quantised")
_LATER = ("sizes", "made_from")  # fields that bundles of the same schema may lack: older ones

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
HOLDERS = ("sequence", "optional")  # of inputs that are no tensors: "optional(sequence(float32))"


# -- how fields are read that say more than their type ---------------------------------------


def held(dtype: str) -> tuple[str, str]:
    """Of "sequence(int64)" what holds and what is held: "sequence" and "int64"; "" of tensors.

    Of a map what is held are the types of keys and values: "int64,float32".
    """
    holder, bracket, rest = dtype.partition("(")
    return (holder, rest.removesuffix(")")) if bracket else ("", dtype)


def _dtype(reader: Reader) -> str:
    inner = reader.text()
    for _ in HOLDERS:
        holder, rest = held(inner)
        inner = rest if holder in HOLDERS and inner == f"{holder}({rest})" else inner
    kinds = inner[4:-1].split(",", 1) if inner.startswith("map(") else [inner]
    if not DTYPES.issuperset(kinds):
        raise reader.wrong("a dtype that repsimc knows")
    return reader.text()


def _dimension(reader: Reader) -> Dimension:
    if reader.value is None:
        return None
    return reader.text() if isinstance(reader.value, str) else reader.count()


def _shape(reader: Reader) -> Shape | None:
    return None if reader.value is None else tuple(reader.each(_dimension))


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


def _files(reader: Reader) -> Any:
    for name in reader.entries(Reader.anything):
        if not safe_name(name) or name == MANIFEST:
            raise reader.at(name, None).wrong("the name of a file inside the bundle")
    return reader.read_as(dict[str, FileEntry])


def _digest_or_none(reader: Reader) -> str:
    return "" if reader.value == "" else reader.sha256()


def _layout(reader: Reader) -> str:
    return reader.one_of(LAYOUTS)


def _precision(reader: Reader) -> str:
    return reader.one_of(PRECISIONS)


@dataclass(frozen=True)
class TensorSpec(JsonValue):
    """An input or output of a model.

    `name` is the model's own name, `value` the name in the merged graph. `shape` is None where
    the rank is unknown; a dimension is a size, a symbol, or None where nothing is known. Inputs
    may be sequences, optional (see `HOLDERS`) or maps: "map(int64,float32)".
    """

    name: str
    value: str
    dtype: Annotated[str, _dtype]
    shape: Annotated[Shape | None, _shape]


@dataclass(frozen=True)
class SourceFile(JsonValue):
    """The file a model came from: its name, size and sha256.

    Size and digest cover the .onnx file and then its external data files, in order of name. `path`,
    relative to the bundle, is of older bundles only: a bundle's bytes do not depend on where it
    or its models lie.
    """

    file: str
    sha256: Sha256
    nbytes: int
    path: str = ""

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON values."""
        found = super().to_json()
        return found if self.path else {k: v for k, v in found.items() if k != "path"}


def _source(reader: Reader) -> SourceFile:
    there = "path" in reader.entries(Reader.anything)
    return reader.record(SourceFile, absent=() if there else ("path",))


@dataclass(frozen=True)
class ModelEntry(JsonValue):
    """One model of the bundle.

    `optional` are inputs that have a default in the graph; they are none of `inputs`. `needs` are
    inputs of other models, as (model, input), that this model's outputs depend on besides its own;
    `unused` are own inputs that they no longer depend on. `fidelity` holds one mapping per output,
    as in the report.
    """

    name: ModelName
    source: Annotated[SourceFile, _source]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    needs: tuple[Annotated[tuple[str, str], _need], ...] = ()
    unused: tuple[str, ...] = ()
    fidelity: tuple[Annotated[dict[str, Any], _fidelity], ...] = ()
    optional: tuple[TensorSpec, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON values."""
        needs = [{"model": model, "input": name} for model, name in self.needs]
        found = {**super().to_json(), "needs": needs}
        return found if self.optional else {k: v for k, v in found.items() if k != "optional"}


def _models(reader: Reader) -> tuple[ModelEntry, ...]:
    """The models; `optional` is written only where there is some."""

    def entry(one: Reader) -> ModelEntry:
        there = "optional" in one.entries(Reader.anything)
        return one.record(ModelEntry, absent=() if there else ("optional",))

    return tuple(reader.each(entry))


@dataclass(frozen=True)
class Segment(JsonValue):
    """A piece of the graph: the nodes that exactly these models need.

    Of several models it is a trunk, of one its head. Listed in an order in which they can run.
    `macs` are multiply-accumulates of one frame; a weight that several segments read counts in
    each.
    """

    models: tuple[ModelName, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int
    weights_nbytes: int

    @property
    def name(self) -> str:
        """What people call it: the models that need it."""
        return "+".join(self.models)


@dataclass(frozen=True)
class ReferenceGroup(JsonValue):
    """Models that one run feeds, and how many reference runs the bundle holds for them."""

    models: tuple[ModelName, ...]
    runs: int


@dataclass(frozen=True)
class FileEntry:
    """Digest and size of one file of the bundle."""

    sha256: Sha256
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest(JsonValue):
    """A bundle's table of contents.

    `files` names every file of the bundle but the manifest, relative to it. `memory` holds
    byte counts by name; `merged_nbytes` and `apart_nbytes` are the predicted memory of one
    session with the merged graph and of one session per original. `layout` is what sessions and
    builds use unless told otherwise. `segments` is empty in bundles of an older schema.
    `references` say what `references.npz` holds; empty where there were no frames. `lowered`
    names graphs for a precision other than float32; `quantised` says that the graph has
    QuantizeLinear or DequantizeLinear nodes. `sizes` are what one frame of each input value with
    free sizes was when the bundle was compiled, where that is known. `made_from` is the sha256 of
    all that decides a compilation: what its inputs hold, its options, versions; '' where nobody
    can tell.
    """

    repsimc: str
    graph: FileName = GRAPH
    plan: FileName = PLAN
    report: FileName = REPORT
    models: Annotated[tuple[ModelEntry, ...], _models]
    files: Annotated[dict[str, FileEntry], _files]
    memory: dict[str, int] = field(default_factory=dict[str, int])
    layout: Annotated[str, _layout] = MERGED
    precision: Annotated[str, _precision] = "fp32"
    segments: tuple[Segment, ...] = ()
    references: tuple[ReferenceGroup, ...] = ()
    lowered: dict[str, FileName] = field(default_factory=dict[str, str])
    quantised: bool = False
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    made_from: Annotated[str, _digest_or_none] = ""

    def model(self, name: str) -> ModelEntry:
        """The entry of that model. Raises KeyError."""
        for entry in self.models:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values; models keep their order."""
        return {"schema": SCHEMA, **super().to_json()}

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
        absent = () if schema == SCHEMA else _NOT_IN_OLDER
        known = cast("dict[str, Any]", data)
        absent = (*absent, *(name for name in _LATER if name not in known))
        found = top.record(Manifest, absent)
        _check(found)
        return found


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
    _check_sizes(manifest)
    dtypes: dict[str, str] = {}
    for entry in manifest.models:
        taken = (*entry.inputs, *entry.optional)
        for kind, specs in (("inputs", taken), ("outputs", entry.outputs)):
            if len({spec.name for spec in specs}) != len(specs):
                raise refuse(f"two {kind} of model '{entry.name}' have one name")
        if not entry.outputs:
            raise refuse(f"model '{entry.name}' has no outputs")
        for spec in taken:
            if dtypes.setdefault(spec.value, spec.dtype) != spec.dtype:
                raise refuse(f"input value '{spec.value}' has two dtypes")
        if odd := set(entry.unused) - {spec.name for spec in entry.inputs}:
            raise refuse(f"'{entry.name}' has no input '{min(odd)}' to leave unused")
        for model, name in entry.needs:
            if model not in by_name or name not in {s.name for s in by_name[model].inputs}:
                raise refuse(f"'{entry.name}' needs input '{name}' of '{model}': there is none")


def _check_sizes(manifest: Manifest) -> None:
    """Sizes are those of input values, and fit them. Raises ModelError."""
    shapes = {spec.value: spec.shape for entry in manifest.models for spec in entry.inputs}
    for value, sizes in manifest.sizes.items():
        shape = shapes.get(value)
        fits = value in shapes and (
            shape is None
            or (
                len(shape) == len(sizes)
                and all(not isinstance(dim, int) or dim == size for dim, size in zip(shape, sizes))
            )
        )
        if not fits:
            raise ModelError(f"{MANIFEST}: the sizes of '{value}' are those of no input", _HINT)
