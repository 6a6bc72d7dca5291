"""False alarms and misses of `repsimc check`, on the bundle of the shipped digits.

    python benchmarks/gate.py                   # ten gates of each kind, some ten minutes
    python benchmarks/gate.py --quick           # one of each, under a minute
    python benchmarks/gate.py --json gate.json

A baseline is written, then the gate judges the same bundle with eight programs that do nothing
but compute beside it, then one that an added detour makes 10 % slower. The last wants a quiet
machine: `waited` says how quiet it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from measuring import compiled
from numpy.typing import NDArray
from records import Record, figure, grid, missed, write_records

from repsimc.compiler.gate.baseline import Baseline
from repsimc.compiler.gate.judging import Check, GateOptions, check_bundle
from repsimc.compiler.gate.verdicts import Verdict
from repsimc.compiler.reports.table import print_grid
from repsimc.runtime.files import file_entry
from repsimc.runtime.session import load

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
MODELS = ("digit", "parity", "digit_deep")
LOAD, SLOWER = 8, 0.10


@contextmanager
def busy(programs: int) -> Generator[None]:
    """So many programs that compute all the time, as long as the block lasts."""
    code = "while True: sum(range(10000))"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(programs)]
    try:
        time.sleep(1)
        yield
    finally:
        for program in started:
            program.kill()
        for program in started:
            program.wait()


def with_detour(bundle: Path, folder: Path, width: int) -> Path:
    """The bundle, its first output sent through `width` values and back: same values, slower."""
    target = folder / f"detour-{width}"
    if target.exists():
        return target
    shutil.copytree(bundle, target)
    manifest = json.loads((target / "manifest.json").read_text())
    path = target / manifest["graph"]
    model = onnx.load(path)
    value = manifest["models"][0]["outputs"][0]["value"]
    size = manifest["models"][0]["outputs"][0]["shape"][-1]
    for node in model.graph.node:
        node.output[:] = ["detour_in" if name == value else name for name in node.output]
        node.input[:] = ["detour_in" if name == value else name for name in node.input]
    there = np.eye(size, width, dtype=np.float32)
    for name, array in (("detour_there", there), ("detour_back", there.T.copy())):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.node.extend(
        [
            onnx.helper.make_node("MatMul", ["detour_in", "detour_there"], ["detour_wide"]),
            onnx.helper.make_node("MatMul", ["detour_wide", "detour_back"], [value]),
        ]
    )
    onnx.save(model, path)
    entry = file_entry(path)
    manifest["files"][path.name] = {"sha256": entry.sha256, "nbytes": entry.nbytes}
    for place in manifest["models"]:  # relative to the bundle, which has moved
        place["source"]["path"] = str(DIGITS / place["source"]["file"])
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def ratio_of(one: Path, other: Path, turns: int) -> float:
    """How long one bundle's graph takes by another's: p10s of turns in this process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    frame: NDArray[np.float32] = np.zeros((1, 1, 8, 8), np.float32)
    sessions = [
        ort.InferenceSession(str(path / "merged.onnx"), options, providers=["CPUExecutionProvider"])
        for path in (one, other)
    ]
    seconds: list[list[float]] = [[], []]
    for _ in range(turns):
        for session, found in zip(sessions, seconds, strict=True):
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: frame})
            found.append(time.perf_counter() - start)
    first, second = (float(np.percentile(found, 10)) for found in seconds)
    return first / second


def slower(bundle: Path, folder: Path, share: float) -> tuple[Path, float]:
    """A bundle that takes about so much longer than this one, and how much it takes."""
    low, high = 16, 1 << 16
    found = with_detour(bundle, folder, low)
    for _ in range(10):
        width = round((low * high) ** 0.5)
        found = with_detour(bundle, folder, width)
        seen = statistics.median(ratio_of(found, bundle, 150) for _ in range(3)) - 1
        if abs(seen - share) < 0.01:
            break
        low, high = (width, high) if seen < share else (low, width)
    measured = statistics.median(ratio_of(found, bundle, 300) for _ in range(3)) - 1
    return found, measured


def latency_of(check: Check) -> Verdict:
    """The verdict on latency."""
    return next(one for one in check.verdicts if one.name.startswith("latency"))


def gates(bundle: Path, baseline: Baseline, times: int, options: GateOptions) -> list[Check]:
    """So many gates of a bundle, one after another."""
    return [check_bundle(load(bundle), baseline, options) for _ in range(times)]


def told(checks: Sequence[Check]) -> str:
    """What the gates said of latency, and how busy the machine was."""
    words = [latency_of(one).verdict for one in checks]
    counts = ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
    return f"{counts}; e.g. {latency_of(checks[-1]).why}; machine: {checks[-1].machine}"


def alarms(checks: Sequence[Check]) -> int:
    """How many gates end with a regression of anything."""
    return sum(bool(one.of("regressed")) for one in checks)


def measure(quick: bool) -> list[Record]:
    """All figures; a quick round has one gate of each kind, and the bars of as many."""
    times, options = 10, GateOptions()
    if quick:
        times, options = 1, GateOptions(rounds=6, runs=40, repeats=1)
    with tempfile.TemporaryDirectory(prefix="repsimc-gate-") as scratch:
        folder = Path(scratch)
        bundle = compiled(
            [(name, DIGITS / f"{name}.onnx") for name in MODELS],
            folder / "bundle",
            calibration=DIGITS / "frames.npz",
            budget="60%",
        ).bundle
        assert bundle is not None
        started = time.perf_counter()
        baseline = check_bundle(load(bundle), None, options).measured
        seconds = time.perf_counter() - started
        slow, measured = slower(bundle, folder, SLOWER)
        quiet = gates(bundle, baseline, times, options)
        found = gates(slow, baseline, times, options)
        with busy(LOAD):
            loaded = gates(bundle, baseline, times, options)
    caught = sum(latency_of(one).verdict == "regressed" for one in found)
    return [
        figure("gate/seconds of one", seconds, "s"),
        figure("gate/false alarms at load 8", alarms(loaded), "gates", "== 0", told(loaded)),
        figure("gate/false alarms, quiet", alarms(quiet), "gates", "== 0", told(quiet)),
        figure(
            f"gate/10 % slower found, of {times}",
            caught,
            "gates",
            f">= {max(1, times - 1)}",
            f"slower by {100 * measured:.1f} %: {told(found)}",
        ),
    ]


def main() -> int:
    """Prints the table, writes the JSON; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one gate of each kind")
    parser.add_argument("--json", type=Path, help="write the records to this file")
    arguments = parser.parse_args()
    records = measure(arguments.quick)
    print_grid(grid(records, "the gate on the bundle of the digits"))
    if arguments.json is not None:
        write_records(records, arguments.json)
    return 1 if missed(records) else 0


if __name__ == "__main__":
    sys.exit(main())
