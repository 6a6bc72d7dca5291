"""Engines from a bundle, on the device they are for: `repsimc build --backend tensorrt`."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ..errors import BackendError, FidelityError, UsageError
from ..files import check_external_files, check_files, file_entry, inside, read_manifest
from ..manifest import LAYOUTS, MERGED, PRECISIONS, Manifest
from ..placing import cache_folder, replacing, write_file
from ..wire import GraphFile
from .api import BuildRequest, TensorRT
from .checking import TOLERANCES, read_references
from .child import run_child
from .engines import (
    LOG,
    RECORD,
    Checked,
    EngineFile,
    EngineRecord,
    bundle_digest,
    digest_of,
    engine_folder,
    graph_of,
    up_to_date,
)
from .probe import Device, probe
from .shapes import Range, known_shapes

DEFAULT_WORKSPACE_NBYTES = 1 << 30
_KEPT = "free space there, or copy the bundle to a larger disk"


class Stages(Protocol):
    """Where a build tells what it is doing; the clock between two stages is the reader's."""

    def stage(self, title: str, total: int | None) -> None:
        """A new stage begins; `total` steps, or None where nobody knows."""
        ...

    def advance(self, n: int = 1) -> None:
        """`n` steps of the stage are done."""
        ...


@dataclass(frozen=True)
class BuildOptions:
    """How to build. None means: as the bundle says, or a default.

    `batch` is (least, usual, most) of inputs with a free first axis (default: one frame),
    `shapes` the shapes of inputs with other free axes. `workspace_nbytes` is what TensorRT may
    take for scratch (default: 1 GiB, or a quarter of what is free if that is less). `tolerance`
    is of the largest difference by the largest reference value of an output. `plugins` are shared
    libraries with the operators of the user's.
    """

    layout: str | None = None
    precision: str | None = None
    workspace_nbytes: int | None = None
    batch: Range | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None
    tolerance: float | None = None
    plugins: tuple[Path, ...] = ()

    @property
    def libraries(self) -> list[str]:
        """The plugins as a child process, which may run elsewhere, finds them."""
        return [str(path.resolve()) for path in self.plugins]


