"""What few bits save and cost: `python benchmarks/precision.py [--quick]`.

Compiles with --precision, and holds bytes, outputs on frames that no fit has seen, latency, memory
and the further cost of compiling against bars; beside each case ONNX Runtime's static quantiser on
the same frames, and weights rounded to the nearest. Models and frames come from the zoo
(REPSIMC_ZOO).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from beside_quantisers import (
    STATIC,
    Frames,
    Made,
    made_records,
    merged_records,
    missing,
    quantiser_records,
    sides,
)
from compiling import Compiled, Models, compiled
from deployed import write_frames
from measuring import NOT_QUICK, Round, run_cases
from plain_passes import Counted, counted_compile, passes_records
from planning import frames_of, models_of, plan_in_words, real, unjudged
from planning_cases import REAL
from planning_cases import Bars as PlanningBars
from planning_cases import Case as PlanningCase
from precision_cases import CASES, SHORT, Case
from records import Record, figure, grid, missed
from running import weights_memory
from static_quantiser import short
from zoo import ZooMissingError, find_zoo

from repsimc.compiler.reports.table import print_grid
from repsimc.runtime.errors import RepsimcError
from repsimc.runtime.session import load
from repsimc.runtime.tensorrt.building import BuildOptions
from repsimc.runtime.tensorrt.gate import MODULE, run_gate

HERE = Path(__file__).resolve().parent


class Silent:
    """Nobody looks."""

    def stage(self, title: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, n: int = 1) -> None:
        """Nothing."""


# -- one case --------------------------------------------------------------------------------------


def run_case(name: str, case: Case, round_: Round, ours: bool, others: bool) -> list[Record]:
    """Our compilation, where `ours` are asked for, and other quantisers, where `others` are."""
    planned = PlanningCase(case.tasks, case.family, case.wishes, PlanningBars(), case.frames)
    models = models_of(planned, round_)
    calibration = frames_of(name, planned, models, round_)
    frames = frames_for(case, models, calibration, round_)
    records: list[Record] = []
    if ours:
        output = round_.scratch / name
        counted = counted_compile(models, calibration, output, **case.wishes)
        records += result_records(name, case, models, counted.compiled, frames, round_)
        records += passes_records(name, counted)
        if round_.quick:
            records.append(figure(f"{name}/further passes", None, "passes", None, NOT_QUICK))
        else:
            records.append(further_record(name, case, models, calibration, counted, round_))
    if others:
        runs, scratch = round_.runs, round_.scratch
        records += quantiser_records(name, models, case.tasks, frames, case.plain, runs, scratch)
    if others and case.on_top:
        records += on_top_records(name, case, models, calibration, frames, round_)
    calibration.unlink()
    return records


def frames_for(case: Case, models: Models, calibration: Path, round_: Round) -> Frames:
    """The frames that were compiled with, those to judge by, and their labels."""
    with np.load(calibration, allow_pickle=False) as stored:
        fit = {key: stored[key] for key in stored.files}
    if case.family != REAL:
        dev = {"input": round_.zoo.frames(case.family, "dev4000", round_.judged)}
        return Frames(fit, dev, dict(round_.zoo.labels(case.family, "dev4000", round_.judged)))
    path = round_.scratch / "dev.npz"
    write_frames(models[0][1], real(round_), "dev", path)
    with np.load(path, allow_pickle=False) as stored:
        dev = {key: stored[key] for key in stored.files}
    path.unlink()
    return Frames(fit, dev, {})


def bars_of(case: Case) -> dict[str, str]:
    """The bars of a case by the figures that they are of."""
    bars = case.bars
    asked = (
        ("weights", "<=", bars.share),
        ("weights in 8 bits or fewer", ">=", bars.eight),
        ("variance explained", ">=", bars.explained),
        ("points lost", "<=", bars.points),
        ("latency", "<=", bars.latency),
        ("memory of the weights' part", "<=", bars.memory),
    )
    return {what: f"{sign} {bar:g}" for what, sign, bar in asked if bar is not None}


def result_records(
    name: str, case: Case, models: Models, found: Compiled, frames: Frames, round_: Round
) -> list[Record]:
    """What the plan leaves of bytes and outputs, and how the written graph runs.

    Each bar is missed where there is no plan.
    """
    bars = bars_of(case)
    if found.bundle is None:
        units = {"points lost": "points", "variance explained": ""}
        return [
            figure(f"{name}/{what}", None, units.get(what, "ratio"), bar, found.refusal)
            for what, bar in bars.items()
        ]
    share = figure(
        f"{name}/weights", found.share, "ratio", bars.get("weights"), plan_in_words(found)
    )
    made = made_of(models, found.bundle)
    records = [
        share,
        *made_records(
            name, made, case.tasks, frames, round_.runs, round_.scratch, "as written", bars
        ),
        memory_record(name, made, frames, round_, bars.get("memory of the weights' part")),
        gate_record(name, found.bundle),
    ]
    shutil.rmtree(found.bundle)
    return records


def made_of(models: Models, bundle: Path) -> list[Made]:
    """The bundle's graph as the file of each of its models."""
    manifest = load(bundle).manifest
    paths = dict(models)
    return [
        Made(
            entry.name,
            paths[entry.name],
            bundle / manifest.graph,
            {spec.name: spec.value for spec in (*entry.inputs, *entry.outputs)},
        )
        for entry in manifest.models
    ]


