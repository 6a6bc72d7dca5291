"""Latency and memory of a bundle beside its originals, measured in fresh processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arguments
from .errors import BackendError, RepsimcError, UsageError
from .feeds import Array, Inputs, Sizes, arrange, placeholder, sizes_of_inputs
from .files import check_files, inside
from .json_values import JsonValue
from .manifest import Manifest
from .memory import Usage, can_measure
from .originals import check_original, find_original
from .ort import import_onnxruntime
from .session import Bundle, load

SCHEMA = "repsimc.bench/1"
# glibc raises this threshold as a process frees large blocks, and what lies below it comes from
# a heap with holes: the same sessions then hold 0 to 2 % more, as it happens. Fixed at its first
# value, runs agree. (Three ResNet-50 sizes apart: 314.9 MiB, else 320.7; both sides alike.)
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072"}
NOISE = "standard-normal noise, seed 0 (integers: zero)"
GIVEN = "the frame that was given"


@dataclass(frozen=True)
class Latency(JsonValue):
    """Seconds for one frame through all models: percentiles over the runs, and the mean."""

    p50_seconds: float
    p90_seconds: float
    p99_seconds: float
    mean_seconds: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Latency:
        """The latency of runs that took so long."""
        p50, p90, p99 = (float(np.percentile(seconds, q)) for q in (50, 90, 99))
        return Latency(p50, p90, p99, statistics.fmean(seconds))


@dataclass(frozen=True)
class Side(JsonValue):
    """The merged graph, or the originals apart: measured latency and memory, predicted memory.

    `memory` is above a process that only loaded ONNX Runtime; None where it can't be measured.
    `predicted_nbytes` is the manifest's, None where it says nothing.
    """

    latency: Latency
    memory: Usage | None
    predicted_nbytes: int | None


@dataclass(frozen=True)
class BenchResult(JsonValue):
    """Merged beside apart, from one call; `apart` is None where an original is missing.

    `frame` says what was fed, `notes` what could not be measured and why. Both sides ran with
    the same session settings, `threads` threads (None: all cores) and taking turns.
    """

    merged: Side
    apart: Side | None
    frame: str
    runs: int
    warmup: int
    threads: int | None
    onnxruntime: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, with schema version."""
        found = super().to_json()
        return {
            "schema": SCHEMA,
            "merged": found.pop("merged"),
            "apart": found.pop("apart"),
            "measured_saving_nbytes": self.measured_saving_nbytes,
            "predicted_saving_nbytes": self.predicted_saving_nbytes,
            **found,
        }

    @property
    def measured_saving_nbytes(self) -> int | None:
        """USS of the originals apart less that of the merged graph."""
        if self.apart is None or self.apart.memory is None or self.merged.memory is None:
            return None
        return self.apart.memory.uss_nbytes - self.merged.memory.uss_nbytes

    @property
    def predicted_saving_nbytes(self) -> int | None:
        """The saving that the manifest predicts."""
        if self.apart is None or self.apart.predicted_nbytes is None:
            return None
        if self.merged.predicted_nbytes is None:
            return None
        return self.apart.predicted_nbytes - self.merged.predicted_nbytes


@dataclass(frozen=True)
class BenchOptions:
    """How much is measured: `runs` timed runs after `warmup` others, memory `repeats` times.

    `threads` are those of ONNX Runtime (None: all cores). Raises UsageError for less than nothing.
    """

    runs: int = 100
    warmup: int = 10
    repeats: int = 3
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("runs", "warmup", "repeats", "threads"):
            if name != "threads" or self.threads is not None:
                object.__setattr__(self, name, arguments.whole(name, getattr(self, name)))
        if self.runs < 1 or self.warmup < 0 or self.repeats < 1:
            raise UsageError("runs and repeats must be 1 or more, warmup 0 or more")


