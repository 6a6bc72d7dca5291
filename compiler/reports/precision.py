"""In how many bits weights stand, as a table, and which stay in float, and why."""

from __future__ import annotations

from collections.abc import Mapping

from ..units import format_bytes
from .report import FloatWeight, ModelReport, Report
from .rewrites import loss_text, shortened
from .table import Grid, figures, words

_FLOAT_BITS = 32
# Of all bytes, what stands in so few of a width that it is not told (shapes, masks).
_HARDLY_ANY = 0.005
# The table's columns fit into so many characters, whatever the names are.
_WIDTH = 80
_BETWEEN = 2  # characters between two columns
_LEAST_ROOM = 36


def precision_grid(report: Report) -> Grid | None:
    """A row per model: bytes of weights by bits, and what stays in float, and why.

    None where all stands in 32 bits and nobody asked for fewer.
    """
    shown = _shown([model.weights_by_bits for model in report.models])
    asked = any(model.in_float for model in report.models)
    if not _in_few(shown) and not asked:
        return None
    rows = [(model.name, *_cells(model.weights_by_bits, shown)) for model in report.models]
    total = ("total", *_cells(report.weights_by_bits, shown))
    headings = ("model", *(f"{bits} bits" for bits in shown))
    widths = [max(map(len, column)) + _BETWEEN for column in zip(headings, total, *rows)]
    room = max(_WIDTH - sum(widths), _LEAST_ROOM)
    columns = words("model") + figures(*headings[1:])
    if not asked:
        return Grid(_title(report), columns, tuple(rows), total)
    return Grid(
        _title(report),
        columns + words("in float"),
        tuple((*row, _why(model, room)) for row, model in zip(rows, report.models)),
        (*total, ""),
    )


def _title(report: Report) -> str:
    few = sum(n for bits, n in report.weights_by_bits.items() if int(bits) < _FLOAT_BITS)
    whole = sum(report.weights_by_bits.values())
    share = f", {100 * few / whole:.0f} % of the bytes in fewer than 32" if whole else ""
    return f"weights by the bits that they are stored in{share}"


def _shown(found: list[Mapping[str, int]]) -> list[str]:
    """The widths that matter in one of the models, most bits first."""
    shown = {
        bits
        for by_bits in found
        for bits, nbytes in by_bits.items()
        if nbytes > _HARDLY_ANY * sum(by_bits.values())
    }
    return sorted(shown, key=int, reverse=True)


def _in_few(shown: list[str]) -> bool:
    return any(int(bits) < _FLOAT_BITS for bits in shown)


def _cells(by_bits: Mapping[str, int], shown: list[str]) -> list[str]:
    return [format_bytes(by_bits[bits]) if by_bits.get(bits) else "-" for bits in shown]


def _why(model: ModelReport, room: int) -> str:
    """A line for each reason: 'conv1: not in the plan, would lose 1.25 %'."""
    reasons: dict[str, list[FloatWeight]] = {}
    for weight in model.in_float:
        reasons.setdefault(weight.why, []).append(weight)
    by_size = sorted(reasons.items(), key=lambda item: -sum(one.nbytes for one in item[1]))
    return "\n".join(_line(why, weights, room) for why, weights in by_size) or "-"


def _line(why: str, weights: list[FloatWeight], room: int) -> str:
    losses = [one.predicted_loss for one in weights if one.predicted_loss is not None]
    if losses:
        why = f"would lose {loss_text(max(losses))}"
    if len(weights) == 1:
        return f"{shortened(weights[0].operator, room - len(why) - 2)}: {why}"
    size = format_bytes(sum(one.nbytes for one in weights))
    up_to = why.replace("would lose", "would lose up to", 1)
    return shortened(f"{len(weights)}, {size}: {up_to}", room)
