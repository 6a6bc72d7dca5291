"""What was rewritten inexactly, as a table: where, what it saves, and what it was to cost."""

from __future__ import annotations

import math
from dataclasses import replace

from ..units import format_bytes, format_count
from .report import ActionReport, Report
from .table import Grid, figures, words

# The table's columns fit into so many characters, whatever the names are.
_WIDTH = 80
_HEADINGS = ("kind", "place", "weights", "MACs", "loss")
_PLACE = 1
_BETWEEN = 2  # characters between two columns
# Words of a place are shortened to no less than that, before the place is cut as a whole.
_LEAST_WORD = 9
_CUT = "..."
# Actions that have a line of their own, and of one series before they share one.
_LISTED, _FEW = 40, 3


def rewrites_grid(report: Report) -> Grid | None:
    """A row per action of the plan, and below what all together were to cost, and did.

    Many of one series are one row. None where everything is exact.
    """
    if not report.actions:
        return None
    actions = _in_series(report.actions)
    listed = _listed(actions)
    rows = [_row(one) for one in listed]
    others = [
        max(len(heading), *(len(row[index]) for row in rows))
        for index, heading in enumerate(_HEADINGS)
        if index != _PLACE
    ]
    room = _WIDTH - sum(others) - _BETWEEN * len(others)
    more = len(actions) - len(listed)
    return Grid(
        "rewritten inexactly: what each saves alone, and was predicted to lose",
        words(*_HEADINGS[: _PLACE + 1]) + figures(*_HEADINGS[_PLACE + 1 :]),
        tuple(
            tuple(shortened(cell, room) if i == _PLACE else cell for i, cell in enumerate(row))
            for row in rows
        ),
        summary=(
            _together(report),
            "loss: the share of its variance that the output loses which loses most",
        ),
        notes=(f"{more} more, none predicted to lose more, are in report.json",) if more else (),
    )


def _in_series(actions: tuple[ActionReport, ...]) -> tuple[ActionReport, ...]:
    """The actions, those of a series as one where they are more than a few, at the first's place.

    What they lose multiplies: of what one leaves the next takes its share.
    """
    series: dict[str, list[ActionReport]] = {}
    for one in actions:
        series.setdefault(one.series, []).append(one)
    found: list[ActionReport] = []
    for one in actions:
        members = series[one.series]
        if not one.series or len(members) <= _FEW:
            found.append(one)
        elif one is members[0]:
            losses = [member.predicted_loss for member in members]
            kept = math.prod(1.0 - loss for loss in losses if loss is not None)
            found.append(
                replace(
                    one,
                    place=f"{one.series}, {len(members)} times",
                    weights_saved_nbytes=sum(member.weights_saved_nbytes for member in members),
                    macs_saved=sum(member.macs_saved for member in members),
                    predicted_loss=None if None in losses else 1.0 - kept,
                )
            )
    return tuple(found)


def _listed(actions: tuple[ActionReport, ...]) -> list[ActionReport]:
    """Those that were predicted to lose most, or of which nothing was predicted, in order."""

    def loss(index: int) -> float:
        found = actions[index].predicted_loss
        return math.inf if found is None else found

    worst = sorted(range(len(actions)), key=lambda index: (-loss(index), index))[:_LISTED]
    return [actions[index] for index in sorted(worst)]


def _row(action: ActionReport) -> tuple[str, ...]:
    nbytes, macs = action.weights_saved_nbytes, action.macs_saved
    return (
        action.kind,
        action.place,
        format_bytes(nbytes) if nbytes > 0 else "-",
        format_count(macs) if macs > 0 else "-",
        loss_text(action.predicted_loss),
    )


def _together(report: Report) -> str:
    measured = report.measured_loss
    found = "not measured" if measured is None else f"{loss_text(measured)} as measured"
    if report.predicted_loss is None:
        return f"all together: {found}"
    return f"all together: {loss_text(report.predicted_loss)} as predicted, {found}"


def loss_text(share: float | None) -> str:
    """'1.25 %', '<0.01 %' of a share that is nearly nothing; '-' where it is not known."""
    if share is None:
        return "-"
    percent = 100 * share
    if percent >= 10:
        return f"{percent:.1f} %"
    return f"{percent:.2f} %" if percent >= 0.01 else "<0.01 %" if percent > 0 else "0 %"


def shortened(text: str, width: int) -> str:
    """The text in so many characters: its longest words lose their middle, then the whole does."""
    words_of = text.split(" ")
    for most in range(max(map(len, words_of)), _LEAST_WORD - 1, -1):
        found = " ".join(_cut(word, most) for word in words_of)
        if len(found) <= width:
            return found
    return _cut(text, width)


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    left = max(width - len(_CUT), 0)
    end = left // 2
    return text[: left - end] + _CUT + (text[-end:] if end else "")