def memory_record(
    name: str, made: Sequence[Made], frames: Frames, round_: Round, bar: str | None
) -> Record:
    """Resident memory of the weights' part by that of the models apart."""
    title = f"{name}/memory of the weights' part"
    ours, apart = sides(made, frames.dev)
    try:
        ratio, said = weights_memory(ours, apart, round_.times, round_.scratch)
    except RuntimeError as error:
        return figure(title, None, "ratio", bar, short(error))
    return figure(title, ratio, "ratio", bar, said)


def gate_record(name: str, bundle: Path) -> Record:
    """Whether TensorRT-RTX builds the bundle, twice to the same bytes."""
    title = f"{name}/TensorRT-RTX builds it, twice the same"
    if importlib.util.find_spec(MODULE) is None:
        return figure(title, None, "", None, "TensorRT-RTX is not installed: extra rtx")
    try:
        with without_this_folder():
            engines = run_gate(bundle, BuildOptions(), Silent()).engines
    except RepsimcError as error:
        return figure(title, 0, "", "== 1", error.message[:200])
    return figure(title, float(all(one.same_bytes for one in engines)), "", "== 1")


@contextmanager
def without_this_folder() -> Iterator[None]:
    """A file here is called as a module that the gate's child processes look for."""
    before = list(sys.path)
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != HERE]
    try:
        yield
    finally:
        sys.path[:] = before


def further_record(
    name: str, case: Case, models: Models, calibration: Path, counted: Counted, round_: Round
) -> Record:
    """Passes of the compilation beside those of one in float."""
    title = f"{name}/further passes"
    bar = None if case.bars.further is None else f"<= {case.bars.further:g}"
    if counted.compiled.refusal:
        return figure(title, None, "passes", bar, counted.compiled.refusal)
    output = round_.scratch / f"{name}-float"
    plain = counted_compile(models, calibration, output, **case.float_wishes)
    shutil.rmtree(output, ignore_errors=True)
    if plain.compiled.refusal:
        return figure(title, None, "passes", bar, f"in float: {plain.compiled.refusal}")
    said = f"{counted.passes:.1f}, in float {plain.passes:.1f}"
    return figure(title, counted.passes - plain.passes, "passes", bar, said)


def on_top_records(
    name: str, case: Case, models: Models, calibration: Path, frames: Frames, round_: Round
) -> list[Record]:
    """ONNX Runtime's static quantiser on what we merged in float."""
    title = f"{name}/{STATIC} on top of our bundle"
    bundle = round_.scratch / f"{name}-merged"
    found = compiled(models, bundle, calibration=calibration, **case.on_top)
    if found.bundle is None:
        return [missing(title, case.tasks, found.refusal)]
    made = made_of(models, found.bundle)
    records = merged_records(title, made, case.tasks, frames, round_.runs, round_.scratch)
    shutil.rmtree(bundle)
    return records


# -- the command -----------------------------------------------------------------------------------


def jobs(round_: Round, ours: bool, others: bool) -> dict[str, Callable[[], list[Record]]]:
    """All cases by name, those of the short round last."""
    found: dict[str, Callable[[], list[Record]]] = {
        name: partial(run_case, name, case, round_, ours, others)
        for name, case in {**CASES, **SHORT}.items()
    }
    if round_.quick:
        return {name: partial(unjudged, job) for name, job in found.items()}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    asked = parser().parse_args(arguments)
    try:
        zoo = find_zoo()
    except ZooMissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="repsimc-benchmark-") as scratch:
        # What compilations keep for those that resume is neither taken from the user nor left.
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "cache")
        round_ = Round(asked.quick, Path(scratch), zoo)
        every = jobs(round_, asked.only != "others", asked.only != "ours")
        names: list[str] = asked.case or list(SHORT if asked.quick else CASES)
        records, broken = run_cases({name: every[name] for name in names}, (), asked.json)
    print_grid(grid(records, "the short round" if asked.quick else ""))
    return 1 if broken or (asked.strict and missed(records)) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description="What few bits save and cost, beside other quantisers.",
        epilog="The zoo of models and images is found by REPSIMC_ZOO. Exit status: 0, also when a "
        "bar is missed; 1 when a case broke, or with --strict when a bar is missed; 2 without zoo.",
    )
    found.add_argument(
        "--quick", action="store_true", help="a minute: few frames, no bars, and short cases alone"
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    names = [*CASES, *SHORT]
    found.add_argument(
        "--case", nargs="+", choices=names, metavar="NAME", help=f"only {', '.join(names)}"
    )
    found.add_argument(
        "--only", choices=("ours", "others"), help="only our compilations, or other quantisers"
    )
    found.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    return found


if __name__ == "__main__":
    sys.exit(main())
