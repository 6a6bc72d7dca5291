"""The TensorRT figures: `python benchmarks/tensorrt.py [--json FILE] [--only gate|segments|gpu]`.

gate      every example and zoo model through the TensorRT-RTX compile gate, apart and merged,
          twice, in float32 and half precision; its bytes beside the predicted ones. No GPU needed.
segments  `trunk-heads` beside `merged` on ONNX Runtime: outputs, MACs, time of one model of four.
gpu       on a machine with a GPU: plans loaded and run, parity, latency, memory (`engines_on_gpu`).

TensorRT-RTX is the extra `rtx`; the zoo is found by REPSIMC_ZOO. What is missing is told in the
record, whose value is then none.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

import numpy as np  # noqa: E402
from engines_on_gpu import run_gpu  # noqa: E402
from records import Record, figure, grid, missed, write_records  # noqa: E402
from zoo import Zoo, ZooMissingError, find_zoo  # noqa: E402

from repsimc.compiler.driver import compile_models  # noqa: E402
from repsimc.compiler.options import CompileOptions  # noqa: E402
from repsimc.compiler.reports.table import print_grid  # noqa: E402
from repsimc.compiler.units import parse_budget  # noqa: E402
from repsimc.runtime.errors import RepsimcError  # noqa: E402
from repsimc.runtime.session import load  # noqa: E402
from repsimc.runtime.tensorrt.building import BuildOptions  # noqa: E402
from repsimc.runtime.tensorrt.gate import (  # noqa: E402
    MODULE,
    GateEngine,
    gate_graph,
    run_gate,
)
from repsimc.runtime.wire import GraphFile  # noqa: E402

DIGITS = HERE.parent / "examples" / "digits"
PARTS = ("gate", "segments", "gpu")


@dataclass(frozen=True)
class Set_:
    """Models that are compiled into one bundle, and how."""

    name: str
    models: tuple[tuple[str, Path], ...]
    budget: str | None = None
    calibration: Path | None = None


class Silent:
    """Nobody looks."""

    def stage(self, title: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, n: int = 1) -> None:
        """Nothing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    asked = parser().parse_args(arguments)
    # This file is called as a module that child processes look for.
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != HERE]
    try:
        zoo: Zoo | None = find_zoo()
    except ZooMissingError as error:
        print(f"warning: {error}; only the shipped example is measured", file=sys.stderr)
        zoo = None
    records: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="repsimc-benchmark-") as name:
        scratch = Path(name)
        work: dict[str, Callable[[], list[Record]]] = {
            "gate": lambda: gate(sets(zoo), scratch),
            "segments": lambda: segments(zoo, scratch),
            "gpu": lambda: run_gpu(scratch, sets(zoo)[:3], compiled, asked.runs),
        }
        for part in asked.only or PARTS:
            start = time.perf_counter()
            records += work[part]()
            print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
            if asked.json is not None:
                write_records(records, asked.json)
    print_grid(grid(records, "TensorRT"))
    return 1 if asked.strict and missed(records) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description="The TensorRT figures.")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    found.add_argument("--only", nargs="+", choices=PARTS, help="only these parts")
    found.add_argument("--runs", type=int, default=200, help="timed runs on a GPU")
    found.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    return found


def sets(zoo: Zoo | None) -> list[Set_]:
    """The bundles that are measured: the example, shared by similarity too, and the zoo's."""
    names = ("digit", "parity", "digit_deep")
    digits = tuple((name, DIGITS / f"{name}.onnx") for name in names)
    found = [
        Set_("digits", digits),
        Set_("digits, 60 %", digits, "60%", DIGITS / "frames.npz"),
    ]
    if zoo is None:
        return found

    def of(*names: str) -> tuple[tuple[str, Path], ...]:
        return tuple((Path(name).stem, zoo.model(name)) for name in names)

    detectors = sorted(
        f"detect/{path.stem}" for path in (zoo.root / "models" / "detect").glob("*.onnx")
    )
    stems = sorted(path.stem for path in (zoo.root / "models").glob("*.onnx"))
    return [
        *found,
        Set_("frozen siblings", of(*(s for s in stems if "frozen_" in s or "head_" in s))),
        Set_("all classifiers of CIFAR size", of(*(s for s in stems if "fashion" not in s))),
        Set_("transformers", of(*(s for s in stems if "fashion" in s))),
        Set_("detectors", of(*detectors)),
    ]


def compiled(models: Set_, output: Path) -> Path:
    """The bundle of a set, with a graph in half precision."""
    options = CompileOptions(
        models=models.models,
        budget=None if models.budget is None else parse_budget(models.budget),
        calibration=models.calibration,
        exact_only=models.budget is None,
        precision="fp16",
        output=output,
        tie_inputs=True,
    )
    compile_models(options)
    return output


# -- the gate ----------------------------------------------------------------------------


def gate(found: list[Set_], scratch: Path) -> list[Record]:
    """Apart and merged through TensorRT-RTX: accepted, same bytes twice, bytes as predicted."""
    if importlib.util.find_spec(MODULE) is None:
        return [figure("gate", None, "", None, "TensorRT-RTX is not installed: extra rtx")]
    records: list[Record] = []
    accepted: dict[str, bool] = {}
    for models in found:
        for name, path in models.models:
            if name not in accepted:
                accepted[name], record = apart(name, path)
                records.append(record)
        if not all(accepted[name] for name, _ in models.models):
            records.append(figure(f"{models.name}/merged", None, "", None, "not accepted apart"))
            continue
        bundle = compiled(models, scratch / f"gate{len(records)}")
        for layout, precision in (
            ("merged", "fp32"),
            ("merged", "fp16"),
            ("trunk-heads", "fp32"),
        ):
            records += merged(models.name, bundle, layout, precision)
    return records


