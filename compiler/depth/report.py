"""The depth curve as a value: what each further region's going saves and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...runtime.json_values import JsonValue
from ..reports.report import OutputFidelity
from ..reports.table import Grid, figures, with_share, words
from ..units import format_bytes, format_count

SCHEMA = "repsimc.depth/1"


@dataclass(frozen=True)
class DepthPoint(JsonValue):
    """The model with `regions` regions out: what it costs then and how well it does.

    `removed` is the region that went last, by the model's own names, '' at the start;
    `instead` says what took its place. `latency_seconds` is the median of one frame on one
    thread. `accuracy` is 0..1 by output, empty without labels.
    """

    regions: int
    removed: str
    instead: str
    weights_nbytes: int
    macs: int
    latency_seconds: float
    fidelity: tuple[OutputFidelity, ...]
    error: float
    accuracy: dict[str, float]

    @property
    def worst(self) -> OutputFidelity:
        """The output with the least room above its floor."""
        return min(self.fidelity, key=lambda output: output.margin)


@dataclass(frozen=True)
class DepthCurve:
    """A model's trade-off between depth and fidelity, the unchanged model first.

    The points are fitted on few frames: a model compiled at one of them is fitted on all and
    does a little better. `refused` are parts that could not go, with the reason.
    """

    model: str
    points: tuple[DepthPoint, ...]
    refused: tuple[tuple[str, str], ...]
    frames_fit: int
    frames_held_out: int

    def to_json(self) -> dict[str, Any]:
        """The curve as JSON types, schema 'repsimc.depth/1'."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "frames_fit": self.frames_fit,
            "frames_held_out": self.frames_held_out,
            "points": [point.to_json() for point in self.points],
            "refused": [{"region": name, "reason": why} for name, why in self.refused],
        }


def depth_grid(curve: DepthCurve, picked: int | None = None) -> Grid:
    """The curve as a table; the picked point is marked."""
    judged = sorted({name for point in curve.points for name in point.accuracy})
    columns = figures("out") + words("region") + figures("MACs", "weights", "latency")
    columns += figures(curve.points[0].worst.metric)
    columns += figures(*("accuracy" if len(judged) == 1 else f"accuracy {n}" for n in judged))
    base = curve.points[0]
    rows = [
        (
            f"{'> ' if point.regions == picked else ''}{point.regions}",
            point.removed + (f" ({point.instead})" if point.instead else "") or "(unchanged)",
            with_share(format_count(point.macs), point.macs, base.macs),
            with_share(
                format_bytes(point.weights_nbytes), point.weights_nbytes, base.weights_nbytes
            ),
            with_share(
                f"{1e3 * point.latency_seconds:.2f} ms",
                point.latency_seconds,
                base.latency_seconds,
            ),
            f"{point.worst.value:.4f}",
            *(f"{100 * point.accuracy[name]:.2f} %" for name in judged),
        )
        for point in curve.points
    ]
    notes = tuple(f"{name} stays: {why}" for name, why in curve.refused[:8])
    return Grid(
        f"depth of {curve.model}",
        columns,
        tuple(rows),
        summary=(
            f"fitted on {curve.frames_fit} frames, compared on {curve.frames_held_out} others; "
            "--pick fits on all",
        ),
        notes=notes,
    )
