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
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from measuring import NOT_QUICK, Round
from records import Record, figure, grid, missed, write_records
from shallow import Case, cost_record, criteria_records, run_case
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
OTHERS = ("cost", "criteria")
RANDOM_SEEDS = 2


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
