"""A bundle for other people's build steps: trtexec commands, a Triton repository, DeepStream."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...runtime.files import check_external_files, check_files, inside, read_manifest
from ...runtime.manifest import MERGED, TRUNK_HEADS, Manifest
from ...runtime.placing import replacing
from ...runtime.tensorrt.building import BuildOptions, EngineGraph, chosen, engine_graphs
from ...runtime.tensorrt.engines import graph_of
from ...runtime.wire import GraphFile, external_files
from ..errors import ModelError, UsageError
from ..units import printable_line

# onnx.TensorProto's numbers in Triton's words.
_TRITON = {
    1: "TYPE_FP32",
    2: "TYPE_UINT8",
    3: "TYPE_INT8",
    5: "TYPE_INT16",
    6: "TYPE_INT32",
    7: "TYPE_INT64",
    9: "TYPE_BOOL",
    10: "TYPE_FP16",
    11: "TYPE_FP64",
    16: "TYPE_BF16",
}
_GRAPHS = "onnx"  # folder of a Triton repository in which the graphs lie
# nvinfer's lists have ';' between names, and a name with a new line would be a setting of its own;
# trtexec has ',' between names with their shapes, and takes names in quotes.
_NOT_IN_NVINFER = re.compile(r"[;\\\s]")
_NOT_IN_TRTEXEC = re.compile(r"[,'\"\\\s]")
_NETWORK_MODE = {"fp32": 0, "int8": 1, "fp16": 2}


def trtexec_commands(bundle: Path, options: BuildOptions) -> list[str]:
    """The commands that build the bundle's engines with trtexec, to be run on the device.

    For the layout 'merged' only: parts are no files of the bundle. Raises UsageError, ModelError.
    """
    manifest = read_manifest(bundle)
    layout, precision = chosen(manifest, options)
    if layout != MERGED:
        raise UsageError(
            "trtexec reads files, and the parts of a trunk-heads layout are none",
            "write them with --triton DIR --layout trunk-heads, which has a build script",
        )
    check_files(bundle, manifest)
    graph, _ = graph_of(manifest, precision)
    with engine_graphs(bundle, manifest, layout, graph, options) as [part]:
        plan = f"{bundle.name or 'bundle'}.plan"
        return [_command(part, inside(bundle, graph), plan, precision, manifest)]


def export_triton(bundle: Path, target: Path, options: BuildOptions) -> list[Path]:
    """The files of a Triton model repository at `target`, which must not exist or be empty.

    One model per engine; with 'trunk-heads' an ensemble for every model of the bundle besides.
    `build.sh`, run on the device, fills in the plans with trtexec. Raises UsageError, ModelError.
    """
    manifest = read_manifest(bundle)
    layout, precision = chosen(manifest, options)
    check_files(bundle, manifest)
    graph, _ = graph_of(manifest, precision)
    _empty(target)
    with (
        engine_graphs(bundle, manifest, layout, graph, options) as parts,
        replacing(target.resolve()) as folder,
    ):
        content = GraphFile(inside(bundle, graph).read_bytes())
        names = [_engine_name(part, number) for number, part in enumerate(parts)]
        if layout == TRUNK_HEADS:
            _refuse_taken(manifest, names)
        script = ["#!/bin/sh", "# Builds the engines: run it on the device, in this folder."]
        script.append("set -e")
        for name, part in zip(names, parts):
            place = folder / name
            (place / "1").mkdir(parents=True)
            source = folder / _GRAPHS / f"{name}.onnx"
            source.parent.mkdir(exist_ok=True)
            _copy_graph(part.graph, source)
            plan = f"{name}/1/model.plan"
            relative = Path(_GRAPHS) / source.name
            script.append(_command(part, relative, plan, precision, manifest))
            _write(place / "config.pbtxt", _triton_config(name, part, content))
        if layout == TRUNK_HEADS:
            _write_ensembles(folder, manifest, parts, names, content)
        _write(folder / "build.sh", "\n".join(script) + "\n").chmod(0o755)
        return _files_of(folder, target)


def export_deepstream(bundle: Path, target: Path, options: BuildOptions) -> list[Path]:
    """A DeepStream nvinfer configuration at `target` that gives raw output tensors.

    For the layout 'merged' only: nvinfer feeds an engine with frames, not with another engine's
    values. Raises UsageError, ModelError.
    """
    manifest = read_manifest(bundle)
    layout, precision = chosen(manifest, options)
    if layout != MERGED:
        raise UsageError(
            "DeepStream feeds every engine with frames, so a trunk cannot feed a head there",
            "export with --layout merged",
        )
    images = {spec.value: spec for entry in manifest.models for spec in entry.inputs}
    if len(images) != 1:
        raise UsageError(
            f"DeepStream feeds one input, and the bundle has {len(images)}: {', '.join(images)}",
            "compile models that take the same frame, with tied inputs",
        )
    [spec] = images.values()
    if spec.shape is None or len(spec.shape) != 4:
        raise UsageError(f"input '{spec.name}' is no image [N, C, H, W]", "use --triton")
    check_files(bundle, manifest)
    graph, _ = graph_of(manifest, precision)
    check_external_files(bundle, manifest, graph)
    _empty(target)
    outputs = dict.fromkeys(s.value for entry in manifest.models for s in entry.outputs)
    batch = options.batch[2] if options.batch else 1
    sizes = [size if isinstance(size, int) else None for size in spec.shape[1:]]
    told = (options.shapes or {}).get(spec.name)
    dims = [size or (told[i + 1] if told else 0) for i, size in enumerate(sizes)]
    if 0 in dims:
        raise UsageError(
            f"input '{spec.name}' has a free size", f"say it with --shape {spec.name}=1x3x224x224"
        )
    for name in outputs:
        _refuse_name(name, _NOT_IN_NVINFER, "nvinfer's list of outputs")
    lines = [
        "# nvinfer builds the engine on the device at its first start, and keeps it.",
        "# Check net-scale-factor and offsets: preprocessing is the models', not known here.",
        "[property]",
        "gpu-id=0",
        "onnx-file=model.onnx",
        f"model-engine-file=model.onnx_b{batch}_gpu0_{precision}.engine",
        f"batch-size={batch}",
        f"network-mode={_NETWORK_MODE[precision]}",
        "network-type=100",
        f"infer-dims={';'.join(map(str, dims))}",
        f"output-blob-names={';'.join(outputs)}",
        "output-tensor-meta=1",
        "net-scale-factor=1.0",
    ]
    with replacing(target.resolve()) as folder:
        _copy_graph(inside(bundle, graph), folder / "model.onnx")
        _write(folder / "config_infer.txt", "\n".join(lines) + "\n")
        return _files_of(folder, target)


def _command(part: EngineGraph, graph: Path, plan: str, precision: str, manifest: Manifest) -> str:
    for name in part.profile:
        _refuse_name(name, _NOT_IN_TRTEXEC, "trtexec's shapes")
    words = ["trtexec", f"--onnx={graph}", f"--saveEngine={plan}"]
    if precision != "fp32":
        words.append("--fp16")
    if manifest.quantised:
        words.append("--int8")
    for place, option in enumerate(("minShapes", "optShapes", "maxShapes")):
        told = [
            (f"'{name}'" if ":" in name else name) + f":{'x'.join(map(str, shapes[place]))}"
            for name, shapes in sorted(part.profile.items())
        ]
        if told:
            words.append(f"--{option}={','.join(told)}")
    return shlex.join(words)


def _engine_name(part: EngineGraph, number: int) -> str:
    # Triton takes the folder's name as the model's; several names in one may be too long for it.
    joined = "-".join(part.models)
    return f"engine{number}-{joined[:80]}"


def _triton_config(name: str, part: EngineGraph, content: GraphFile) -> str:
    lines = [f"name: {_quoted(name)}", 'platform: "tensorrt_plan"', "max_batch_size: 0"]
    lines += _tensors("input", part.inputs, content)
    lines += _tensors("output", part.outputs, content)
    return "\n".join(lines) + "\n"


def _tensors(kind: str, names: Iterable[str], content: GraphFile) -> list[str]:
    lines: list[str] = []
    for name in names:
        number = content.element_type(name)
        shape = content.shape(name)
        if number not in _TRITON or shape is None:
            raise UsageError(
                f"value '{name}' has a type or rank that Triton's configuration has no word for"
            )
        dims = ", ".join(str(size if isinstance(size, int) else -1) for size in shape)
        lines.append(
            f"{kind} {{ name: {_quoted(name)} data_type: {_TRITON[number]} dims: [ {dims or 1} ] }}"
        )
    return lines


def _write_ensembles(
    target: Path,
    manifest: Manifest,
    parts: Sequence[EngineGraph],
    names: Sequence[str],
    content: GraphFile,
) -> None:
    """An ensemble per model of the bundle: the engines that it needs, one after another."""
    for entry in manifest.models:
        steps = [(n, p) for n, p in zip(names, parts) if entry.name in p.models]
        made = {value for _, part in steps for value in part.outputs}
        inputs = dict.fromkeys(v for _, p in steps for v in p.inputs if v not in made)
        outputs = dict.fromkeys(spec.value for spec in entry.outputs)
        lines = [f"name: {_quoted(entry.name)}", 'platform: "ensemble"', "max_batch_size: 0"]
        lines += _tensors("input", inputs, content)
        lines += _tensors("output", outputs, content)
        lines.append("ensemble_scheduling {")
        for name, part in steps:
            lines.append(f"  step {{ model_name: {_quoted(name)} model_version: -1")
            for kind, values in (("input_map", part.inputs), ("output_map", part.outputs)):
                for word in map(_quoted, values):
                    lines.append(f"    {kind} {{ key: {word} value: {word} }}")
            lines.append("  }")
        lines.append("}")
        (target / entry.name / "1").mkdir(parents=True)
        _write(target / entry.name / "config.pbtxt", "\n".join(lines) + "\n")


def _refuse_taken(manifest: Manifest, names: Sequence[str]) -> None:
    """Raises UsageError where an ensemble would be called like a folder that is there."""
    taken = {name.lower() for name in (*names, _GRAPHS, "build.sh")}
    for entry in manifest.models:
        if entry.name.lower() in taken:
            raise UsageError(
                f"a Triton repository cannot hold a model called '{entry.name}'",
                f"compile it under another name: --name {entry.name}_1={entry.source.file}",
            )
        taken.add(entry.name.lower())


def _refuse_name(name: str, pattern: re.Pattern[str], where: str) -> None:
    """Raises ModelError for a value's name that would say something else in another tool's file."""
    if pattern.search(name) or not name.isprintable():
        raise ModelError(
            f"value '{printable_line(name)}' has a name that {where} cannot hold",
            "give the model's output or input a plain name, and compile it again",
        )


def _quoted(text: str) -> str:
    """The text as a string of protobuf's text format, which cannot end before its end."""
    plain = "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else _octal(c) for c in text)
    return f'"{plain}"'


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogatepass"))


def _copy_graph(source: Path, target: Path) -> None:
    """The graph and its weight files, which it names by their own names, beside each other.

    Whoever calls has checked that the names stay in their folder.
    """
    shutil.copyfile(source, target)
    for name in external_files(source.read_bytes()):
        place = target.parent / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.parent / name, place)


def _files_of(folder: Path, target: Path) -> list[Path]:
    """The files of the folder, as they will be called at `target`."""
    return sorted(target / p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def _empty(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is not an empty folder", "choose another")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
