"""Time and memory of graphs on ONNX Runtime: `python running.py` reads a job, prints JSON.

What is compared takes turns in one process on one thread, in processor seconds: whatever else the
machine does slows all alike, and is not counted. Memory is told of a fresh process for each.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from repsimc.runtime.memory import can_measure, usage
from repsimc.runtime.ort import session_options

Array = NDArray[Any]
Feeds = Mapping[str, Array]
WARMUP = 5
# A threshold that glibc would raise by chance, see runtime/rig.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072"}


@dataclass(frozen=True)
class Graph:
    """An ONNX file and what one run of it is fed, by input."""

    path: Path
    feeds: Feeds


Side = Sequence[Graph]
"""Graphs that run one after another; what one device would run."""


@dataclass(frozen=True)
class Resident:
    """Bytes that only this process has, above one without models: once open, and after two runs."""

    opened_nbytes: int
    ran_nbytes: int


def latency_ratio(one: Side, other: Side, runs: int, scratch: Path) -> tuple[float, str]:
    """Median processor seconds of the one by those of the other, and both in words.

    Raises RuntimeError where a graph cannot be run.
    """
    said = _child({"kind": "latency", "runs": runs}, [one, other], scratch)
    first, second = (statistics.median(seconds) for seconds in said["seconds"])
    return first / second, f"{1e3 * first:.2f} by {1e3 * second:.2f} ms on one thread, {runs} turns"


def weights_memory(one: Side, original: Side, repeats: int, scratch: Path) -> tuple[float, str]:
    """Memory of the weights' part of the one by that of the original, and both in words.

    Of the original it is what it holds once it is open. What runs add to it are activations, which
    are taken off the other as well: floats that are made of integers at run time stay in.
    Raises RuntimeError where a graph cannot be run, and off Linux.
    """
    if not can_measure():
        raise RuntimeError("memory can be measured on Linux only")
    first, second = (resident(side, repeats, scratch) for side in (one, original))
    activations = second.ran_nbytes - second.opened_nbytes
    part = first.ran_nbytes - activations
    words = (
        f"{part / 2**20:.2f} by {second.opened_nbytes / 2**20:.2f} MiB; once open "
        f"{first.opened_nbytes / 2**20:.2f}, activations {activations / 2**20:.2f} MiB"
    )
    return part / max(second.opened_nbytes, 1), words


def resident(side: Side, repeats: int, scratch: Path) -> Resident:
    """The median of so many fresh processes. Raises RuntimeError where a graph cannot be run."""
    empty, found = (
        [_child({"kind": "memory"}, [one], scratch) for _ in range(repeats)] for one in ((), side)
    )
    opened, ran = (
        int(
            statistics.median(one[key] for one in found)
            - statistics.median(one["ran"] for one in empty)
        )
        for key in ("opened", "ran")
    )
    return Resident(opened, ran)


def _child(job: Mapping[str, Any], sides: Sequence[Side], scratch: Path) -> dict[str, Any]:
    frame, tiny = scratch / "running.npz", scratch / "running.onnx"
    arrays: dict[str, Any] = {}
    described: list[list[dict[str, Any]]] = []
    for side in sides:
        described.append([])
        for graph in side:
            keys = {name: f"array{len(arrays) + i}" for i, name in enumerate(graph.feeds)}
            arrays |= {keys[name]: array for name, array in graph.feeds.items()}
            described[-1].append({"path": str(graph.path), "feeds": keys})
    np.savez(frame, allow_pickle=False, **arrays)
    onnx.save(_tiny(), tiny)
    whole = {**job, "sides": described, "frame": str(frame), "tiny": str(tiny)}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(whole),
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **(_MALLOC if job["kind"] == "memory" else {}),
        },
    )
    frame.unlink()
    tiny.unlink()
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"running failed: {lines[-1]}")
    return json.loads(done.stdout)


def _tiny() -> onnx.ModelProto:
    """What every process runs first: what ONNX Runtime takes once is no part of a model."""
    return onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        tiny (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y) <float[1, 1, 1, 1] w = {1.0}> {
            a = Conv(x, w)
            b = Relu(a)
            y = MatMul(b, b)
        }
    """)


def _opened(side: Sequence[Mapping[str, Any]], frame: Feeds) -> list[tuple[Any, dict[str, Array]]]:
    found: list[tuple[Any, dict[str, Array]]] = []
    for graph in side:
        session = ort.InferenceSession(
            graph["path"], session_options(1), providers=["CPUExecutionProvider"]
        )
        found.append((session, {name: frame[key] for name, key in graph["feeds"].items()}))
    return found


def _run(sessions: Sequence[tuple[Any, dict[str, Array]]]) -> None:
    for session, feeds in sessions:
        session.run(None, feeds)


def main() -> None:
    """Measure what the job on stdin asks for and print it."""
    job = json.load(sys.stdin)
    with np.load(job["frame"], allow_pickle=False) as arrays:
        frame = {key: arrays[key] for key in arrays.files}
    tiny = ort.InferenceSession(job["tiny"], session_options(1), providers=["CPUExecutionProvider"])
    tiny.run(None, {"x": np.zeros((1, 1, 4, 4), np.float32)})
    sides = [_opened(side, frame) for side in job["sides"]]
    if job["kind"] == "memory":
        opened = usage().uss_nbytes
        for _ in range(2):  # what is allocated on the first run is used by the second
            _run(sides[0])
        json.dump({"opened": opened, "ran": usage().uss_nbytes}, sys.stdout)
        return
    seconds: list[list[float]] = [[] for _ in sides]
    order = list(zip(sides, seconds))
    for turn in range(WARMUP + job["runs"]):
        for side, found in order if turn % 2 == 0 else reversed(order):
            begun = time.process_time()
            _run(side)
            if turn >= WARMUP:
                found.append(time.process_time() - begun)
    json.dump({"seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    main()
