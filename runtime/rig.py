"""A bundle and its originals, ready to be measured in fresh processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conditions import Conditions
from .errors import BackendError, RepsimcError, UsageError
from .feeds import Array, Inputs, Sizes, arrange, placeholder, sizes_of_inputs
from .files import check_files, inside
from .manifest import Manifest
from .memory import Usage, can_measure
from .originals import check_original, find_original
from .ort import import_onnxruntime
from .session import Bundle, load
from .timing import Ratio, RunTimes

# glibc raises this threshold as a process frees large blocks, and what lies below it comes from
# a heap with holes: the same sessions then hold 0 to 2 % more, as it happens. Fixed at its first
# value, runs agree. (Three ResNet-50 sizes apart: 314.9 MiB, else 320.7; both sides alike.)
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072"}
NOISE = "standard-normal noise, seed 0 (integers: zero)"
GIVEN = "the frame that was given"

Case = list[dict[str, Any]]


@dataclass(frozen=True)
class Timed:
    """Runs in one fresh process, a RunTimes for every side; the yardstick's come last."""

    samples: tuple[RunTimes, ...]
    conditions: Conditions

    def share(self, one: int, other: int) -> float:
        """The 10th percentile of one side's seconds by that of another's."""
        p10s = (np.percentile(self.samples[k].seconds, 10) for k in (one, other))
        return _share(*map(float, p10s))

    def processor_share(self, one: int, other: int) -> float:
        """The same of processor time."""
        p10s = (np.percentile(self.samples[k].processor_seconds, 10) for k in (one, other))
        return _share(*map(float, p10s))

    def ratio(self, one: int, other: int) -> Ratio:
        """The time of one side by that of another."""
        return Ratio.of(self.samples[one].seconds, self.samples[other].seconds)


@dataclass(frozen=True)
class Rig:
    """What is measured: the merged graph, then (where every original was found) the models apart.

    `frame` says what they are fed, `notes` what can't be measured and why.
    """

    manifest: Manifest
    frame: str
    threads: int | None
    notes: tuple[str, ...]
    _cases: list[Case]
    _arrays: Path

    @property
    def has_apart(self) -> bool:
        """Whether the originals are there to be measured."""
        return len(self._cases) > 1

    def timed(self, runs: int, warmup: int, yardstick: bool = False) -> Timed:
        """Every side's runs in one fresh process, in which they take turns."""
        job = self._job("latency") | {"runs": runs, "warmup": warmup, "yardstick": yardstick}
        found = _child({**job, "cases": self._cases})
        samples = zip(found["seconds"], found["processor_seconds"])
        return Timed(
            tuple(RunTimes(tuple(wall), tuple(used)) for wall, used in samples),
            Conditions.of(found["conditions"]),
        )

    def memories(self, repeats: int) -> list[list[Usage]]:
        """Every side's memory in `repeats` fresh processes, above one without models.

        Empty lists where it can't be measured.
        """
        if not can_measure():
            return [[] for _ in self._cases]
        nothing = median_usage(self._usages([], repeats))
        return [[one - nothing for one in self._usages(c, repeats)] for c in self._cases]

    def _usages(self, case: Case, repeats: int) -> list[Usage]:
        job = {**self._job("memory"), "cases": [case]}
        return [Usage(**_child(job)) for _ in range(repeats)]

    def _job(self, kind: str) -> dict[str, Any]:
        return {"kind": kind, "threads": self.threads, "frame": str(self._arrays)}


@contextmanager
def rig(
    bundle: Bundle | str | Path,
    originals: Mapping[str, str | Path] | None = None,
    inputs: Inputs | None = None,
    sizes: Sizes | None = None,
    threads: int | None = None,
) -> Generator[Rig]:
    """A rig of the bundle, as long as the block lasts; arguments as for `bench`.

    Raises UsageError, ModelError, DataError, BackendError.
    """
    import_onnxruntime()
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
    found, notes = find_originals(opened, originals or {})
    keys = {value: f"arr{index}" for index, value in enumerate(feeds)}
    cases = [[_model(inside(opened.path, manifest.graph), {v: v for v in feeds}, keys)]]
    if found is not None:
        own = {e.name: {s.name: s.value for s in e.inputs} for e in manifest.models}
        cases.append([_model(path, own[name], keys) for name, path in found.items()])
    if not can_measure():
        notes.append("memory: not measured, this is possible on Linux only")
    with tempfile.TemporaryDirectory(prefix="repsimc-bench-") as scratch:
        path = Path(scratch) / "frame.npz"
        arrays: dict[str, Any] = {keys[value]: _plain(array) for value, array in feeds.items()}
        np.savez(path, **arrays)
        yield Rig(manifest, frame, threads, tuple(notes), cases, path)


def _share(one: float, other: float) -> float:
    # A clock that ticks rarely may say that nothing took any time.
    return max(one, 1e-9) / max(other, 1e-9)


def median_usage(found: Sequence[Usage]) -> Usage:
    """The median of each figure."""
    return Usage(
        int(statistics.median(one.uss_nbytes for one in found)),
        int(statistics.median(one.pss_nbytes for one in found)),
        int(statistics.median(one.anonymous_nbytes for one in found)),
    )


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Text as fixed-width text: object arrays can only be saved by pickling."""
    return array.astype(np.str_) if array.dtype == object else array


def _model(path: Path, inputs: Mapping[str, str], keys: Mapping[str, str]) -> dict[str, Any]:
    return {
        "path": str(path),
        "inputs": {name: keys[value] for name, value in inputs.items() if value in keys},
    }


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


def find_originals(
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
