"""Measured latency of programs, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ..frames.calibration import Frames
from ..graph.program import Program
from .executable import Executable
from .feeds import held_out_feeds, run_groups

RUNS = 31


def latencies(programs: Sequence[Program], frames: Frames, runs: int = RUNS) -> list[float]:
    """Median seconds of one frame (or one fixed batch) through all models, on one thread.

    The programs take turns. Every timed run follows one of the same program that is not timed:
    what others left in the caches counted for more than a block.
    """
    segments: list[Executable] = []
    feeds: list[dict[str, NDArray[Any]]] = []
    for program in programs:
        outputs = [value.name for value in program.graph.outputs]
        segment = Executable(program, None, outputs, threads=1)
        fed: dict[str, NDArray[Any]] = {}
        for group in run_groups(frames):
            source = held_out_feeds(program, frames, group[0])
            one = replace(source, rows=source.rows[: source.fixed or 1])
            fed |= next(iter(one.batches(segment.inputs)))
        segments.append(segment)
        feeds.append(fed)
    taken: list[list[float]] = [[] for _ in segments]
    for _ in range(runs):
        for index, segment in enumerate(segments):
            segment(feeds[index])
            begun = time.perf_counter()
            segment(feeds[index])
            taken[index].append(time.perf_counter() - begun)
    return [statistics.median(times) for times in taken]