def bench(
    bundle: Bundle | str | Path,
    options: BenchOptions | None = None,
    originals: Mapping[str, str | Path] | None = None,
    inputs: Inputs | None = None,
    sizes: Sizes | None = None,
) -> BenchResult:
    """Latency and memory of the bundle's merged graph, beside those of its originals.

    Latency: one frame through all models, `runs` times in one process in which the merged graph
    and the originals (one after another) take turns. Memory: USS, PSS and anonymous pages of a
    fresh process after two runs, less those of one without models; median of `repeats`.
    `originals` gives files by model where they are no longer where the manifest says; their
    sha256 must match. `inputs` is a frame as for `Session.run`; without it noise is fed, of the
    size that the bundle was compiled for or of `sizes` (by input or symbol). Raises UsageError,
    ModelError, DataError, BackendError.
    """
    options = options or BenchOptions()
    onnxruntime = import_onnxruntime()
    opened = bundle if isinstance(bundle, Bundle) else load(bundle)
    manifest = opened.manifest
    check_files(opened.path, manifest)
    names = [entry.name for entry in manifest.models]
    frame = GIVEN
    if inputs is None:
        feeds = with_noise({}, manifest, sizes)
        frame = _noise_text(manifest, feeds)
    else:
        feeds = arrange(manifest, names, inputs)
    found, notes = _find_originals(opened, originals or {})
    keys = {value: f"arr{index}" for index, value in enumerate(feeds)}
    merged = [_model(inside(opened.path, manifest.graph), {v: v for v in feeds}, keys)]
    cases = [merged]
    if found is not None:
        own = {e.name: {s.name: s.value for s in e.inputs} for e in manifest.models}
        cases.append([_model(path, own[name], keys) for name, path in found.items()])
    job: dict[str, Any] = {**asdict(options), "kind": "latency"}
    with tempfile.TemporaryDirectory(prefix="repsimc-bench-") as scratch:
        job["frame"] = str(Path(scratch) / "frame.npz")
        arrays: dict[str, Any] = {keys[value]: _plain(array) for value, array in feeds.items()}
        np.savez(job["frame"], **arrays)
        latencies = [Latency.of(s) for s in _child({**job, "cases": cases})["seconds"]]
        memories: list[Usage | None] = [None] * len(cases)
        if can_measure():
            memories = list(_memories({**job, "kind": "memory"}, cases, options.repeats))
        else:
            notes.append("memory: not measured, this is possible on Linux only")
    predicted = [manifest.memory.get("merged_nbytes"), manifest.memory.get("apart_nbytes")]
    sides = [Side(*side) for side in zip(latencies, memories, predicted)]
    return BenchResult(
        merged=sides[0],
        apart=sides[1] if len(sides) > 1 else None,
        frame=frame,
        runs=options.runs,
        warmup=options.warmup,
        threads=options.threads,
        onnxruntime=onnxruntime.__version__,
        notes=tuple(notes),
    )


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Text as fixed-width text: object arrays can only be saved by pickling."""
    return array.astype(np.str_) if array.dtype == object else array


def _model(path: Path, inputs: Mapping[str, str], keys: Mapping[str, str]) -> dict[str, Any]:
    return {
        "path": str(path),
        "inputs": {name: keys[value] for name, value in inputs.items() if value in keys},
    }


def _memories(
    job: dict[str, Any], cases: list[list[dict[str, Any]]], repeats: int
) -> tuple[Usage, ...]:
    """The median memory of each case above that of a process without models."""

    def median(case: list[dict[str, Any]]) -> Usage:
        found = [Usage(**_child({**job, "cases": [case]})) for _ in range(repeats)]
        return Usage(
            int(statistics.median(one.uss_nbytes for one in found)),
            int(statistics.median(one.pss_nbytes for one in found)),
            int(statistics.median(one.anonymous_nbytes for one in found)),
        )

    baseline = median([])
    return tuple(median(case) - baseline for case in cases)


def _child(job: dict[str, Any]) -> dict[str, Any]:
    """What a fresh process prints for the job. Raises BackendError if it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if job["kind"] == "memory":
        environment |= _MALLOC
    done = subprocess.run(
        [sys.executable, "-m", "repsimc.runtime.measured"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise BackendError(
            f"measuring {job['kind']} failed (exit status {done.returncode}): "
            f"{said[-1] if said else 'no message'}",
            "killed (status -9) means that memory ran out",
        )
    return json.loads(done.stdout)


def with_noise(
    frame: Mapping[str, Array],
    manifest: Manifest,
    sizes: Sizes | None = None,
) -> dict[str, Array]:
    """The frame, with noise for every input value that it lacks: see `sizes_of_inputs`."""
    random = np.random.default_rng(0)
    found = dict(frame)
    lacking = any(spec.value not in found for e in manifest.models for spec in e.inputs)
    told = sizes_of_inputs(manifest, sizes) if lacking else {}
    for entry in manifest.models:
        for spec in entry.inputs:
            if spec.value not in found:
                zeros = placeholder(spec, told.get(spec.value))
                floating = zeros.dtype.kind in "fc"
                noise = random.standard_normal(zeros.shape) if floating else zeros
                found[spec.value] = noise.astype(zeros.dtype)
    return found


def _noise_text(manifest: Manifest, feeds: Mapping[str, Array]) -> str:
    """What was fed: noise, and of which size where inputs may have any."""
    free = {
        spec.name: "x".join(map(str, feeds[spec.value].shape))
        for entry in manifest.models
        for spec in entry.inputs
        if spec.shape is None or any(not isinstance(size, int) for size in spec.shape[1:])
    }
    told = ", ".join(f"{name} {sizes}" for name, sizes in free.items())
    return f"{NOISE}; {told}" if told else NOISE


def _find_originals(
    bundle: Bundle, given: Mapping[str, str | Path]
) -> tuple[dict[str, Path] | None, list[str]]:
    """Every model's own file; None, and why, if one is missing or not the one compiled."""
    known = {entry.name for entry in bundle.manifest.models}
    for name in given:
        if name not in known:
            raise UsageError(f"there is no model '{name}' in this bundle")
    found: dict[str, Path] = {}
    notes: list[str] = []
    for entry in bundle.manifest.models:
        try:
            if entry.name in given:
                path = Path(given[entry.name])
                check_original(path, entry)
            else:
                path = find_original(bundle.path, entry)
            found[entry.name] = path.resolve()
        except RepsimcError as error:
            if entry.name in given:
                raise
            notes.append(f"apart: not measured, {error.message}")
    return (None if notes else found), notes
