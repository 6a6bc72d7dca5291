"""What depth saves and costs on real models: `python benchmarks/depth.py [--quick]`.

Regions out of one network, chosen and refitted without training, beside identity and random
choice; what chooses them compared; latency beside MACs; the curve's cost in plain passes; and
three networks under one budget by sharing, by depth, by both.
Models and images come from the zoo (REPSIMC_ZOO). Folds have figures of their own: folding.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from measuring import NOT_QUICK, Round
from records import Record, figure, grid, missed, write_records
from shallow import Case, Shallow, cost_record, criteria_records, model_paths, run_case
from zoo import ZooMissingError, find_zoo

from repsimc.compiler.analysis.execution import Segment
from repsimc.compiler.driver import compile_models
from repsimc.compiler.errors import BudgetError
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.reports.table import print_grid
from repsimc.compiler.units import parse_budget

CASES = {
    "resnet44": Case("cifar10_resnet44", "cifar10", "class10", {5: 0.9, 7: 1.6, 10: 3.0}),
    "resnet32": Case("cifar10_resnet32", "cifar10", "class10", {3: 1.0}),
    "resnet20": Case("cifar10_resnet20", "cifar10", "class10", {1: 0.5}),
    "animal2": Case("sib_full_animal2", "cifar10", "animal2", {2: 0.4, 4: 1.5}),
    # Halves of blocks: two of six blocks are four of twelve halves.
    "vit": Case("fashion_vit6_class10", "fashion", "class10", {4: 1.0}),
}
QUICK = ("resnet20", "vit")
TOGETHER = {
    "cifar10_resnet20": "class10",
    "cifar10_resnet44": "class10",
    "sib_full_animal2": "animal2",
}
COST_FRAMES = 1024
# What chooses regions is compared with so many out, for each of these networks.
CRITERIA = {"resnet44": 7, "resnet20": 2}
CRITERIA_SEEDS = 4
OTHERS = ("cost", "criteria", "together")
# Agreement on training frames, which the nets are surer of than of others.
TOGETHER_FLOOR = 0.97
RANDOM_SEEDS = 2


def run_together(round_: Round) -> list[Record]:
    """Three models in a quarter of their weights: the worst model's loss by each means."""
    x = round_.zoo.frames("cifar10", "calib2000", round_.frames("cifar10"))
    judges = {
        name: Shallow(Case(name, "cifar10", task, {}), round_) for name, task in TOGETHER.items()
    }
    records: list[Record] = []
    for only in (None, "share", "depth"):
        bar = "<= 1.5" if only is None else None
        title = f"together/worst points lost at 25 %, {only or 'both'}"
        options = CompileOptions(
            models=tuple(model_paths(round_, list(TOGETHER))),
            budget=parse_budget("25%"),
            calibration=x,
            min_fidelity=TOGETHER_FLOOR,
            output=None,
            only=only,
        )
        try:
            result = compile_models(options)
        except BudgetError as error:
            why = error.message.splitlines()[0]
            records.append(figure(title, None, "points", bar, f"refused: {why}"))
            continue
        lost: dict[str, float] = {}
        for name, judge in judges.items():
            outputs = list(result.program.models[name].outputs.values())
            segment = Segment(result.program, None, outputs)
            right = 0
            for start in range(0, len(judge.judged), 100):
                batch = judge.judged[start : start + 100]
                scores = segment(dict.fromkeys(segment.inputs, batch))[0]
                right += int((scores.argmax(-1) == judge.truth[start : start + 100]).sum())
            lost[name] = judge.base - 100 * right / len(judge.judged)
        kinds = [type(planned.action).__name__ for planned in result.plan.actions]
        extra = ", ".join(f"{name} {value:.2f}" for name, value in lost.items())
        share = result.report.weights_after_nbytes / result.report.weights_before_nbytes
        counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
        remark = f"{extra}; weights {100 * share:.1f} %, {counts}"
        records.append(figure(title, float(np.max(list(lost.values()))), "points", bar, remark))
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    asked = parser().parse_args(arguments)
    try:
        zoo = find_zoo()
    except ZooMissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    records: list[Record] = []
    broken = False
    with tempfile.TemporaryDirectory(prefix="repsimc-benchmark-") as scratch:
        round_ = Round(asked.quick, Path(scratch), zoo)
        for name in asked.case or [*CASES, *OTHERS]:
            if asked.quick and name not in QUICK and not asked.case:
                records.append(figure(f"{name}/skipped", None, "", None, NOT_QUICK))
                continue
            begun = time.perf_counter()
            try:
                if name == "cost":
                    records.append(cost_record(CASES["resnet44"], round_, COST_FRAMES))
                elif name == "criteria":
                    for case, pick in CRITERIA.items():
                        records += criteria_records(CASES[case], round_, pick, CRITERIA_SEEDS)
                elif name == "together":
                    records += run_together(round_)
                else:
                    records += run_case(CASES[name], round_, 0 if asked.quick else RANDOM_SEEDS)
            except Exception:  # one case that breaks must not lose what the others found
                traceback.print_exc()
                broken = True
                records.append(figure(f"{name}/finished", 0, "", "== 1", "see standard error"))
            print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
            if asked.json is not None:
                write_records(records, asked.json)
    print_grid(grid(records, "the short round" if asked.quick else ""))
    return 1 if broken or (asked.strict and missed(records)) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description="Accuracy, MACs and latency of networks with regions out, without training.",
        epilog="The zoo of models and images is found by REPSIMC_ZOO. Exit status: 0, also when a "
        "bar is missed; 1 when a case broke, or with --strict when a bar is missed; 2 without zoo.",
    )
    found.add_argument("--quick", action="store_true", help="a minute: fewer frames and cases")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    names = [*CASES, *OTHERS]
    found.add_argument(
        "--case", nargs="+", choices=names, metavar="NAME", help=f"only {', '.join(names)}"
    )
    found.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    return found


if __name__ == "__main__":
    sys.exit(main())