def apart(name: str, path: Path) -> tuple[bool, Record]:
    """Whether a model is accepted by itself, and the record that says so."""
    file = GraphFile(path.read_bytes())
    profile: dict[str, list[list[int]]] = {}
    for value in file.inputs:
        shape = file.shape(value) or ()
        if any(not isinstance(size, int) for size in shape):
            profile[value] = [[size if isinstance(size, int) else 1 for size in shape]] * 3
    try:
        engine = gate_graph(path, profile)
    except RepsimcError as error:
        return False, figure(f"{name}/apart", 0, "engines", None, error.message[:200])
    return engine.same_bytes, figure(f"{name}/apart", 1, "engines", None, said([engine]))


def merged(name: str, bundle: Path, layout: str, precision: str) -> list[Record]:
    """A bundle through the gate: accepted, and its bytes by the predicted ones."""
    title = f"{name}/{layout}, {precision}"
    try:
        engines = run_gate(bundle, BuildOptions(layout, precision), Silent()).engines
    except RepsimcError as error:
        return [figure(f"{title}/accepted", 0, "engines", "== 1", error.message[:200])]
    same = all(engine.same_bytes for engine in engines)
    records = [figure(f"{title}/accepted, twice the same", float(same), "", "== 1", said(engines))]
    for what, bar in (("weights", 0.1), ("activations", 0.3)):
        pairs = [
            (getattr(e, f"{what}_nbytes"), getattr(e, f"predicted_{what}_nbytes")) for e in engines
        ]
        if any(a is None or not b for a, b in pairs):
            continue
        reported, predicted = (sum(column) for column in zip(*pairs))
        records.append(
            figure(
                f"{title}/{what}, predicted against reported",
                abs(predicted / reported - 1),
                "share",
                f"<= {bar}" if layout == "merged" else None,
                f"{predicted} and {reported} bytes",
            )
        )
    return records


def said(engines: Sequence[GateEngine]) -> str:
    """Engines in a line: how many, plan bytes, weights, activations, seconds."""
    plans = sum(engine.plan_nbytes for engine in engines)
    weights = sum(engine.weights_nbytes or 0 for engine in engines)
    activations = max(engine.activations_nbytes or 0 for engine in engines)
    seconds = sum(engine.seconds for engine in engines)
    return (
        f"{len(engines)} engine(s), plans {plans} B, weights {weights} B, "
        f"activations {activations} B, built in {seconds:.1f} s"
    )


# -- segments ----------------------------------------------------------------------------


def segments(zoo: Zoo | None, scratch: Path) -> list[Record]:
    """One model of four by its segments: equal outputs, its share of MACs, its share of time."""
    if zoo is None:
        return [figure("segments", None, "", None, "no zoo")]
    names = ("cifar10_resnet20", "sib_head_animal2", "sib_frozen_bright4", "sib_frozen_habitat4")
    models = Set_("four", tuple((name, zoo.model(name)) for name in names))
    path = compiled(models, scratch / "segments")
    manifest = load(path).manifest
    one = names[2]
    total = sum(segment.macs for segment in manifest.segments)
    own = sum(segment.macs for segment in manifest.segments if one in segment.models)
    frame = zoo.frames("cifar10", "dev4000", 64)
    batch = frame[:1]
    with (
        load(path).session(layout="merged", threads=1) as whole,
        load(path).session(layout="trunk-heads", threads=1) as cut,
    ):
        expected, found = whole.run(frame), cut.run(frame)
        furthest = max(
            float(np.abs(expected[m][o] - found[m][o]).max()) for m in expected for o in expected[m]
        )
        alone = cut.run(frame, one)[one]
        furthest = max(furthest, *(float(np.abs(alone[o] - expected[one][o]).max()) for o in alone))
        times: dict[str, list[float]] = {"one": [], "cut": [], "whole": []}
        for turn in range(220):  # in turns, so that whatever else runs slows all down
            for key, run in (
                ("one", lambda: cut.run(batch, one)),
                ("cut", lambda: cut.run(batch)),
                ("whole", lambda: whole.run(batch)),
            ):
                start = time.perf_counter()
                run()
                if turn >= 20:
                    times[key].append(time.perf_counter() - start)
    p50 = {key: statistics.median(seconds) for key, seconds in times.items()}
    ms = ", ".join(f"{key} {1e3 * seconds:.2f} ms" for key, seconds in p50.items())
    listed = "; ".join(f"{s.name}: {s.macs} MACs" for s in manifest.segments)
    return [
        figure("segments/largest difference from merged", furthest, "", "<= 1e-5", "64 frames"),
        figure("segments/MACs of one model by all", own / total, "share", "<= 0.999", listed),
        figure(
            "segments/time of one model by all, cut", p50["one"] / p50["cut"], "ratio", None, ms
        ),
        figure("segments/time cut by whole", p50["cut"] / p50["whole"], "ratio", None, ms),
    ]


if __name__ == "__main__":
    sys.exit(main())
