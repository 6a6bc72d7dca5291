"""What folding saves on networks that have something to fold: `python benchmarks/folding.py`.

All of it by `repsimc compile`. Exact folds must not move an output by more than 1e-5 and must
remove operators; inexact ones are planned on unlabelled frames and judged by accuracy. No zoo is
needed; torch and scikit-learn are, to train the two networks (`digit_nets`), or any models given to
`network_records`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from digit_nets import Digits, digits, near_one, over_wide
from numpy.typing import NDArray
from records import Record, figure, grid, missed, write_records

from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.errors import BudgetError
from repsimc.compiler.frontends.onnx import import_model
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.graph.export import to_proto
from repsimc.compiler.graph.program import Program, Source
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.reports.table import print_grid
from repsimc.compiler.structure.cost import program_cost
from repsimc.compiler.units import MacsLimit

Array = NDArray[Any]
# What the inexact plan may leave of the multiply-accumulates that the exact folds left.
MACS_LEFT = 0.8
MIN_FIDELITY = 0.95
_NEEDED = ("torch", "sklearn")


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
    """What `repsimc compile` makes of a network: exactly, for free on the frames, and under a
    budget of multiply-accumulates."""
    images, labels = data.judged
    found: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="repsimc-benchmark-") as scratch:
        path = Path(scratch) / "net.onnx"
        onnx.save(model, path)
        original = read_model(path, "net")
        before = accuracy(original, images, labels)
        exact = compiled(path, exact_only=True).program
        found += exact_records(case, original, exact, images)
        limit = MacsLimit(count=int(MACS_LEFT * program_cost(exact).macs))
        for title, wishes in (("free", {}), ("inexact", {"max_macs": limit})):
            start = time.perf_counter()
            try:
                result = compiled(path, calibration=data.frames, **wishes)
            except BudgetError as error:
                found.append(figure(f"{case}/{title}, refused", None, "", None, error.message))
                continue
            seconds = time.perf_counter() - start
            after = accuracy(result.program, images, labels)
            kinds = "; ".join(str(planned.action) for planned in result.plan.actions)
            found += [
                figure(f"{case}/{title}, change of accuracy", 100 * (after - before), "points",
                       None, f"from {100 * before:.2f} %; {kinds or 'nothing inexact'}"),
                figure(f"{case}/{title}, nodes", len(result.program.graph.nodes), "nodes", None,
                       f"exact {len(exact.graph.nodes)}, original {len(original.graph.nodes)}"),
                *ratios(f"{case}/{title}", original, result.program),
                figure(f"{case}/{title}, compilation", seconds, "s"),
            ]  # fmt: skip
    return found


def compiled(path: Path, **wishes: Any) -> CompileResult:
    """The model compiled as `repsimc compile` does, nothing written."""
    options = CompileOptions(models=(("net", path),), min_fidelity=MIN_FIDELITY, **wishes)
    return compile_models(options)


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
