"""Sharing and depth in one plan, beside each alone: `python benchmarks/joint.py [--quick]`.

Three networks under one budget of weight bytes: by both means, by sharing alone, by depth alone.
What each model loses on labelled frames, which means the plan uses, and what compiling takes. A
means that cannot reach the bytes within the fidelity floor gets a lower floor, and the table says
so. Models and images come from the zoo (REPSIMC_ZOO).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from classifiers import Classifiers, verification, worst_change
from measuring import Round, Timed, cost_records, run_cases, save_frames, timed_compile
from records import Record, figure, grid, missed
from zoo import ZooMissingError, find_zoo

from repsimc.compiler.options import DEFAULT_FLOOR
from repsimc.compiler.reports.table import print_grid

TASKS = {
    "cifar10_resnet20": "class10",
    "cifar10_resnet44": "class10",
    "sib_full_animal2": "animal2",
}


@dataclass(frozen=True)
class Case:
    """A budget of weight bytes, and the most points that any model may lose within it."""

    budget: str
    points: float | None = None


CASES = {"joint": Case("25%", 1.5), "roomy": Case("40%")}
QUICK = ("joint",)
MEANS = (None, "share", "depth")
# Floors to try one after another until the bytes are reached.
FLOORS = (DEFAULT_FLOOR, 0.9, 0.0)


@dataclass(frozen=True)
class Result:
    """What one means made of the budget: points lost by the worst model; None where it can't."""

    points: float | None
    records: list[Record]


def run_means(name: str, case: Case, only: str | None, round_: Round) -> Result:
    """Compile by the means `only` (None: both), at the highest floor that the bytes allow."""
    means = only or "both"
    title = f"{name}/worst points lost at {case.budget}, {means}"
    bar = None if case.points is None or only is not None else f"<= {case.points:g}"
    refusals: list[str] = []
    for floor in FLOORS:
        timed = compiled_with(name, case, only, floor, round_)
        found = timed.compiled
        if found.bundle is None or found.share is None:
            refusals.append(f"floor {floor:g}: {found.refusal.splitlines()[0]}")
            continue
        classifiers = Classifiers(f"{name}-{means}", "cifar10", TASKS, name)
        checked = verification(classifiers, round_, found)
        shutil.rmtree(found.bundle)
        lost = -worst_change(checked)
        accuracies = ", ".join(
            f"{item.model} {100 * (item.accuracy_original - item.accuracy_compiled):.2f}"
            for item in checked
            if item.accuracy_original is not None and item.accuracy_compiled is not None
        )
        kinds = Counter(str(action["kind"]) for action in found.plan["actions"])
        plan = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
        extra = f"{accuracies}; weights {100 * found.share:.1f} %; {plan}; floor {floor:g}"
        records = [figure(title, lost, "points", bar, extra)]
        if only is None:
            frames = round_.frames("cifar10")
            records += cost_records(f"{name}, {means}", timed, frames, False)
        return Result(lost, records)
    return Result(None, [figure(title, None, "points", bar, "; ".join(refusals))])


def compiled_with(name: str, case: Case, only: str | None, floor: float, round_: Round) -> Timed:
    """The compilation between two plain passes."""
    frames = round_.zoo.frames("cifar10", "calib2000", round_.frames("cifar10"))
    calibration = save_frames(round_.scratch / f"{name}.npz", frames)
    wishes: dict[str, Any] = {"budget": case.budget, "min_fidelity": floor, "only": only}
    models = [(model, round_.zoo.model(model)) for model in TASKS]
    output = round_.scratch / f"{name}-{only or 'both'}"
    timed = timed_compile(models, frames, output, calibration=calibration, **wishes)
    calibration.unlink()
    return timed


def run_case(name: str, case: Case, round_: Round) -> list[Record]:
    """The case by every means, and how far both together are ahead of the better one alone."""
    results = {
        only: run_means(name, case, only, round_)
        for only in MEANS
        if not (round_.quick and only == "depth")
    }
    records = [record for result in results.values() for record in result.records]
    both = results[None].points
    alone = [
        result.points for only, result in results.items() if only and result.points is not None
    ]
    title = f"{name}/points saved by both beside the better one alone"
    if both is None or not alone:
        return [*records, figure(title, None, "points", ">= 0", "one of them is missing")]
    return [*records, figure(title, min(alone) - both, "points", ">= 0")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    asked = parser().parse_args(arguments)
    try:
        zoo = find_zoo()
    except ZooMissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names: list[str] = asked.case or list(CASES)
    with tempfile.TemporaryDirectory(prefix="repsimc-benchmark-") as scratch:
        round_ = Round(asked.quick, Path(scratch), zoo)
        skipped = set(names) - set(QUICK) if asked.quick and not asked.case else ()
        cases: dict[str, Callable[[], list[Record]]] = {}
        for name in names:
            case = CASES[name]
            if asked.budget is not None:
                case = replace(case, budget=asked.budget, points=None)
            cases[name] = partial(run_case, name, case, round_)
        records, broken = run_cases(cases, skipped, asked.json)
    print_grid(grid(records, "the short round" if asked.quick else ""))
    return 1 if broken or (asked.strict and missed(records)) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description="Points of accuracy that three networks lose under one budget of weights: by "
        "sharing and depth together, and by each alone.",
        epilog="The zoo of models and images is found by REPSIMC_ZOO. Exit status: 0, also when a "
        "bar is missed; 1 when a case broke, or with --strict when a bar is missed; 2 without zoo.",
    )
    found.add_argument(
        "--quick", action="store_true", help="fewer frames, and depth alone is left out"
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    found.add_argument(
        "--case", nargs="+", choices=CASES, metavar="NAME", help=f"only {', '.join(CASES)}"
    )
    found.add_argument(
        "--budget", metavar="SHARE", help="another budget than the cases', such as 30%%"
    )
    found.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    return found


if __name__ == "__main__":
    sys.exit(main())
