"""Figures as values: one record each, the JSON list that every benchmark writes, and a table."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from repsimc.compiler.reports.table import Column, Grid

_MEETS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Record:
    """One figure of a benchmark.

    `name` is 'case/figure'. `bar` is what was asked ('<= 0.63'), `met` whether the value keeps it;
    both are None where nothing was asked. `value` is None where the figure could not be measured;
    `extra` then says why, and a bar counts as missed. `extra` is text, as github-action-benchmark
    wants it.
    """

    name: str
    value: float | None
    unit: str
    bar: str | None = None
    met: bool | None = None
    extra: str = ""


def figure(
    name: str, value: float | None, unit: str, bar: str | None = None, extra: str = ""
) -> Record:
    """The record of a figure, held against `bar` ('<= 0.63', '>= 7', '== 1') if there is one."""
    if value is not None and not math.isfinite(value):
        value, extra = None, f"not a finite number ({value}); {extra}".rstrip("; ")
    return Record(name, value, unit, bar, None if bar is None else meets(value, bar), extra)


def meets(value: float | None, bar: str) -> bool:
    """Whether a value keeps a bar; one that could not be measured keeps none."""
    sign, number = bar.split()
    return value is not None and _MEETS[sign](value, float(number))


def write_records(records: Sequence[Record], path: Path) -> None:
    """Write the records as a JSON list of {name, value, unit, bar, met, extra}."""
    text = json.dumps([asdict(record) for record in records], indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def missed(records: Sequence[Record]) -> list[Record]:
    """The records whose bar was missed."""
    return [record for record in records if record.met is False]


def grid(records: Sequence[Record], title: str) -> Grid:
    """The records as a table: figure, value, bar, and whether it is met."""
    columns = (
        Column("figure"),
        Column("value", True),
        Column("bar", True),
        Column(""),
        Column("remarks"),
    )
    rows = tuple(
        (
            record.name,
            shown(record.value, record.unit),
            record.bar or "",
            {True: "met", False: "MISSED", None: ""}[record.met],
            record.extra,
        )
        for record in records
    )
    judged = [record for record in records if record.met is not None]
    kept = sum(record.met is True for record in judged)
    return Grid(title, columns, rows, summary=(f"{kept} of {len(judged)} bars met",))


def shown(value: float | None, unit: str) -> str:
    """A value for people: '0.33', '27.1 s', '-0.30 points'."""
    if value is None:
        return "none"
    if unit in ("blocks", "frames"):
        return f"{value:.0f} {unit}"
    text = f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
    if unit in ("points", "s", "MiB", "%"):
        text = f"{value:.2f}" if unit == "points" else f"{value:.1f}"
    return f"{text} {unit}" if unit not in ("ratio", "share") else text
