"""What the cases measure alike: accuracy, latency, memory, and the time of one plain pass."""

from __future__ import annotations

import statistics
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
from compiling import Compiled, Models, compiled
from numpy.typing import NDArray
from records import Record, figure, write_records
from zoo import Zoo

from repsimc.runtime.bench import BenchOptions, BenchResult, bench

# Frames per run of the plain pass: as many as the compiler takes at a time.
BATCH = 64
NOT_QUICK = "not in --quick"


@dataclass(frozen=True)
class Round:
    """How thoroughly to measure, and where: `scratch` is a folder for bundles and arrays."""

    quick: bool
    scratch: Path
    zoo: Zoo

    def frames(self, family: str) -> int:
        """Calibration frames of the classifiers: fewer do not carry the transformers' budget."""
        return {"cifar10": 512, "fashion": 1200}[family] if self.quick else 2000

    @property
    def judged(self) -> int:
        """Labelled frames that accuracy is measured on."""
        return 500 if self.quick else 4000

    @property
    def runs(self) -> int:
        """Turns of a latency measurement."""
        return 40 if self.quick else 200

    @property
    def times(self) -> int:
        """How often latency and memory are measured; medians are taken."""
        return 1 if self.quick else 3


def run_cases(
    cases: Mapping[str, Callable[[], list[Record]]], skipped: Collection[str], json: Path | None
) -> tuple[list[Record], bool]:
    """The records of all cases, and whether one broke; `json` is written after each."""
    records: list[Record] = []
    broken = False
    for name, case in cases.items():
        if name in skipped:
            records.append(figure(f"{name}/skipped", None, "", None, NOT_QUICK))
            continue
        begun = time.perf_counter()
        try:
            records += case()
        except Exception:  # one case that breaks must not lose what the others found
            traceback.print_exc()
            broken = True
            records.append(figure(f"{name}/finished", 0, "", "== 1", "see standard error"))
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        if json is not None:
            write_records(records, json)
    return records, broken


@dataclass(frozen=True)
class Row:
    """A line of the README's table: shares are of the models apart, which is doing nothing."""

    models: str
    apart_nbytes: int
    exact: float
    share: float | None
    change: str
    latency: float | None
    remark: str = ""


@dataclass
class Outcome:
    """What a case found: its figures, and its lines of the README's tables."""

    records: list[Record] = field(default_factory=list[Record])
    rows: list[Row] = field(default_factory=list[Row])
    curve: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])


@dataclass(frozen=True)
class Timed:
    """A compilation beside one plain pass of the originals over the same frames, in seconds."""

    compiled: Compiled
    pass_seconds: float

    @property
    def ratio(self) -> float:
        """Compile time by the time of the pass."""
        return self.compiled.seconds / self.pass_seconds


def save_frames(path: Path, frames: NDArray[np.float32], **labels: NDArray[np.uint8]) -> Path:
    """An .npz of frames for the input `input`, and of labels by task."""
    arrays: Mapping[str, NDArray[np.generic]] = {"input": frames, **labels}
    np.savez(path, allow_pickle=False, **arrays)
    return path


