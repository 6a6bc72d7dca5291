"""Tables as values, printed by rich for people and as Markdown for pull requests.

A grid holds plain text only. Names in it come from files that others made, so the printers escape
what their format would read as markup, and control characters never reach the terminal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..units import format_bytes, format_count, format_sizes, printable
from .report import MAX_DIFFERENCE, WEIGHTS, ModelReport, OutputFidelity, Report, Sharing

if TYPE_CHECKING:
    from rich.console import Console

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~])")
# Where the output is no terminal its width is unknown; CI logs and files take this one.
WIDTH = 100
# Ties of inputs that a table lists; report.json has all.
_TIES = 4
# Weights of up to so many bits an element are told of, if they are more than this share of all:
# every model may hold a few truth values or zero points.
_FEW_BITS, _TOLD = 8, 0.01
# Outputs that have a line of their own.
_LISTED = 40


@dataclass(frozen=True)
class Column:
    """A column: its heading, whether it holds figures (set right, never wrapped)."""

    heading: str
    figures: bool = False


def words(*headings: str) -> tuple[Column, ...]:
    """Columns of text under these headings."""
    return tuple(Column(heading) for heading in headings)


def figures(*headings: str) -> tuple[Column, ...]:
    """Columns of figures under these headings."""
    return tuple(Column(heading, figures=True) for heading in headings)


@dataclass(frozen=True)
class Grid:
    """A table as a value: plain text cells, an optional total row, lines and notes below."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...] | None = None
    summary: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def stdout_console() -> Console:
    """Where results go: standard output, 100 columns wide where it is no terminal."""
    from rich.console import Console

    class Stdout(Console):
        # Rich would exit with 1; the CLI knows what to do when the reader of a pipe has gone.
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = Stdout(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    return console


def print_grid(grid: Grid, console: Console | None = None) -> None:
    """Print the grid, readable without colour."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = console or stdout_console()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for index, column in enumerate(grid.columns):
        longest = max((len(row[index]) for row in grid.rows), default=0)
        table.add_column(
            Text(column.heading, style="bold"),
            justify="right" if column.figures else "left",
            # Names lead the rows: they stay whole up to this length, other columns wrap first.
            no_wrap=column.figures or (index == 0 and longest <= 24),
            overflow="fold",
        )
    for row in grid.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if grid.total is not None:
        table.add_section()
        table.add_row(*(Text(printable(cell), style="bold") for cell in grid.total))
    if grid.title:
        console.print(Text(printable(grid.title), style="bold"))
    console.print(table)
    if grid.summary or grid.notes:
        console.print()
    for line in grid.summary:
        console.print(Text(printable(line)), soft_wrap=True)
    for note in grid.notes:
        console.print(Text(f"note: {printable(note)}"), soft_wrap=True)


def markdown(grid: Grid) -> str:
    """The grid as a GitHub-flavoured Markdown table, its notes as a list."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"

    lines = [f"**{_escaped(grid.title)}**", ""] if grid.title else []
    lines.append(line([column.heading for column in grid.columns]))
    lines.append("|" + "|".join(" ---: " if c.figures else " --- " for c in grid.columns) + "|")
    lines.extend(line(row) for row in grid.rows)
    if grid.total is not None:
        lines.append(
            "| " + " | ".join(f"**{_escaped(c)}**" if c else "" for c in grid.total) + " |"
        )
    for text in grid.summary:
        lines.extend(["", _escaped(text)])
    if grid.notes:
        lines.extend(["", *(f"- {_escaped(note)}" for note in grid.notes)])
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", printable(text).replace("\n", " ").replace("\t", " "))


# -- the table at the end of a compilation -----------------------------------------------


def report_grid(report: Report) -> Grid:
    """The before/after table of a compilation: a row per model, the total, and the budget."""
    return Grid(
        title=_title(report),
        columns=words("model")
        + figures("weights")
        + words("shared with, to depth")
        + figures("activations", "MACs")
        + words("fidelity"),
        rows=tuple(
            (
                model.name,
                bytes_change(model.weights_before_nbytes, model.weights_after_nbytes),
                "\n".join(sharing_text(sharing) for sharing in model.sharing) or "-",
                bytes_change(model.activations_before_nbytes, model.activations_after_nbytes)
                if report.has_known_sizes(model.name)
                else "unknown",
                count_change(model.macs_before, model.macs_after)
                if report.has_known_sizes(model.name)
                else "unknown",
                _fidelity_text(model),
            )
            for model in report.models
        ),
        total=(
            "total",
            bytes_change(report.weights_before_nbytes, report.weights_after_nbytes),
            "",
            "",
            "unknown"
            if report.sizes_unknown
            else count_change(report.macs_before, report.macs_after),
            "",
        ),
        summary=_summary(report),
        notes=(*report.notes, *_unknown_text(report)),
    )


def bytes_change(before: float, after: float) -> str:
    """'1.05 -> 0.21 MiB', or '1.05 MiB' where nothing changed: both in the unit of `before`."""
    return _change(before, after, format_bytes, ("B", "KiB", "MiB", "GiB"), 1024)


def count_change(before: float, after: float) -> str:
    """'41.2 -> 20.6 M' in decimal units, or '41.2 M' where nothing changed."""
    return _change(before, after, format_count, ("", "k", "M", "G", "T"), 1000)


def _change(
    before: float, after: float, form: Callable[[float], str], units: tuple[str, ...], base: int
) -> str:
    if form(before) == form(after):
        return form(before)
    value, _, unit = form(before).partition(" ")
    if not before or not after:
        return f"{value} -> {form(after)}"
    scaled = after / base ** units.index(unit)
    digits = 0 if unit == units[0] or scaled >= 100 else 1 if scaled >= 10 else 2
    text = "<0.01" if scaled < 0.005 else f"{round(scaled, digits):g}"
    return f"{value} -> {text} {unit}".rstrip()


def with_share(text: str, value: float, base: float) -> str:
    """'1.05 MiB (75 %)': an amount and its share of another, which is left out of nothing."""
    return f"{text} ({100 * value / base:.0f} %)" if base > 0 else text


def sharing_text(sharing: Sharing) -> str:
    """'resnet20 67 % exact': the donor, the depth, and how ('adapted': by representation)."""
    how = "exact" if sharing.exact else "adapted"
    return f"{sharing.donor} {100 * sharing.depth:.0f} % {how}"


def fidelity_value(output: OutputFidelity) -> str:
    """'0.9960 top-1', '0.9987 variance', '1.2e-06 max diff'."""
    short = {"top-1 agreement": "top-1", "explained variance": "variance"}
    if output.metric == MAX_DIFFERENCE:
        return f"{output.value:.1e} max diff"
    return f"{shown_share(output.value)} {short.get(output.metric, output.metric)}"


def shown_share(value: float) -> str:
    """'0.9960': cut, not rounded, so that a floor missed by little does not read as one kept."""
    return f"{math.floor(value * 10_000) / 10_000 if math.isfinite(value) else value:.4f}"


def fidelity_grid(report: Report) -> Grid | None:
    """A row per output: what was measured, what that proves, and on blends; None without frames."""
    rows = [(model.name, output) for model in report.models for output in model.fidelity]
    if not rows:
        return None
    left_out = ()
    if len(rows) > _LISTED:
        left_out = (f"{len(rows) - _LISTED} more outputs, none worse, are in report.json",)
        rows = sorted(rows, key=lambda row: row[1].margin)[:_LISTED]
    confidence = rows[0][1].confidence
    return Grid(
        "fidelity on held-out frames",
        words("model", "output", "fidelity")
        + figures("at least", "stressed", "floor", "max diff", "score", "frames"),
        tuple(
            (
                model,
                output.output,
                fidelity_value(output),
                _proved(output),
                "-" if output.stressed is None else shown_share(output.stressed),
                floor_text(output.floor),
                "-" if output.max_difference is None else f"{output.max_difference:.1e}",
                "-" if output.score_change is None else f"{output.score_change:.3f}",
                str(output.frames),
            )
            for model, output in rows
        ),
        summary=(
            f"at least: what the frames prove with {100 * confidence:.8g} % confidence; stressed: "
            "on blends of two frames; score: largest change of a class's probability",
        ),
        notes=left_out,
    )


def _proved(output: OutputFidelity) -> str:
    if output.lower is not None:
        return shown_share(output.lower)
    # Reports of earlier versions tell no bound and no difference, of what is exact or not.
    return "-" if output.max_difference is None else "exact"


def floor_text(floor: float) -> str:
    """'0.99'; '-' for a floor that nothing misses, which only a curve's pick has."""
    return f"{floor:g}" if floor > 1e-6 else "-"


def _fidelity_text(model: ModelReport) -> str:
    if model.unverified:
        return "unverified"
    worst = model.worst
    if worst is None:
        return "exact" if all(sharing.exact for sharing in model.sharing) else "not measured"
    text = fidelity_value(worst)
    if len(model.fidelity) > 1:
        text += f" ({worst.output})"
    if worst.met:
        return text
    if worst.judged >= worst.floor:
        return f"{text}, on blends BELOW {worst.stressed_floor:g}"
    proved = "" if worst.judged == worst.value else f", proved {shown_share(worst.judged)}"
    return f"{text}{proved} BELOW {worst.floor:g}"


def _title(report: Report) -> str:
    count = len(report.models)
    text = f"{count} models" if count != 1 else "1 model"
    if report.inputs_tied:
        text += " fed by one frame"
    if report.frames_held_out:
        text += (
            f"; {report.frames_fit} frames to fit, "
            f"{report.frames_held_out} held out to measure fidelity"
        )
    return text


def _summary(report: Report) -> tuple[str, ...]:
    lines = [
        _reduction("weights", report.weights_before_nbytes, report.weights_after_nbytes)
        + _few_bits(report.weights_by_bits),
        _reduction(
            "memory, predicted" + (" without activations" if report.sizes_unknown else ""),
            report.memory_before_nbytes,
            report.memory_after_nbytes,
        ),
    ]
    if report.sizes:
        lines.append(f"activations and MACs: one frame of {sizes_text(report.sizes)}")
    spare = report.budget_spare_nbytes
    if spare is not None:
        verdict = (
            f"met with {format_bytes(spare)} to spare"
            if report.budget_met
            else f"NOT met, {format_bytes(-spare)} too much"
        )
        lines.append(f"budget {_budget_text(report)}: {verdict}")
    if report.ties:
        more = len(report.ties) - _TIES
        rest = f"; and {more} more" if more > 0 else ""
        lines.append(f"one input: {'; '.join(report.ties[:_TIES])}{rest}")
    return tuple(lines)


def weights_text(nbytes: int, by_bits: Mapping[str, int]) -> str:
    """'3.1 MiB, of them 2.9 MiB in 8 bits': weights, and what of them takes few bits."""
    return format_bytes(nbytes) + _few_bits(by_bits)


def _few_bits(by_bits: Mapping[str, int]) -> str:
    least = _TOLD * sum(by_bits.values())
    sizes = {int(bits): nbytes for bits, nbytes in by_bits.items() if bits.isdecimal()}
    found = ", ".join(
        f"{format_bytes(sizes[bits])} in {bits} bits"
        for bits in sorted(sizes, reverse=True)
        if bits <= _FEW_BITS and sizes[bits] > least
    )
    return f", of them {found}" if found else ""


def sizes_text(sizes: Mapping[str, Sequence[int]]) -> str:
    """'a.x, b.x 1x3x320x320; c.x 1x3x48x192': inputs by what one frame of them is."""
    names: dict[str, list[str]] = {}
    for name, shape in sizes.items():
        names.setdefault(format_sizes(shape), []).append(name)
    return "; ".join(f"{', '.join(some)} {shape}" for shape, some in names.items())


def unknown_sizes_text(names: Sequence[str]) -> str:
    """What a table says where free sizes of these inputs ('model.input') are not known."""
    return (
        f"activations and MACs are not known: {', '.join(names)} may have any size; --calib PATH "
        f"or --size {names[0]}=SIZES (such as 1x3x224x224) tells it"
    )


def _unknown_text(report: Report) -> tuple[str, ...]:
    return (unknown_sizes_text(report.sizes_unknown),) if report.sizes_unknown else ()


def _budget_text(report: Report) -> str:
    """'40 % of the weights apart = 1.23 MiB', or '12 MiB of predicted memory'."""
    assert report.budget_nbytes is not None
    amount = format_bytes(report.budget_nbytes)
    if report.budget_counts == WEIGHTS and report.weights_before_nbytes:
        share = 100 * report.budget_nbytes / report.weights_before_nbytes
        return f"{share:.4g} % of the weights apart = {amount}"
    return f"{amount} of {'weights' if report.budget_counts == WEIGHTS else 'predicted memory'}"


def _reduction(what: str, before: int, after: int) -> str:
    share = f" ({100 * after / before:.0f} % of the models apart)" if before else ""
    return f"{what}: {bytes_change(before, after)}{share}"
