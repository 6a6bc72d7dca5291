"""The trade-off of a set of models as a value: points of a front, in JSON and as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...runtime.json_values import JsonValue
from ..planning.damage import described
from ..planning.plan import Plan
from ..reports.report import OutputFidelity
from ..reports.table import Grid, figures, shown_share, words
from ..units import format_bytes, format_count

SCHEMA = "repsimc.explore/1"
# What marks, in a table, a fidelity that misses its floor.
MISSED = "*"


@dataclass(frozen=True)
class ExploredOutput(JsonValue):
    """What a point does to one output of a model.

    `predicted_loss` is the share of the output's variance that is predicted to be lost; `fidelity`
    what was measured on held-out frames, None where nothing was. `accuracy` is the share of
    labelled frames whose class is right, 0..1; None without labels, or without a measurement.
    """

    model: str
    output: str
    predicted_loss: float
    fidelity: OutputFidelity | None = None
    accuracy: float | None = None

    @property
    def name(self) -> str:
        """'model/output'."""
        return f"{self.model}/{self.output}"


@dataclass(frozen=True)
class ExploredPoint:
    """A plan of the front, what it costs, and what it does to every output.

    `weights_nbytes` are unique bytes, `macs` per frame of each model. `command` is the command line
    that compiles the plan, '' where the plan was not written to a file.
    """

    number: int
    weights_nbytes: int
    macs: int
    outputs: tuple[ExploredOutput, ...]
    plan: Plan
    command: str = ""

    @property
    def summary(self) -> str:
        """'2 prefixes shared, 1 region out'."""
        return described([planned.action for planned in self.plan.actions])

    @property
    def predicted(self) -> float:
        """The share of its variance that the worst output is predicted to keep, 0..1."""
        lost = max((output.predicted_loss for output in self.outputs), default=0.0)
        return 0.0 if math.isnan(lost) else min(1.0, max(0.0, 1.0 - lost))

    @property
    def worst(self) -> OutputFidelity | None:
        """The measured output with the least room above its floor; None where none was measured."""
        measured = [output.fidelity for output in self.outputs if output.fidelity is not None]
        return min(measured, key=lambda fidelity: fidelity.margin, default=None)

    @property
    def variance(self) -> float | None:
        """The share of its variance that the worst output was measured to keep."""
        shares = [
            output.fidelity.explained
            for output in self.outputs
            if output.fidelity is not None and output.fidelity.explained is not None
        ]
        return min(shares, key=lambda share: (not math.isnan(share), share), default=None)

    @property
    def accuracy(self) -> dict[str, float]:
        """The accuracy of every output that was judged, by 'model/output'."""
        return {one.name: one.accuracy for one in self.outputs if one.accuracy is not None}

    def to_json(self) -> dict[str, Any]:
        """The point as JSON types; `plan` is what its plan file holds."""
        return {
            "number": self.number,
            "weights_nbytes": self.weights_nbytes,
            "macs": self.macs,
            "outputs": [output.to_json() for output in self.outputs],
            "actions": [str(planned.action) for planned in self.plan.actions],
            "plan": self.plan.to_json(),
            "command": self.command,
        }


@dataclass(frozen=True)
class Exploration:
    """The front of a set of models: first the exact program, then plans by falling size.

    `weights_apart_nbytes` and `macs_apart` are those of the models apart, of which shares are told.
    `floor` is the fidelity that was asked for; `frames_*` count the calibration frames.
    """

    models: tuple[str, ...]
    points: tuple[ExploredPoint, ...]
    weights_apart_nbytes: int
    macs_apart: int
    floor: float
    frames_fit: int
    frames_held_out: int
    notes: tuple[str, ...] = ()

    def weights_share(self, point: ExploredPoint) -> float:
        """The weight bytes of a point as a share of the models' apart."""
        return _share(point.weights_nbytes, self.weights_apart_nbytes)

    def macs_share(self, point: ExploredPoint) -> float:
        """The MACs of a point as a share of the models' apart."""
        return _share(point.macs, self.macs_apart)

    @property
    def title(self) -> str:
        """'trade-off of a, b'."""
        return f"trade-off of {', '.join(self.models)}"

    def to_json(self) -> dict[str, Any]:
        """The trade-off as JSON types, schema 'repsimc.explore/1'."""
        return {
            "schema": SCHEMA,
            "models": list(self.models),
            "weights_apart_nbytes": self.weights_apart_nbytes,
            "macs_apart": self.macs_apart,
            "floor": self.floor,
            "frames_fit": self.frames_fit,
            "frames_held_out": self.frames_held_out,
            "points": [point.to_json() for point in self.points],
            "notes": list(self.notes),
        }


def explore_grid(found: Exploration) -> Grid:
    """The front as a table for 80 columns: a row per point, shares of the models apart."""
    judged = bool(found.points[0].accuracy)
    columns = figures("", "weights", "%", "MACs", "%", "predicted", "measured")
    columns += figures("accuracy") if judged else ()
    rows = [
        (
            str(point.number),
            format_bytes(point.weights_nbytes),
            percent(found.weights_share(point)),
            format_count(point.macs),
            percent(found.macs_share(point)),
            shown_share(point.predicted),
            measured_text(point),
            *([accuracy_text(found, point)] if judged else []),
            point.summary,
        )
        for point in found.points
    ]
    return Grid(
        found.title,
        columns + words("plan"),
        tuple(rows),
        summary=legend(found),
        notes=found.notes,
    )


def anchor(point: ExploredPoint) -> str:
    """What a page calls a point's row: 'point-3'."""
    return f"point-{point.number}"


def legend(found: Exploration) -> tuple[str, ...]:
    """What the columns of the table mean."""
    lines = [
        "%: of the models apart; predicted: the share of its variance that the worst output keeps",
        f"measured: fitted on {found.frames_fit} frames, the worst fidelity on "
        f"{found.frames_held_out} others; {MISSED} misses its floor",
    ]
    judged = len(found.points[0].accuracy)
    if judged == 1:
        lines.append("accuracy: on the labelled frames")
    elif judged:
        lines.append("accuracy: the worst change of an output on the labelled frames, in points")
    return tuple(lines)


def percent(share: float) -> str:
    """'75', of 0.751; a share of nothing is no number."""
    return f"{100 * share:.0f}"


def measured_text(point: ExploredPoint) -> str:
    """'0.9960', with a mark where the floor is missed; '-' where nothing was measured."""
    worst = point.worst
    if worst is None:
        return "-"
    return shown_share(worst.value) + ("" if worst.met else f" {MISSED}")


def accuracy_text(found: Exploration, point: ExploredPoint) -> str:
    """'91.20 %' of one output, '-0.45' as the worst change of several; '-' without any."""
    now, before = point.accuracy, found.points[0].accuracy
    if not now:
        return "-"
    if len(before) == 1:
        (value,) = now.values()
        return f"{100 * value:.2f} %"
    return f"{100 * min(now[name] - before[name] for name in now):+.2f}"


def _share(value: int, base: int) -> float:
    return value / base if base > 0 else 1.0