def plain_pass_seconds(models: Models, frames: NDArray[np.float32], batch: int = BATCH) -> float:
    """Seconds in which ONNX Runtime runs each model once over all frames; sessions are open."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    sessions = [
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _, path in models
    ]
    seconds = 0.0
    for session in sessions:
        feed = session.get_inputs()[0].name
        session.run(None, {feed: frames[:batch]})
        start = time.perf_counter()
        for first in range(0, len(frames), batch):
            session.run(None, {feed: frames[first : first + batch]})
        seconds += time.perf_counter() - start
    return seconds


def timed_compile(
    models: Models, frames: NDArray[np.float32], output: Path, batch: int = BATCH, **wishes: object
) -> Timed:
    """Compile between two plain passes: whatever else the machine does slows both down."""
    before = plain_pass_seconds(models, frames, batch)
    found = compiled(models, output, **wishes)
    after = plain_pass_seconds(models, frames, batch)
    return Timed(found, (before + after) / 2)


def cost_records(case: str, timed: Timed, frames: int, judged: bool) -> list[Record]:
    """Compile time by a plain pass (bar 15 where `judged`), and the peak of resident memory."""
    found = timed.compiled
    extra = (
        f"{found.seconds:.1f} s ({found.compile_seconds:.1f} s without starting Python), "
        f"one pass of the originals over {frames} frames {timed.pass_seconds:.1f} s"
    )
    return [
        figure(
            f"{case}/compile time by one plain pass",
            timed.ratio,
            "ratio",
            "<= 15" if judged else None,
            extra,
        ),
        figure(f"{case}/peak memory of compiling", found.peak_nbytes / 2**20, "MiB"),
    ]


def benched(bundle: Path, runs: int, times: int = 3) -> list[BenchResult]:
    """Merged beside apart on one thread, several times: the machine is rarely quiet.

    One thread is what other programs disturb least. Threads that wait for each other are held up
    by them many times over, and the models apart more often than the merged graph: with two
    threads on two busy cores the same bundle was measured at 0.41 and at 0.07 of the models apart.
    """
    return [bench(bundle, BenchOptions(runs, repeats=1, threads=1)) for _ in range(times)]


def latency_records(
    case: str, bundle: Path, results: list[BenchResult], all_cores: bool, bar: str | None = None
) -> list[Record]:
    """Latency of the merged graph by that of the models apart: as in `results`, and all cores."""
    ratio, remark = latency_ratio(results)
    found = [figure(f"{case}/latency", ratio, "ratio", bar, f"one thread, {remark}")]
    if all_cores:
        ratio, remark = latency_ratio([bench(bundle, BenchOptions(results[0].runs, repeats=1))])
        found.append(figure(f"{case}/latency, all cores", ratio, "ratio", None, remark))
    return found


def latency_ratio(results: list[BenchResult]) -> tuple[float | None, str]:
    """The merged graph's p50 by that of the models apart, and a remark.

    Of several measurements each side's lowest p50 counts, as `timeit` advises: what else runs on
    the machine can only add to it.
    """
    pairs = [
        (1e3 * result.merged.latency.p50_seconds, 1e3 * result.apart.latency.p50_seconds)
        for result in results
        if result.apart is not None
    ]
    if not pairs:
        return None, "; ".join(results[0].notes) if results else "not measured"
    merged, apart = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    each = " ".join(f"{one / other:.3f}" for one, other in pairs)
    remark = f"p50 {merged:.2f} against {apart:.2f} ms, {results[0].runs} turns, each {each}"
    return merged / apart, remark


def memory_record(case: str, results: list[BenchResult], bar: str | None = None) -> Record:
    """How far the predicted saving of memory is from the measured one, as a share of the latter."""
    name = f"{case}/predicted saving against measured"
    measured = [r.measured_saving_nbytes for r in results if r.measured_saving_nbytes is not None]
    predicted = results[0].predicted_saving_nbytes
    if not measured or predicted is None:
        return figure(name, None, "share", bar, "; ".join(results[0].notes))
    saving = statistics.median(measured)
    extra = f"predicted {predicted / 2**20:.2f} MiB, measured {saving / 2**20:.2f} MiB"
    apart, merged = results[0].apart, results[0].merged
    if apart is not None and apart.memory is not None and merged.memory is not None:
        extra += (
            f" (USS {apart.memory.uss_nbytes / 2**20:.1f} -> "
            f"{merged.memory.uss_nbytes / 2**20:.1f} MiB)"
        )
    if saving <= 0:
        return figure(name, None, "share", bar, f"nothing measurable was saved; {extra}")
    return figure(name, abs(predicted / saving - 1), "share", bar, extra)
