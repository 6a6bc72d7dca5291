"""Heatmaps of similarity: a PNG per pair of models, and one HTML page that needs no network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..graph.arrays import Array
from ..units import printable
from .report import PairReport, SimilarityResult, cell

# Five anchors of matplotlib's viridis (CC0), which reads in grey and for the colour-blind.
_COLOURS = np.array(
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], float
)
_UNDEFINED = (200, 200, 200)
_MARK = (220, 30, 30)
# Pixels a cell is wide in the PNG, and the label area beside it.
_CELL = 14
_SMALLEST_CELL = 4
_LABEL = 150
_GAP = 28
_MAX_SIDE = 2400
_LABEL_LENGTH = 24


def heatmap_png(result: SimilarityResult, pair: PairReport, measure: str) -> bytes:
    """The matrix of a measure and its null beside it, layers on both axes, sites marked.

    Rows are layers of a, columns layers of b; grey is undefined or not applicable.
    """
    matrix = pair.matrices[measure]
    low, high = bounds(matrix.values, matrix.null)
    rows, columns = matrix.values.shape
    size = max(_SMALLEST_CELL, min(_CELL, _MAX_SIDE // max(rows, 2 * columns, 1)))
    width, height = max(1, columns * size), max(1, rows * size)
    canvas = Image.new("RGB", (2 * _LABEL + 2 * width + _GAP, height + _LABEL + 24), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default()
    left = _LABEL
    for title, part in ((f"{measure}: {pair.a} x {pair.b}", matrix.values), ("null", matrix.null)):
        image = Image.fromarray(coloured(part, low, high)).resize(
            (width, height), Image.Resampling.NEAREST
        )
        canvas.paste(image, (left, 20))
        draw.text((left, 4), _ascii(title), fill="black", font=font)
        left += width + _GAP
    for mark in pair.sites:
        x, y = _LABEL + mark.b_layer * size, 20 + mark.a_layer * size
        draw.rectangle((x, y, x + size - 1, y + size - 1), outline=_MARK, width=max(1, size // 6))
    step = max(1, -(-11 // size))  # lines of text are 11 pixels high
    for index, name in enumerate(result.layers(pair.a)):
        if index % step == 0:
            draw.text((4, 20 + index * size), _label(name), fill="black", font=font)
    names = result.layers(pair.b)
    for start in (_LABEL, _LABEL + width + _GAP):
        for index, name in enumerate(names):
            if index % step == 0:
                text = Image.new("L", (_LABEL, 12), 255)
                ImageDraw.Draw(text).text((0, 0), _label(name), fill=0, font=font)
                canvas.paste(text.rotate(-90, expand=True), (start + index * size, 24 + height))
    scale = f"{low:.2f} (dark) to {high:.2f} (bright), grey: undefined"
    draw.text((_LABEL + 2 * width + _GAP + 4, 20), "scale", fill="black", font=font)
    for line, text in enumerate(scale.split(", ")):
        draw.text((_LABEL + 2 * width + _GAP + 4, 34 + 12 * line), text, fill="black", font=font)
    if pair.sites:
        draw.text((_LABEL + 2 * width + _GAP + 4, 62), "red: sites", fill=_MARK, font=font)
    return _png(canvas)


def heatmap_page(result: SimilarityResult) -> str:
    """One HTML page of every pair's heatmaps, to hover over. Loads nothing from outside."""
    sections = [
        _section(result, index, pair, measure)
        for index, pair in enumerate(result.pairs)
        for measure in pair.matrices
    ]
    warnings = "".join(f"<p class=warning>{_text(line)}</p>" for line in result.warnings)
    models = ", ".join(result.models)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; "
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        f"<title>Similarity of {_text(models)}</title>\n<style>{_STYLE}</style></head><body>\n"
        f"<h1>Similarity of {_text(models)}</h1>\n"
        f"<p>{result.frames} frames. Rows and columns are layers, in the order they run. The null "
        "is the same measure after shuffling; grey is undefined or not applicable; red frames are "
        f"sites that the planner would try.</p>\n{warnings}\n{''.join(sections)}\n"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def bounds(values: Array, null: Array) -> tuple[float, float]:
    """The scale that a matrix and its null share: 0..1 where everything fits, else their range."""
    known = np.concatenate([part[np.isfinite(part)].reshape(-1) for part in (values, null)])
    if not len(known):
        return 0.0, 1.0
    low, high = min(0.0, float(known.min())), max(1.0, float(known.max()))
    # Estimates of 0 fall a little below it; that is no reason for another scale.
    return (0.0 if low > -0.1 else low), high


def coloured(values: Array, low: float, high: float) -> NDArray[np.uint8]:
    """RGB [rows, columns, 3]: dark at `low`, bright at `high`, grey where not a number."""
    share = np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-12), 0, 1)
    place = share * (len(_COLOURS) - 1)
    below = np.minimum(place.astype(int), len(_COLOURS) - 2)
    mixed = _COLOURS[below] + (_COLOURS[below + 1] - _COLOURS[below]) * (place - below)[..., None]
    mixed[~np.isfinite(values)] = _UNDEFINED
    return mixed.round().astype(np.uint8)


