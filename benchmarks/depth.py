"""What depth saves and costs on real models: `python benchmarks/depth.py [--quick]`.

Regions out of one network, chosen and refitted without training, beside identity and random
choice; what chooses them compared; latency beside MACs; the curve's cost in plain passes. Models
and images come from the zoo (REPSIMC_ZOO). Folds have figures of their own in folding.py, depth
beside sharing in joint.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from measuring import Round, run_cases
from records import Record, grid, missed
from shallow import Case, bytes_record, cost_record, criteria_records, run_case
from zoo import ZooMissingError, find_zoo

from repsimc.compiler.reports.table import print_grid

CASES = {
    "resnet44": Case("cifar10_resnet44", "cifar10", "class10", {5: 0.9, 7: 1.6, 10: 3.0}),
    "resnet32": Case("cifar10_resnet32", "cifar10", "class10", {3: 1.0}),
    "resnet20": Case("cifar10_resnet20", "cifar10", "class10", {1: 0.5}),
    "animal2": Case("sib_full_animal2", "cifar10", "animal2", {2: 0.4, 4: 1.5}),
    # Halves of blocks: two of six blocks are four of twelve halves.
    "vit": Case("fashion_vit6_class10", "fashion", "class10", {4: 1.0}),
}
QUICK = ("resnet20", "vit")
COST_FRAMES = 1024
# What chooses regions is compared with so many out, for each of these networks.
CRITERIA = {"resnet44": 7, "resnet20": 2}
CRITERIA_SEEDS = 4
OTHERS = ("bytes", "cost", "criteria")
BYTES = "75%"
RANDOM_SEEDS = 2


def run(name: str, round_: Round) -> list[Record]:
    """The records of a case."""
    if name == "cost":
        return [cost_record(CASES["resnet44"], round_, COST_FRAMES)]
    if name == "bytes":
        return [bytes_record(CASES["resnet44"], round_, BYTES)]
    if name == "criteria":
        records: list[Record] = []
        for case, pick in CRITERIA.items():
            records += criteria_records(CASES[case], round_, pick, CRITERIA_SEEDS)
        return records
    return run_case(CASES[name], round_, 0 if round_.quick else RANDOM_SEEDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    asked = parser().parse_args(arguments)
    try:
        zoo = find_zoo()
    except ZooMissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names: list[str] = asked.case or [*CASES, *OTHERS]
    with tempfile.TemporaryDirectory(prefix="repsimc-benchmark-") as scratch:
        round_ = Round(asked.quick, Path(scratch), zoo)
        skipped = set(names) - set(QUICK) if asked.quick and not asked.case else ()
        cases = {name: partial(run, name, round_) for name in names}
        records, broken = run_cases(cases, skipped, asked.json)
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
