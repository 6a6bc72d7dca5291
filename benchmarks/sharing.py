"""What sharing saves and costs on real models: `python benchmarks/sharing.py [--quick]`.

Weights, accuracy, latency, memory and compile time, merged beside apart, each beside its bar.
Models and images come from the zoo (REPSIMC_ZOO); all but the case `memory` need it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from classifiers import run_exact, run_related, run_transformers, run_wide
from detectors import run_detectors
from independent import run_independent
from measuring import NOT_QUICK, Outcome, Round, Row
from records import figure, grid, missed, write_records
from siblings import run_memory
from zoo import Zoo, ZooMissingError, find_zoo

from repsimc.compiler.reports.table import Column, Grid, markdown, print_grid
from repsimc.compiler.units import format_bytes

CASES: dict[str, Callable[[Round], Outcome]] = {
    "exact": run_exact,
    "related": run_related,
    "wide": run_wide,
    "independent": run_independent,
    "transformers": run_transformers,
    "detectors": run_detectors,
    "memory": run_memory,
}
NEED_NO_ZOO = ("memory",)
# Too long for the short round, which says so.
ONLY_FULL = ("wide", "independent", "memory")

CAPTION = (
    "Shares are of the models apart. Latency is of one frame through all models on one thread. "
    "Accuracy in points, on 4 000 test images; the compiler saw 2 000 others, without labels. "
    "Measured on 2 cores with `python benchmarks/sharing.py --markdown`."
)
CURVE = (
    "How deep can it go? resnet44's accuracy in percent, its first blocks replaced by activations "
    "of resnet20, which was trained independently:"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    asked = parser().parse_args(arguments)
    names: list[str] = asked.case or list(CASES)
    try:
        zoo = find_zoo()
    except ZooMissingError as error:
        if not set(names) <= set(NEED_NO_ZOO):
            print(f"error: {error}", file=sys.stderr)
            print(f"  hint: only --case {' '.join(NEED_NO_ZOO)} needs none", file=sys.stderr)
            return 2
        zoo = Zoo(Path())
    total, broken = Outcome(), False
    with tempfile.TemporaryDirectory(prefix="repsimc-benchmark-") as scratch:
        round_ = Round(asked.quick, Path(scratch), zoo)
        for name in names:
            if asked.quick and name in ONLY_FULL and not asked.case:
                total.records.append(figure(f"{name}/skipped", None, "", None, NOT_QUICK))
                continue
            start = time.perf_counter()
            try:
                found = CASES[name](round_)
            except Exception:  # one case that breaks must not lose what the others found
                traceback.print_exc()
                broken = True
                why = "the case broke: see standard error"
                found = Outcome([figure(f"{name}/finished", 0, "", "== 1", why)])
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
            total.records += found.records
            total.rows += found.rows
            total.curve += found.curve
            if asked.json is not None:  # after each case: the whole round is long
                write_records(total.records, asked.json)
    if asked.markdown:
        print(readme(total))
    else:
        print_grid(grid(total.records, "the short round" if asked.quick else ""))
    if broken:
        return 1
    return 1 if asked.strict and missed(total.records) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description="Weights, accuracy, latency, memory and compile time of merged models, "
        "beside the models apart.",
        epilog="The zoo of models and images is found by REPSIMC_ZOO. Exit status: 0, also when a "
        "bar is missed; 1 when a case broke, or with --strict when a bar is missed; 2 without zoo.",
    )
    found.add_argument("--quick", action="store_true", help="a minute: fewer frames and cases")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    found.add_argument(
        "--case", nargs="+", choices=CASES, metavar="NAME", help=f"only {', '.join(CASES)}"
    )
    found.add_argument("--markdown", action="store_true", help="print the README's tables")
    found.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    return found


def readme(outcome: Outcome) -> str:
    """The README's tables, as Markdown."""
    columns = (
        Column("models on the same frames"),
        Column("weights: nothing", True),
        Column("exact", True),
        Column("repsimc", True),
        Column("worst change of accuracy", True),
        Column("latency", True),
    )
    text = markdown(Grid("", columns, tuple(cells(row) for row in outcome.rows)))
    text += f"\n{CAPTION}\n"
    if outcome.curve:
        headings = ("blocks replaced", "raw swap", "adapter", "random sites, refit", "refit")
        curve = Grid("", tuple(Column(name, True) for name in headings), tuple(outcome.curve))
        text += f"\n{CURVE}\n\n{markdown(curve)}"
    return text


def cells(row: Row) -> tuple[str, ...]:
    """One line of the README's first table."""

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.0f} %"

    remark = f" ({row.remark})" if row.remark else ""
    return (
        row.models,
        format_bytes(row.apart_nbytes),
        percent(row.exact),
        percent(row.share) + remark,
        row.change,
        percent(row.latency),
    )


if __name__ == "__main__":
    sys.exit(main())