def _section(result: SimilarityResult, index: int, pair: PairReport, measure: str) -> str:
    matrix = pair.matrices[measure]
    low, high = bounds(matrix.values, matrix.null)
    names = [[printable(name) for name in result.layers(model)] for model in (pair.a, pair.b)]
    figures: list[str] = []
    for title, part in (("", matrix.values), ("null", matrix.null)):
        marks = [] if title else [(mark.a_layer, mark.b_layer) for mark in pair.sites]
        cells = [
            [cell(matrix, part, i, j) for j in range(part.shape[1])] for i in range(part.shape[0])
        ]
        shown = [[v if isinstance(v, str) else round(v, 4) for v in row] for row in cells]
        data = json.dumps({"rows": names[0], "columns": names[1], "cells": shown})
        # A name that holds '</script>' would end the element early.
        data = data.replace("<", "\\u003c")
        figures.append(
            f"<figure>{_svg(coloured(part, low, high), names, marks)}"
            f"<figcaption>{_text(title or measure)}</figcaption>"
            f"<script type=application/json>{data}</script></figure>"
        )
    error = f", sketch error {matrix.sketch_error:.3f}" if matrix.sketch_error else ""
    return (
        f"<section id=pair{index}-{escape(measure)}><h2>{_text(pair.a)} (rows) and "
        f"{_text(pair.b)} (columns)</h2><p>{_text(matrix.measure.title)}; {low:.2f} dark, "
        f"{high:.2f} bright{error}.</p><div class=figures>{''.join(figures)}</div>"
        "<output></output></section>\n"
    )


def _svg(
    pixels: NDArray[np.uint8], names: Sequence[Sequence[str]], marks: Sequence[tuple[int, int]]
) -> str:
    rows, columns = pixels.shape[:2]
    if not rows or not columns:
        return "<p>no layers</p>"
    image = base64.b64encode(_png(Image.fromarray(pixels))).decode()
    size = max(4.0, min(14.0, 560 / max(rows, columns)))
    width, height = columns * size, rows * size
    step = max(1, int(-(-9 // size)))
    parts = [
        f'<svg width="{width + _LABEL:.0f}" height="{height + _LABEL:.0f}" role="img">'
        f'<image class="cells" x="{_LABEL}" y="0" width="{width:.1f}" height="{height:.1f}" '
        f'preserveAspectRatio="none" href="data:image/png;base64,{image}"/>'
    ]
    parts += [
        f'<rect x="{_LABEL + b * size:.1f}" y="{a * size:.1f}" width="{size:.1f}" '
        f'height="{size:.1f}"/>'
        for a, b in marks
    ]
    parts += [
        f'<text x="{_LABEL - 4}" y="{(index + 0.8) * size:.1f}" text-anchor="end">'
        f"{escape(_short(name))}</text>"
        for index, name in enumerate(names[0])
        if index % step == 0
    ]
    parts += [
        f'<text transform="translate({_LABEL + (index + 0.2) * size:.1f},{height + 4:.1f}) '
        f'rotate(90)">{escape(_short(name))}</text>'
        for index, name in enumerate(names[1])
        if index % step == 0
    ]
    return "".join([*parts, "</svg>"])


def _png(image: Image.Image) -> bytes:
    packed = io.BytesIO()
    image.save(packed, "PNG")
    return packed.getvalue()


def _text(text: str) -> str:
    return escape(printable(text))


def _short(name: str) -> str:
    # The end of a long name tells layers apart.
    return name if len(name) <= _LABEL_LENGTH else f"…{name[1 - _LABEL_LENGTH :]}"


def _label(name: str) -> str:
    return _ascii(_short(name)).replace("?", ".", 1) if len(name) > _LABEL_LENGTH else _ascii(name)


def _ascii(text: str) -> str:
    # Pillow's built-in font may have no other characters.
    return printable(text).encode("ascii", "replace").decode()


_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; }
h2 { font-size: 1.1em; margin-bottom: 0; }
.figures { display: flex; flex-wrap: wrap; gap: 1em; }
figure { margin: 0; }
figcaption { text-align: center; }
.cells { image-rendering: pixelated; }
svg text { font-size: 9px; }
svg rect { fill: none; stroke: #dc1e1e; stroke-width: 2; pointer-events: none; }
output { display: block; min-height: 1.4em; font-family: monospace; }
.warning { background: #fff3cd; padding: .4em .8em; }
"""
_SCRIPT = """
for (const figure of document.querySelectorAll("figure")) {
  const image = figure.querySelector(".cells");
  if (!image) continue;
  const data = JSON.parse(figure.querySelector("script").textContent);
  const out = figure.closest("section").querySelector("output");
  image.addEventListener("mousemove", (event) => {
    const box = image.getBoundingClientRect();
    const i = Math.floor((event.clientY - box.top) / box.height * data.rows.length);
    const j = Math.floor((event.clientX - box.left) / box.width * data.columns.length);
    if (data.cells[i] === undefined || data.cells[i][j] === undefined) return;
    out.textContent = data.rows[i] + "  x  " + data.columns[j] + ":  " + data.cells[i][j];
  });
}
"""
