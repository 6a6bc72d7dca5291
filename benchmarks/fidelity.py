"""Does a compilation promise more than frames nobody has seen will show? `python fidelity.py`.

Pairs of the zoo are compiled on training images without labels, at three floors. What compile
states of a model, the lower of its bounds on frames and on blends of them, is held against the
agreement with the original on test images: it may be a point above that. How far it lies below on
average is told too: a figure that is always low says nothing.

A compile takes minutes. Of a pair the lowest floor is compiled first: a higher one that its plan
kept as well, in the search and on held-out frames, is not compiled again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compiling import compiled
from measuring import save_frames
from records import Record, figure, grid, missed, write_records
from zoo import Zoo, ZooMissingError, find_zoo

from repsimc.compiler.bundle.verification import verify_bundle
from repsimc.compiler.planning.plan import read_plan
from repsimc.compiler.reports.report import OutputFidelity, Report
from repsimc.compiler.reports.table import print_grid
from repsimc.runtime.json_reader import read_json
from repsimc.runtime.manifest import PLAN, REPORT
from repsimc.runtime.session import load

DONOR = "cifar10_resnet20"
OTHERS = (
    "cifar10_resnet32",
    "cifar10_resnet44",
    "sib_full_animal2",
    "sib_full_habitat4",
    "sib_full_bright4",
)
FLOORS = (0.99, 0.97, 0.95)
BAR = "<= 1"


@dataclass(frozen=True)
class Frames:
    """Files of frames: `calib` to compile with, `dev` to hold the result against."""

    calib: Path
    dev: Path


def promise(case: str, stated: OutputFidelity, seen: float) -> Record:
    """By how many points the lower of both bounds is above what was seen."""
    bound = stated.value if stated.lower is None else stated.lower
    told = bound if stated.stressed is None else min(bound, stated.stressed)
    blends = "-" if stated.stressed is None else f"{stated.stressed:.4f}"
    return figure(
        case,
        100 * (told - seen),
        "points",
        BAR,
        f"held out {stated.value:.4f}, bound {bound:.4f}, stressed {blends}, test {seen:.4f}",
    )


def promises(
    zoo: Zoo, other: str, floors: Sequence[float], frames: Frames, folder: Path
) -> Iterator[list[Record]]:
    """What compiling resnet20 with that model promises: floor by floor a record per changed model.

    A bundle that is in `folder` already is not compiled again.
    """
    kept = 0.0
    found: list[Record] = []
    for floor in sorted(floors):
        output = folder / f"{other}-{floor:g}"
        if kept < floor or output.exists():
            kept, found = _promised(zoo, other, floor, frames, output)
        yield [replace(one, name=f"{other} at {floor:g}/{one.name}") for one in found]


def _promised(
    zoo: Zoo, other: str, floor: float, frames: Frames, output: Path
) -> tuple[float, list[Record]]:
    """The highest floor that the plan of this one kept, and what it promises."""
    if not output.exists():
        models = [(name, zoo.model(name)) for name in (DONOR, other)]
        found = compiled(models, output, calibration=frames.calib, min_fidelity=floor)
        if found.bundle is None:
            return 0.0, [figure("compiled", None, "points", BAR, found.refusal)]
    report = Report.from_json(read_json((output / REPORT).read_text(), REPORT, "compile again"))
    seen = {item.model: item.fidelity.value for item in verify_bundle(load(output), frames.dev)}
    plan = read_plan(output / PLAN)
    shown = [output.value for model in report.models for output in model.fidelity]
    return min(*shown, *(one.fidelity or 0.0 for one in plan.actions)), [
        promise(model.name, model.fidelity[0], seen[model.name])
        for model in report.models
        if model.fidelity[0].lower is not None
    ]


def average(records: Sequence[Record]) -> list[Record]:
    """How far above what is seen the statements lie on average: negative where they are below."""
    values = [record.value for record in records if record.value is not None]
    if not values:
        return []
    return [figure("all/on average", sum(values) / len(values), "points")]


def main() -> None:
    """Measure as the command line says; exit 1 where a bar is missed, 2 without the zoo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--other", action="append", choices=OTHERS, help="only these models")
    parser.add_argument("--floor", action="append", type=float, help="only these floors")
    parser.add_argument("--keep", type=Path, help="keep bundles there, and use those that are")
    told = parser.parse_args()
    try:
        zoo = find_zoo()
    except ZooMissingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(told.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        frames = Frames(
            save_frames(folder / "calib.npz", zoo.frames("cifar10", "calib2000")),
            save_frames(folder / "dev.npz", zoo.frames("cifar10", "dev4000")),
        )
        for other in told.other or OTHERS:
            for found in promises(zoo, other, told.floor or FLOORS, frames, folder):
                records += found
                print(*(f"{one.name}: {one.extra}" for one in found), sep="\n", file=sys.stderr)
                if told.json is not None:
                    write_records([*records, *average(records)], told.json)
    print_grid(grid([*records, *average(records)], "stated above seen"))
    sys.exit(1 if missed(records) else 0)


if __name__ == "__main__":
    main()
