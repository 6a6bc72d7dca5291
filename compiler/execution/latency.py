"""Measured latency of programs, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..frames.calibration import Frames
from ..graph.arrays import Array
from ..graph.free_size import size_of
from ..graph.program import Program
from .executable import Executable
from .feeds import held_out_feeds, run_groups

# Timed runs of each program.
RUNS = 31


def latencies(programs: Sequence[Program], frames: Frames) -> list[float]:
    """Median seconds of one frame (or one fixed batch) through all models, on one thread.

    The programs take turns. Every timed run follows one of the same program that is not timed:
    what others left in the caches counted for more than a block.
    """
    segments: list[Executable] = []
    feeds: list[dict[str, Array]] = []
    for program in programs:
        outputs = [value.name for value in program.graph.outputs]
        segment = Executable(program, None, outputs, threads=1)
        fed: dict[str, Array] = {}
        for group in run_groups(frames):
            source = held_out_feeds(program, frames, group[0])
            one = replace(source, rows=source.rows[: source.fixed or 1])
            fed |= next(iter(one.batches(segment.inputs)))
        segments.append(segment)
        feeds.append(fed)
    return [statistics.median(times) for times in _in_turns(segments, feeds, RUNS)]


def best_seconds(
    programs: Sequence[Program],
    sources: Sequence[str] | None,
    results: Sequence[str],
    seed: int = 0,
    runs: int = RUNS,
) -> list[float]:
    """The best of so many runs from some values (None: the inputs) to others, on one thread.

    One frame of random numbers; the programs take turns. The best, since what else the machine
    does only adds.
    """
    segments = [Executable(program, sources, results, threads=1) for program in programs]
    known = programs[0].values()
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for name in sorted({name for segment in segments for name in segment.inputs}):
        shape = [size_of(size) or 1 for size in known[name].shape or ()]
        feeds[name] = np.asarray(random.normal(size=shape)).astype(np.dtype(known[name].dtype))
    return [min(times) for times in _in_turns(segments, [feeds] * len(segments), runs)]


def _in_turns(
    segments: Sequence[Executable], feeds: Sequence[dict[str, Array]], runs: int
) -> list[list[float]]:
    taken: list[list[float]] = [[] for _ in segments]
    for _ in range(runs):
        for times, segment, fed in zip(taken, segments, feeds):
            segment(fed)
            begun = time.perf_counter()
            segment(fed)
            times.append(time.perf_counter() - begun)
    return taken
