"""Latency and memory of engines on the device: the bundle's beside the originals' apart."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, RepsimcError
from ..feeds import one_frame
from ..files import read_manifest
from ..json_values import JsonValue
from ..manifest import Manifest, ModelEntry
from ..memory import release_memory
from ..originals import check_original, find_original
from ..rig import NOISE, with_noise
from ..timing import Latency
from ..wire import GraphFile
from .building import BuildOptions, EngineGraph, Stages, build_job, chosen, engine_file_of
from .checking import read_references
from .child import run_child
from .device_memory import parse_tegrastats, read_memory
from .engines import EngineFile, engine_files, find_engines
from .execution import output_values
from .loaded_engines import Library, LoadedEngines
from .probe import Device, probe

SCHEMA = "repsimc.device-bench/1"
Array = NDArray[Any]


@dataclass(frozen=True)
class Phases(JsonValue):
    """Memory before the engines came, with them loaded, and after they ran: `Reading.to_json()`.

    `scratch_nbytes` is what engines were given to compute in, `allocated_nbytes` all that repsimc
    allocated besides: buffers and page-locked memory.
    """

    idle: Mapping[str, Any]
    loaded: Mapping[str, Any]
    running: Mapping[str, Any]
    scratch_nbytes: int
    allocated_nbytes: int

    def grown(self, what: str, sign: int = 1) -> int | None:
        """Bytes by which a figure of the readings grew from idle to running."""
        before, after = self.idle.get(what), self.running.get(what)
        return None if before is None or after is None else sign * (after - before)


@dataclass(frozen=True)
class EngineSide(JsonValue):
    """One way to hold the models: its name, latency of one frame through all, memory, log."""

    name: str
    latency: Latency
    memory: Phases
    plans_nbytes: int
    cuda_graphs: int
    log: str


@dataclass(frozen=True)
class DeviceBench(JsonValue):
    """What was measured on a device: the bundle's engines, and the originals' where found."""

    device: Device
    precision: str
    sides: tuple[EngineSide, ...]
    frame: str
    runs: int
    warmup: int
    tegrastats: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, with schema version and raw logs."""
        return {"schema": SCHEMA, **super().to_json()}

    def ram(self) -> list[int]:
        """Bytes of RAM in use, as tegrastats said while it ran."""
        return parse_tegrastats(self.tegrastats)


def device_bench(
    bundle: Path,
    options: BuildOptions,
    stages: Stages,
    runs: int = 100,
    warmup: int = 10,
    originals: Mapping[str, Path] | None = None,
) -> DeviceBench:
    """Engines of the bundle beside one engine per original with scratch memory of its own.

    Of `options` the layout, precision and plugins count. Every side in a fresh process: memory
    idle, loaded, running; latency of one frame through all models. The originals are built here,
    in the same precision, where their files are found. Raises BackendError (exit code 6: no GPU,
    TensorRT, or engines of this device), UsageError, ModelError.
    """
    manifest = read_manifest(bundle)
    device = probe()
    layout, precision = chosen(manifest, options)
    folder, record = find_engines(bundle, manifest, device.key, layout, precision)
    frame, told = _frame(bundle, manifest)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="repsimc-bench-") as name:
        scratch = Path(name)
        arrays: dict[str, Any] = {f"arr{i}": array for i, array in enumerate(frame.values())}
        np.savez(scratch / "frame.npz", **arrays)
        keys = dict(zip(frame, arrays))
        job: dict[str, Any] = {
            "module": device.module,
            "version": device.version,
            "frame": str(scratch / "frame.npz"),
            "runs": runs,
            "warmup": warmup,
            "plugins": options.libraries,
        }
        outputs = sorted(output_values(manifest))
        cases = [(f"repsimc, {layout}", [_group(folder, record.engines, outputs, keys)])]
        try:
            build = _original_job(manifest, device, precision) | {"plugins": options.libraries}
            groups: list[dict[str, Any]] = []
            for entry in manifest.models:
                if originals and entry.name in originals:
                    path = originals[entry.name]
                    check_original(path, entry)
                else:
                    path = find_original(bundle, entry)
                stages.stage(f"building an engine of the original '{entry.name}'", None)
                groups.append(_apart(entry, path, build, scratch, keys, manifest.sizes))
            cases.append(("originals apart", groups))
        except RepsimcError as error:
            if originals is not None:
                raise
            notes.append(f"originals apart: not measured, {error.message}")
        stages.stage("measuring in fresh processes", None)
        sides: list[EngineSide] = []
        with _Tegrastats() as log:
            for title, groups in cases:
                raw = scratch / f"{len(sides)}.log"
                found = run_child("measure", {**job, "groups": groups}, raw)
                sides.append(_side(title, found, groups, raw))
    return DeviceBench(
        device=device,
        precision=precision,
        sides=tuple(sides),
        frame=told,
        runs=runs,
        warmup=warmup,
        tegrastats=log.text,
        notes=tuple(notes),
    )


