"""Charts as values, shares over shares, drawn as a PNG or as SVG for a page."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from ..units import printable

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 36, 78
_TICKS = 5
# Okabe and Ito's palette reads for the colour-blind, too.
_COLOURS = [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233)]
_GREY = (210, 210, 210)
_RED = (190, 30, 30)
_DASH = 6.0  # pixels of a dash, and of the gap behind it
# The legend: entries in a line, and the lines below the axis.
_ENTRIES, _ENTRY, _LINE = 3, 220, 15
_LONGEST = 34

Place = tuple[float, float]


@dataclass(frozen=True)
class Dot:
    """A point of a series: shares x and y, a short label, and what to say of it (`told`).

    `link` is where a page goes from it; `strong` points are drawn larger.
    """

    x: float
    y: float
    label: str = ""
    told: str = ""
    link: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Series:
    """Dots joined by a line in their order; `predicted` ones are hollow, their line is dashed.

    With `best_only` the line joins those that no other beats: y is higher than at any smaller x.
    """

    name: str
    dots: tuple[Dot, ...]
    predicted: bool = False
    best_only: bool = False

    @property
    def line(self) -> tuple[Dot, ...]:
        """The dots that the line joins."""
        if not self.best_only:
            return self.dots
        joined: list[Dot] = []
        for dot in sorted(self.dots, key=lambda dot: (dot.x, -dot.y)):
            if not joined or dot.y > joined[-1].y:
                joined.append(dot)
        return tuple(joined)


@dataclass(frozen=True)
class Chart:
    """Series of shares over a share `x_title`, and levels (y, name) that are drawn across.

    Dots that are no numbers are left out; those of the first series have their labels beside them.
    """

    title: str
    x_title: str
    series: tuple[Series, ...]
    levels: tuple[tuple[float, str], ...] = ()

    @property
    def shown(self) -> tuple[Series, ...]:
        """The series, without dots that are no finite numbers."""
        return tuple(
            replace(one, dots=tuple(dot for dot in one.dots if math.isfinite(dot.x + dot.y)))
            for one in self.series
        )


class _Scale:
    """From shares to pixels: x from the smallest share to 1, y from below the lowest to 1."""

    def __init__(self, chart: Chart) -> None:
        dots = [dot for one in chart.shown for dot in one.dots]
        levels = [y for y, _ in chart.levels]
        self.low = max(0.0, min([*(dot.y for dot in dots), *levels, 0.95]) - 0.02)
        self.high = max([1.0, *(dot.y for dot in dots)])
        self.left = max(0.0, min((dot.x for dot in dots), default=0.0) - 0.02)
        self.right = max([1.0, *(dot.x for dot in dots)])

    def place(self, x: float, y: float) -> Place:
        """Pixels from the left and the top."""
        across = (x - self.left) / max(self.right - self.left, 1e-9)
        down = (self.high - y) / max(self.high - self.low, 1e-9)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _TOP + down * (_HEIGHT - _TOP - _BOTTOM),
        )

    def ticks(self) -> Iterator[tuple[float, float]]:
        """(x, y) of the lines of the grid."""
        for step in range(_TICKS + 1):
            part = step / _TICKS
            yield (
                self.left + (self.right - self.left) * part,
                self.low + (self.high - self.low) * part,
            )


def chart_png(charts: Sequence[Chart]) -> bytes:
    """A PNG of the charts side by side."""
    canvas = Image.new("RGB", (_WIDTH * len(charts), _HEIGHT), "white")
    for index, chart in enumerate(charts):
        panel = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
        _draw(ImageDraw.Draw(panel), chart)
        canvas.paste(panel, (index * _WIDTH, 0))
    packed = io.BytesIO()
    canvas.save(packed, "PNG")
    return packed.getvalue()


def _draw(draw: ImageDraw.ImageDraw, chart: Chart) -> None:
    scale, font = _Scale(chart), ImageFont.load_default()

    def write(place: Place, text: str, colour: tuple[int, int, int] = (0, 0, 0)) -> None:
        draw.text(place, _ascii(text), fill=colour, font=font)

    for x, y in scale.ticks():
        draw.line([scale.place(scale.left, y), scale.place(scale.right, y)], fill=_GREY)
        write((6, scale.place(scale.left, y)[1] - 6), f"{y:.3f}")
        draw.line([scale.place(x, scale.low), scale.place(x, scale.high)], fill=_GREY)
        write((scale.place(x, scale.low)[0] - 12, _HEIGHT - _BOTTOM + 6), f"{100 * x:.0f} %")
    write((_LEFT, 6), chart.title)
    write((_LEFT, _HEIGHT - _BOTTOM + 22), chart.x_title)
    for y, name in chart.levels:
        ends = scale.place(scale.left, y), scale.place(scale.right, y)
        for dash in _dashes(*ends):
            draw.line(dash, fill=_RED)
        # At the right: what saves nothing stands there, at 1.
        told = _ascii(name)
        write((ends[1][0] - font.getlength(told) - 4, ends[1][1] + 2), told, _RED)
    for index, series in enumerate(chart.shown):
        colour = _COLOURS[index % len(_COLOURS)]
        places = [scale.place(dot.x, dot.y) for dot in series.dots]
        for one, other in pairwise(scale.place(dot.x, dot.y) for dot in series.line):
            for part in _dashes(one, other) if series.predicted else [(one, other)]:
                draw.line(part, fill=colour, width=2)
        for dot, (x, y) in zip(series.dots, places):
            size = 5 if dot.strong else 3
            fill = (255, 255, 255) if series.predicted else colour
            draw.ellipse((x - size, y - size, x + size, y + size), fill=fill, outline=colour)
        write(_legend(index), _short(series.name), colour)
    # Last, so that no dot hides them.
    for dot, (x, y) in _labelled(chart, scale):
        write((x - 4, y + 6), dot.label)


def _labelled(chart: Chart, scale: _Scale) -> Iterator[tuple[Dot, Place]]:
    """The dots that have their labels beside them, with their places."""
    for dot in chart.shown[0].dots if chart.series else ():
        if dot.label:
            yield dot, scale.place(dot.x, dot.y)


def _dashes(start: Place, end: Place) -> Iterator[tuple[Place, Place]]:
    """The dashes of a line."""
    length = math.dist(start, end)
    at = 0.0
    while at < length:
        first, last = at / length, min(at + _DASH, length) / length
        yield _between(start, end, first), _between(start, end, last)
        at += 2 * _DASH


def _between(start: Place, end: Place, part: float) -> Place:
    return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part


def _legend(index: int) -> Place:
    """Where the name of a series stands."""
    row, column = divmod(index, _ENTRIES)
    return _LEFT + column * _ENTRY, _HEIGHT - _BOTTOM + 40 + row * _LINE


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def _ascii(text: str) -> str:
    # Pillow's built-in font may have no other characters.
    return printable(text).encode("ascii", "replace").decode()


def chart_svg(chart: Chart) -> str:
    """The chart as an SVG element that a page styles.

    Classes: `grid`, `level`, `s0`, `s1`, ... for the series, `predicted` for hollow ones.
    """
    scale = _Scale(chart)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_text(chart.title)}">',
        f'<text class="title" x="{_LEFT}" y="20">{_text(chart.title)}</text>',
    ]
    for x, y in scale.ticks():
        parts.append(_line("grid", scale.place(scale.left, y), scale.place(scale.right, y)))
        parts.append(_line("grid", scale.place(x, scale.low), scale.place(x, scale.high)))
        across, down = scale.place(x, y)
        parts.append(_label(_LEFT - 6, down + 4, f"{y:.3f}", "end"))
        parts.append(_label(across, _HEIGHT - _BOTTOM + 16, f"{100 * x:.0f} %", "middle"))
    parts.append(_label(_LEFT, _HEIGHT - _BOTTOM + 32, chart.x_title))
    for y, name in chart.levels:
        start, end = scale.place(scale.left, y), scale.place(scale.right, y)
        parts.append(_line("level", start, end))
        parts.append(_label(end[0] - 4, end[1] + 14, name, "end", "level"))
    for index, series in enumerate(chart.shown):
        places = [scale.place(dot.x, dot.y) for dot in series.dots]
        kind = f"s{index % len(_COLOURS)}" + (" predicted" if series.predicted else "")
        ends = [scale.place(dot.x, dot.y) for dot in series.line]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in ends)
        parts.append(f'<g class="{kind}"><polyline points="{points}"/>')
        for dot, (x, y) in zip(series.dots, places):
            parts.append(_dot(dot, x, y))
        x, y = _legend(index)
        parts.append(f"{_label(x, y + 10, _short(series.name))}</g>")
    parts += [_label(x, y + 17, dot.label, "middle") for dot, (x, y) in _labelled(chart, scale)]
    return "".join([*parts, "</svg>"])


def _dot(dot: Dot, x: float, y: float) -> str:
    told = f"<title>{_text(dot.told)}</title>" if dot.told else ""
    drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if dot.strong else 4}">{told}</circle>'
    return f'<a href="{_text(dot.link)}">{drawn}</a>' if dot.link else drawn


def _line(kind: str, start: Place, end: Place) -> str:
    return (
        f'<line class="{kind}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" '
        f'y2="{end[1]:.1f}"/>'
    )


def _label(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_text(text)}</text>'


def _text(text: str) -> str:
    return escape(printable(text))
