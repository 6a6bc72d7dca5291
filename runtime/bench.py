"""Latency and memory of a bundle beside its originals, measured in fresh processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import arguments
from .conditions import Conditions
from .errors import UsageError
from .feeds import Inputs, Sizes
from .json_values import JsonValue
from .memory import Usage
from .ort import import_onnxruntime
from .rig import median_usage, rig
from .session import Bundle
from .timing import Latency, Ratio, RunTimes

SCHEMA = "repsimc.bench/1"


@dataclass(frozen=True)
class Side(JsonValue):
    """The merged graph, or the originals apart: measured latency and memory, predicted memory.

    `latency` is of the clock, `processor` of the processor time on all threads. `memory` is above
    a process that only loaded ONNX Runtime, the median of fresh processes; None where it can't be
    measured; `uss_nbytes` are all of its USS figures. `predicted_nbytes` is the manifest's, None
    where it says nothing.
    """

    latency: Latency
    processor: Latency
    memory: Usage | None
    predicted_nbytes: int | None
    samples: RunTimes
    uss_nbytes: tuple[int, ...] = ()


@dataclass(frozen=True)
class BenchResult(JsonValue):
    """Merged beside apart, from one call; `apart` is None where an original is missing.

    `ratio` is the latency of the merged graph by that of the originals, with its interval;
    `doubt` why that tells too little, '' where it does not. `frame` says what was fed, `notes`
    what could not be measured and why. Both sides ran with the same session settings, `threads`
    threads (None: all cores) and taking turns.
    """

    merged: Side
    apart: Side | None
    ratio: Ratio | None
    doubt: str
    conditions: Conditions
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
    with rig(bundle, originals, inputs, sizes, options.threads) as found:
        timed = found.timed(options.runs, options.warmup)
        memories = found.memories(options.repeats)
    memory = found.manifest.memory
    predicted = [memory.get("merged_nbytes"), memory.get("apart_nbytes")]
    sides = [
        Side(
            Latency.of(samples.seconds),
            Latency.of(samples.processor_seconds),
            median_usage(usages) if usages else None,
            nbytes,
            samples,
            tuple(one.uss_nbytes for one in usages),
        )
        for samples, usages, nbytes in zip(timed.samples, memories, predicted)
    ]
    apart = sides[1] if len(sides) > 1 else None
    ratio = None if apart is None else timed.ratio(0, 1)
    return BenchResult(
        merged=sides[0],
        apart=apart,
        ratio=ratio,
        doubt="" if ratio is None else ratio.doubt,
        conditions=timed.conditions,
        frame=found.frame,
        runs=options.runs,
        warmup=options.warmup,
        threads=options.threads,
        onnxruntime=import_onnxruntime().__version__,
        notes=found.notes,
    )