def measure_here(job: dict[str, Any]) -> dict[str, Any]:
    """What the measuring child finds: seconds of every run, and memory in three phases."""

    def say(severity: str, message: str) -> None:
        print(f"{severity}: {message}")

    with np.load(job["frame"], allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    # What CUDA and TensorRT take once per process is in 'idle', and not in the engines.
    library = Library(job["version"], job["module"], job.get("plugins", ()), say)
    warm = LoadedEngines(Path(), (), (), library)
    release_memory()
    idle = read_memory(warm.cuda.memory()[0]).to_json()
    loaded: list[tuple[LoadedEngines, list[str], dict[str, Array]]] = []
    for group in job["groups"]:
        files = engine_files(group["plans"])
        engines = LoadedEngines(
            Path(group["folder"]),
            files,
            group["outputs"],
            library,
            job.get("shared_scratch", True),
        )
        feeds = {name: arrays[key] for name, key in group["feeds"].items()}
        models = sorted({model for file in files for model in file.models})
        loaded.append((engines, models, feeds))
    release_memory()
    with_engines = read_memory(warm.cuda.memory()[0]).to_json()
    seconds: list[float] = []
    for turn in range(job["warmup"] + job["runs"]):
        start = time.perf_counter()
        for engines, models, feeds in loaded:
            engines.run(models, feeds)
        if turn >= job["warmup"]:
            seconds.append(time.perf_counter() - start)
    release_memory()
    running = read_memory(warm.cuda.memory()[0]).to_json()
    found = {
        "seconds": seconds,
        "idle": idle,
        "loaded": with_engines,
        "running": running,
        "scratch_nbytes": sum(engines.scratch_nbytes for engines, _, _ in loaded),
        "allocated_nbytes": sum(engines.cuda.allocated_nbytes for engines, _, _ in loaded),
        "cuda_graphs": sum(engines.captured for engines, _, _ in loaded),
    }
    for engines, _, _ in loaded:
        engines.close()
    warm.close()
    return found


def _original_job(manifest: Manifest, device: Device, precision: str) -> dict[str, Any]:
    """How originals are built for that device. Raises ModelError where they cannot be."""
    if device.wants_types and precision != "fp32" and not device.has_flags:
        raise ModelError(
            f"TensorRT {device.version} cannot build an original in {precision}: its graph has no "
            "types for that"
        )
    return {
        "module": device.module,
        "precision": precision,
        "typed": device.wants_types and precision == "fp32",
        "quantised": manifest.quantised,
    }


def _apart(
    entry: ModelEntry,
    path: Path,
    job: Mapping[str, Any],
    scratch: Path,
    keys: Mapping[str, str],
    sizes: Mapping[str, tuple[int, ...]],
) -> dict[str, Any]:
    """A group of one engine, of an original, built in `scratch` as `job` says."""
    part = _original(path, entry, sizes)
    work = {**build_job(part, scratch / f"{entry.name}.plan"), **job}
    file = engine_file_of(part, run_child("build", work, scratch / "build.log"))
    own = {spec.name: keys[spec.value] for spec in entry.inputs if spec.value in keys}
    return _group(scratch, [file], part.outputs, own)


def _original(path: Path, entry: ModelEntry, sizes: Mapping[str, tuple[int, ...]]) -> EngineGraph:
    file = GraphFile(path.read_bytes())
    told = {spec.name: sizes[spec.value] for spec in entry.inputs if spec.value in sizes}
    profile: dict[str, tuple[tuple[int, ...], ...]] = {}
    for name in file.inputs:
        shape = file.shape(name) or ()
        if any(not isinstance(size, int) for size in shape):
            one = told.get(name) or one_frame(shape)
            profile[name] = (one, one, one)
    outputs = tuple(spec.name for spec in entry.outputs)
    return EngineGraph((entry.name,), tuple(file.inputs), outputs, path, profile)


def _group(
    folder: Path, files: Sequence[EngineFile], outputs: Sequence[str], feeds: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "folder": str(folder.resolve()),
        "plans": [file.to_json() for file in files],
        "outputs": list(outputs),
        "feeds": dict(feeds),
    }


def _side(
    title: str, found: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], raw: Path
) -> EngineSide:
    return EngineSide(
        name=title,
        latency=Latency.of(found["seconds"]),
        memory=Phases(
            found["idle"],
            found["loaded"],
            found["running"],
            found["scratch_nbytes"],
            found["allocated_nbytes"],
        ),
        plans_nbytes=sum(plan["nbytes"] for group in groups for plan in group["plans"]),
        cuda_graphs=found["cuda_graphs"],
        log=raw.read_text(encoding="utf-8") if raw.is_file() else "",
    )


def _frame(bundle: Path, manifest: Manifest) -> tuple[dict[str, Array], str]:
    """The first reference's frame; noise, and told to be that, where there are none."""
    runs = read_references(bundle, manifest)
    frame = with_noise(runs[0]["in"] if runs else {}, manifest)
    return frame, "a held-out frame" if runs else NOISE


class _Tegrastats:
    """Collects what tegrastats prints while the block runs; '' where it is not installed."""

    def __init__(self) -> None:
        self.text = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Tegrastats:
        if found := shutil.which("tegrastats"):
            self._process = subprocess.Popen(
                [found, "--interval", "500"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self.text = self._process.communicate()[0] or ""