@dataclass(frozen=True)
class EngineGraph:
    """A graph file to build an engine of: the models that need it, its inputs and outputs."""

    models: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    graph: Path
    profile: Mapping[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class BuildResult:
    """The engines' folder and record; `built` is False if they were there and up to date."""

    folder: Path
    record: EngineRecord
    built: bool


def build(bundle: Path, options: BuildOptions, stages: Stages) -> BuildResult:
    """Engines for this device in `engines/<device key>/` of the bundle, checked and in place.

    Does nothing if the same were built before. Engines that were there stay until the new ones
    are whole and within tolerance. Raises UsageError (options, memory, disk), ModelError (a
    bundle that was changed, a graph that is refused), FidelityError (exit code 4: an output that
    differs from its reference), BackendError (exit code 6: no GPU, no TensorRT, a crash).
    """
    stages.stage("looking for the GPU and TensorRT", None)
    manifest = read_manifest(bundle)
    layout, precision = chosen(manifest, options)
    device = probe()
    typed = _check_precision(manifest, precision, device)
    workspace = _workspace(options.workspace_nbytes, device)
    stages.stage("checking the bundle's files", None)
    check_files(bundle, manifest)
    graph, typed = graph_of(manifest, precision, typed)
    tolerance = TOLERANCES[precision] if options.tolerance is None else options.tolerance
    wanted = digest_of(
        {
            "bundle": bundle_digest(manifest),
            "device": device.key,
            "layout": layout,
            "precision": precision,
            "typed": typed,
            "workspace": options.workspace_nbytes,
            "batch": options.batch,
            "shapes": {k: list(v) for k, v in sorted((options.shapes or {}).items())},
            "tolerance": tolerance,
            "plugins": [_digest(path) for path in options.plugins],
        }
    )
    folder = engine_folder(bundle, device.key, layout, precision)
    if found := up_to_date(folder, wanted):
        return BuildResult(folder, found, False)
    timings = cache_folder() / "tensorrt" / f"{device.key}.timing"
    with (
        engine_graphs(bundle, manifest, layout, graph, options) as parts,
        replacing(folder, _KEPT) as partial,
    ):
        files: list[EngineFile] = []
        for number, part in enumerate(parts):
            name = "+".join(part.models)
            stages.stage(f"building engine {number + 1} of {len(parts)} ({name})", None)
            job = build_job(part, partial / f"{number}.plan") | {
                "module": device.module,
                "precision": precision,
                "typed": typed,
                "quantised": manifest.quantised,
                "workspace_nbytes": workspace,
                "timing_cache": str(timings),
                "plugins": options.libraries,
            }
            files.append(engine_file_of(part, run_child("build", job, partial / LOG)))
        stages.stage("checking outputs against their references", None)
        job = {
            "bundle": str(bundle.resolve()),
            "folder": str(partial),
            "plans": [file.to_json() for file in files],
            "version": device.version,
            "module": device.module,
            "tolerance": tolerance,
            "plugins": options.libraries,
        }
        found_here = run_child("check", job, partial / LOG)
        record = EngineRecord(
            key=device.key,
            layout=layout,
            precision=precision,
            fingerprint=wanted,
            bundle_sha256=bundle_digest(manifest),
            engines=tuple(
                replace(file, scratch_nbytes=nbytes)
                for file, nbytes in zip(files, found_here["needs_nbytes"])
            ),
            checked=tuple(Checked(**item) for item in found_here["checked"]),
            workspace_nbytes=workspace,
            device=device.to_json(),
            notes=_notes(manifest),
        )
        _require_close(record, bundle)
        text = json.dumps(record.to_json(), indent=2, sort_keys=True)
        write_file(partial / RECORD, f"{text}\n".encode())
    return BuildResult(folder, record, True)


def chosen(manifest: Manifest, options: BuildOptions) -> tuple[str, str]:
    """The layout and precision to build in. Raises UsageError."""
    layout = options.layout or manifest.layout
    precision = options.precision or manifest.precision
    for what, value, known in (("layout", layout, LAYOUTS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise UsageError(f"there is no {what} '{value}'", f"there are {', '.join(known)}")
    if precision == "int8" and not manifest.quantised:
        raise UsageError(
            "int8 was asked for, and the bundle has no quantised nodes",
            "quantise the models (QuantizeLinear, DequantizeLinear) and compile again, or "
            "choose fp16",
        )
    return layout, precision


@contextmanager
def engine_graphs(
    bundle: Path, manifest: Manifest, layout: str, graph: str, options: BuildOptions
) -> Generator[list[EngineGraph]]:
    """The graph files to build engines of, in an order in which those can run.

    One for 'merged'; for 'trunk-heads' the parts of the graph, in a folder that is removed
    afterwards. Raises UsageError for free dimensions that nothing is known of.
    """
    content = inside(bundle, graph).read_bytes()
    file = GraphFile(content)
    data = check_external_files(bundle, manifest, graph)
    runs = read_references(bundle, manifest)
    known = known_shapes(
        manifest,
        options.batch,
        options.shapes or {},
        {name: array.shape for name, array in runs[0]["in"].items()} if runs else {},
    )

    def profile(names: tuple[str, ...]) -> dict[str, tuple[tuple[int, ...], ...]]:
        found = {name: known.profile(name, file.shape(name)) for name in names}
        return {name: shapes for name, shapes in found.items() if shapes is not None}

    wanted = {e.name: [s.value for s in e.outputs] for e in manifest.models}
    if layout == MERGED:
        outputs = tuple(dict.fromkeys(v for values in wanted.values() for v in values))
        inputs = tuple(file.inputs)
        yield [EngineGraph(tuple(wanted), inputs, outputs, inside(bundle, graph), profile(inputs))]
        return
    parts = file.parts(wanted)
    if parts is None:
        raise UsageError(
            "the graph cannot be cut: it does not tell the types of the values in between",
            "build with --layout merged",
        )
    with tempfile.TemporaryDirectory(prefix="repsimc-build-") as scratch:
        for name in data:
            _link(inside(bundle, name), Path(scratch) / name)
        found: list[EngineGraph] = []
        for number, cut in enumerate(parts):
            path = Path(scratch) / f"{number}.onnx"
            path.write_bytes(cut.content)
            models = tuple(sorted(cut.models))
            found.append(EngineGraph(models, cut.inputs, cut.outputs, path, profile(cut.inputs)))
        yield found


def build_job(part: EngineGraph, plan: Path) -> dict[str, Any]:
    """What the building child has to know of a graph."""
    profile = {name: [list(s) for s in shapes] for name, shapes in part.profile.items()}
    return {"graph": str(part.graph), "plan": str(plan), "profile": profile}


def engine_file_of(part: EngineGraph, found: Mapping[str, Any]) -> EngineFile:
    """The engine file that a building child has written."""
    return EngineFile(
        file=Path(found["plan"]).name,
        models=part.models,
        inputs=part.inputs,
        outputs=part.outputs,
        nbytes=found["nbytes"],
        sha256=found["sha256"],
        seconds=found["seconds"],
    )


def build_here(job: dict[str, Any]) -> dict[str, Any]:
    """What the building child does: the plan's file, size, digest, seconds."""

    def say(severity: str, message: str) -> None:
        if severity != "VERBOSE":
            print(f"{severity}: {message}", flush=True)

    cache = Path(job["timing_cache"]) if job.get("timing_cache") else None
    request = BuildRequest(
        graph=Path(job["graph"]),
        precision=job["precision"],
        typed=job["typed"],
        quantised=job["quantised"],
        workspace_nbytes=job.get("workspace_nbytes"),
        timing_cache=cache.read_bytes() if cache is not None and cache.is_file() else b"",
        profile=job["profile"],
        capability=job.get("capability"),
    )
    start = time.monotonic()
    built = TensorRT(job["module"], say, job.get("plugins", ())).build(request)
    seconds = time.monotonic() - start
    plan = Path(job["plan"])
    write_file(plan, built.plan)
    if cache is not None and built.timing_cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_name(f"{cache.name}.{os.getpid()}")
        partial.write_bytes(built.timing_cache)
        partial.replace(cache)
    entry = file_entry(plan)
    return {
        "plan": str(plan),
        "nbytes": entry.nbytes,
        "sha256": entry.sha256,
        "seconds": round(seconds, 3),
    }


def _check_precision(manifest: Manifest, precision: str, device: Device) -> bool:
    """Whether to build from a graph with types in it. Raises UsageError, BackendError."""
    lacks = {"fp16": not device.fast_fp16, "int8": not device.fast_int8}
    if lacks.get(precision, False):
        raise UsageError(
            f"{device.gpu.name} has no fast {precision}", "build with --precision fp32"
        )
    if not device.wants_types:
        return False
    if precision == "fp32" or "fp16" in manifest.lowered:
        return True
    if device.has_flags:
        return False  # deprecated there, but it works
    raise BackendError(
        f"TensorRT {device.version} takes {precision} from the graph only, and the bundle has "
        "none in half precision",
        f"compile it with --precision {precision}",
    )


def _workspace(asked: int | None, device: Device) -> int:
    free = device.available_nbytes
    if asked is None:
        return min(DEFAULT_WORKSPACE_NBYTES, free // 4) or DEFAULT_WORKSPACE_NBYTES
    if free and asked > free:
        raise UsageError(
            f"a workspace of {asked / 2**20:.0f} MiB is more than the {free / 2**20:.0f} MiB that "
            "are free",
            "give less --workspace, or close other programs",
        )
    return asked


def _digest(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"there is no plugin library {path}", "check --plugin")
    return file_entry(path).sha256


def _require_close(record: EngineRecord, bundle: Path) -> None:
    wrong = [item for item in record.checked if not item.met]
    if wrong:
        told = ", ".join(
            f"{item.model}/{item.output} by {100 * item.difference:.3g} % of its largest value "
            f"(tolerance {100 * item.tolerance:.3g} %)"
            for item in wrong
        )
        raise FidelityError(
            f"the engines differ from the references of {bundle}: {told}",
            "nothing was kept; build with --precision fp32, or say what is good enough with "
            "--tolerance",
        )


def _notes(manifest: Manifest) -> tuple[str, ...]:
    if manifest.references:
        return ()
    return (
        "outputs were not checked: the bundle was compiled without frames, so it has no references",
    )


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError:  # file systems without links
        shutil.copyfile(source, target)
