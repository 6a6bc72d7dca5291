"""A scatter plot of trials as an SVG file: predictors side by side, kinds of pairs by colour."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from prediction import COMMON, INDEPENDENT, Trial
from prediction_figures import correlation, predictors

_COLOURS = {COMMON: "#1f77b4", INDEPENDENT: "#d95f02"}
_SIDE, _GAP, _LEFT, _TOP, _BOTTOM = 230, 50, 56, 44, 62


def scatter(trials: Sequence[Trial], shown: Sequence[str] = ("probe", "affine R2", "CKA")) -> str:
    """One panel per predictor: its score against the points of accuracy that the swap cost."""
    scores = predictors(trials)
    width = _LEFT + len(shown) * (_SIDE + _GAP)
    height = _TOP + _SIDE + _BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for index, name in enumerate(shown):
        left = _LEFT + index * (_SIDE + _GAP)
        lines += _panel(trials, name, scores[name], left, index == 0)
    for index, (kind, colour) in enumerate(_COLOURS.items()):
        x, y = _LEFT + 170 * index, height - 12
        lines.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>')
        lines.append(f'<text x="{x + 9}" y="{y}">{escape(kind)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(
    trials: Sequence[Trial], name: str, scores: Sequence[float], left: float, first: bool
) -> list[str]:
    lost = [trial.lost for trial in trials]
    xs, ys = _span(scores), _span(lost)
    bottom = _TOP + _SIDE

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[1] - xs[0])
        up = (y - ys[0]) / (ys[1] - ys[0])
        return left + across * _SIDE, bottom - up * _SIDE

    kinds = [k for k in _COLOURS if any(t.pair.kind == k for t in trials)]
    rs = [
        abs(correlation(*zip(*((s, t.lost) for s, t in zip(scores, trials) if t.pair.kind == k))))
        for k in kinds
    ]
    told = " and ".join(f"{r:.2f}" for r in rs)
    lines = [
        f'<rect x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#999"/>',
        f'<text x="{left}" y="{_TOP - 22}" font-weight="bold">{escape(name)}</text>',
        f'<text x="{left}" y="{_TOP - 8}">abs. r = {told}</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        x, y = xs[0] + share * (xs[1] - xs[0]), ys[0] + share * (ys[1] - ys[0])
        px, py = place(x, y)
        lines.append(f'<text x="{px:.0f}" y="{bottom + 15}" text-anchor="middle">{x:.2f}</text>')
        if first:
            lines.append(f'<text x="{left - 6}" y="{py + 4:.0f}" text-anchor="end">{y:.0f}</text>')
    if first:
        middle = _TOP + _SIDE / 2
        lines.append(
            f'<text x="14" y="{middle:.0f}" text-anchor="middle" '
            f'transform="rotate(-90 14 {middle:.0f})">points of accuracy lost</text>'
        )
    for score, trial in zip(scores, trials):
        x, y = place(score, trial.lost)
        colour = _COLOURS[trial.pair.kind]
        lines.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}" fill-opacity="0.55"/>'
        )
    return lines


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1, high + 1)
