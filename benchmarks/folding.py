"""What folding saves on networks that have something to fold: `python benchmarks/folding.py`.

Exact folds must not move an output by more than 1e-5 and must remove operators; inexact ones are
planned on unlabelled frames and judged by accuracy. No zoo is needed; torch and scikit-learn are,
to train the two networks (`digit_nets`), or any models given to `exact_records`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from digit_nets import Digits, digits, near_one, over_wide
from numpy.typing import NDArray
from records import Record, figure, grid, missed, write_records

from repsimc.compiler.analysis.activations import measure_statistics
from repsimc.compiler.analysis.cost import program_cost
from repsimc.compiler.analysis.reconstruction import Reference
from repsimc.compiler.analysis.ties import measure_ties
from repsimc.compiler.frontends.onnx import import_model
from repsimc.compiler.graph.export import to_proto
from repsimc.compiler.graph.program import Program, Source
from repsimc.compiler.planning.fold_sites import FoldSite, find_fold_sites
from repsimc.compiler.reports.table import print_grid
from repsimc.passes.pipeline import CLEANING, EXACT, passes_of, run_passes

Array = NDArray[Any]
# Expected damage (share of variance) up to which an inexact site is taken.
MOST_DAMAGE = 0.02
_NEEDED = ("torch", "sklearn")


@dataclass(frozen=True)
class OneInput:
    """Frames for a model of one input, batch by batch."""

    value: str
    frames: Array
    batch: int = 64

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def batches(self, values: Sequence[str]) -> Any:
        """Arrays for the input, if it is asked for."""
        for start in range(0, self.count, self.batch):
            rows = self.frames[start : start + self.batch]
            yield {self.value: rows} if not values or self.value in values else {}


def fold_records(quick: bool = False) -> list[Record]:
    """The figures of both networks; one that says why where they cannot be trained."""
    lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        why = f"{' and '.join(lacking)} not installed"
        return [figure("fold/skipped", None, "", None, why)]
    data = digits()
    epochs = 16 if quick else 30
    found: list[Record] = []
    for name, train in (("near one", near_one), ("over-wide", over_wide)):
        found += network_records(f"fold/{name}", train(data, epochs), data)
    return found


def network_records(case: str, model: onnx.ModelProto, data: Digits) -> list[Record]:
    """Exact folds beside the original, and inexact ones beside both."""
    original = program_of(model)
    program = original.copy()
    run_passes(program, EXACT)
    images, labels = data.judged
    found = exact_records(case, original, program, images)
    before = accuracy(original, images, labels)
    frames = OneInput(next(iter(original.models["net"].inputs.values())), data.frames)
    start = time.perf_counter()
    folded, taken = fold_inexactly(program, frames)
    seconds = time.perf_counter() - start
    after = accuracy(folded, images, labels)
    kinds = ", ".join(str(site.action) for site in taken) or "nothing"
    found += [
        figure(f"{case}/inexact, change of accuracy", 100 * (after - before), "points",
               None, f"from {100 * before:.2f} %; {kinds}"),
        figure(f"{case}/inexact, nodes", len(folded.graph.nodes), "nodes", None,
               f"exact {len(program.graph.nodes)}, original {len(original.graph.nodes)}"),
        *ratios(f"{case}/inexact", original, folded),
        figure(f"{case}/inexact, planning and fitting", seconds, "s"),
    ]  # fmt: skip
    return found


def exact_records(case: str, original: Program, program: Program, images: Array) -> list[Record]:
    """What the exact passes did: outputs, operators, MACs, weights, time of one frame."""
    moved = largest_change(original, program, images)
    removed = len(original.graph.nodes) - len(program.graph.nodes)
    slow, fast = latencies([original, program], images[:1])
    return [
        figure(f"{case}/exact, largest change of an output", moved, "", "<= 1e-5"),
        figure(f"{case}/exact, operators removed", removed, "nodes", ">= 1",
               f"{len(original.graph.nodes)} -> {len(program.graph.nodes)}"),
        *ratios(f"{case}/exact", original, program),
        figure(f"{case}/exact, latency", fast / slow, "ratio", None,
               f"one frame, one thread, {1e6 * slow:.0f} -> {1e6 * fast:.0f} us"),
    ]  # fmt: skip


def ratios(case: str, original: Program, program: Program) -> list[Record]:
    """MACs and weight bytes, as shares of the original's."""
    one, other = program_cost(original), program_cost(program)
    return [
        figure(f"{case}, MACs", other.macs / one.macs, "share", None,
               f"{one.macs} -> {other.macs}"),
        figure(f"{case}, weights", other.weights_nbytes / one.weights_nbytes, "share", None,
               f"{one.weights_nbytes} -> {other.weights_nbytes} bytes"),
    ]  # fmt: skip


def fold_inexactly(program: Program, frames: OneInput) -> tuple[Program, list[FoldSite]]:
    """The program after all sites of little expected damage, the mildest first."""
    models = list(program.models)
    statistics = measure_statistics(program, frames, models)
    ties = measure_ties(program, frames, models)
    found = find_fold_sites(program, statistics, ties)
    taken = list[FoldSite]()
    values: set[str] = set()
    for site in found.sites:
        named = {str(name) for name in _names(site.action.to_json())}
        if site.damage <= MOST_DAMAGE and not named & values:
            taken.append(site)
            values |= named
    folded = program.copy()
    reference = Reference(program, frames)
    run_passes(folded, passes_of([site.action for site in taken], lambda action: reference))
    run_passes(folded, CLEANING)
    return folded, taken


def _names(entry: Mapping[str, Any]) -> list[Any]:
    return [
        name
        for key in ("value", "given", "earlier", "nodes")
        if key in entry
        for name in (entry[key] if isinstance(entry[key], list) else [entry[key]])
    ]


def program_of(model: onnx.ModelProto) -> Program:
    """A program of the one model, called 'net'."""
    return import_model(model, "net", Source(Path("net.onnx"), 0, "0" * 64))


def session(program: Program) -> ort.InferenceSession:
    """The program in ONNX Runtime, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    content = to_proto(program).SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def scores(program: Program, images: Array) -> Array:
    """The outputs for all images."""
    ready = session(program)
    return np.asarray(ready.run(None, {ready.get_inputs()[0].name: images})[0])


def accuracy(program: Program, images: Array, labels: Array) -> float:
    """Share of images whose highest score is the label's."""
    return float((scores(program, images).argmax(axis=1) == labels).mean())


def largest_change(original: Program, program: Program, images: Array) -> float:
    """The largest difference of any output."""
    return float(np.abs(scores(original, images) - scores(program, images)).max())


def latencies(programs: Sequence[Program], image: Array, turns: int = 400) -> list[float]:
    """Median seconds of one run of each, in turn, so that all meet the same disturbances."""
    ready = [session(program) for program in programs]
    feeds = [{one.get_inputs()[0].name: image} for one in ready]
    taken: list[list[float]] = [[] for _ in ready]
    for _ in range(turns):
        for one, feed, seconds in zip(ready, feeds, taken):
            start = time.perf_counter()
            one.run(None, feed)
            seconds.append(time.perf_counter() - start)
    return [float(np.median(seconds)) for seconds in taken]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    parser = argparse.ArgumentParser(description="What folding saves on two trained networks.")
    parser.add_argument("--quick", action="store_true", help="train for fewer epochs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    asked = parser.parse_args(arguments)
    found = fold_records(asked.quick)
    if asked.json is not None:
        write_records(found, asked.json)
    print_grid(grid(found, ""))
    return 1 if asked.strict and missed(found) else 0


if __name__ == "__main__":
    sys.exit(main())
