"""How much of each model is computed in 8 bits, as values and as a table, and what is not."""

from __future__ import annotations

from ..units import format_count
from .report import FloatOperator, ModelReport, Report
from .rewrites import loss_text, shortened
from .table import Grid, figures, words

_WIDTH, _BETWEEN, _LEAST_ROOM = 80, 2, 36


def arithmetic_grid(report: Report) -> Grid | None:
    """A row per model: multiply-accumulates in 8 bits, and what stays in float, and why.

    None where no target was asked for and nothing is computed in 8 bits.
    """
    if report.target == "any" and not any(model.macs_in_eight_bits for model in report.models):
        return None
    rows = [
        (model.name, *_cells(model.macs_in_eight_bits, model.macs_after)) for model in report.models
    ]
    done = sum(model.macs_in_eight_bits for model in report.models)
    whole = sum(model.macs_after for model in report.models)
    total = ("total", *_cells(done, whole))
    headings = ("model", "MACs in 8 bits", "share")
    widths = [max(map(len, column)) + _BETWEEN for column in zip(headings, total, *rows)]
    room = max(_WIDTH - sum(widths), _LEAST_ROOM)
    return Grid(
        f"computed in 8 bits, for {'TensorRT' if report.target == 'tensorrt' else 'a processor'}",
        words("model") + figures(*headings[1:]) + words("in float"),
        tuple((*row, _why(model, room)) for row, model in zip(rows, report.models)),
        (*total, ""),
    )


def _cells(done: int, whole: int) -> tuple[str, str]:
    share = f"{100 * done / whole:.0f} %" if whole else "-"
    return format_count(done) if done else "-", share


def _why(model: ModelReport, room: int) -> str:
    """A line for each reason, that of most work first."""
    reasons: dict[str, list[FloatOperator]] = {}
    for one in model.computed_in_float:
        reasons.setdefault(one.why, []).append(one)
    by_work = sorted(reasons.items(), key=lambda item: -sum(one.macs for one in item[1]))
    return "\n".join(_line(why, operators, room) for why, operators in by_work) or "-"


def _line(why: str, operators: list[FloatOperator], room: int) -> str:
    losses = [one.predicted_loss for one in operators if one.predicted_loss is not None]
    if losses:
        why = f"would lose {loss_text(max(losses))}"
    if len(operators) == 1:
        return f"{shortened(operators[0].operator, room - len(why) - 2)}: {why}"
    macs = format_count(sum(one.macs for one in operators))
    up_to = why.replace("would lose", "would lose up to", 1)
    return shortened(f"{len(operators)}, {macs}: {up_to}", room)
