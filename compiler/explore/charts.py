"""The trade-off as charts: fidelity over the weight bytes left, and over the MACs left."""

from __future__ import annotations

from collections.abc import Callable

from ..execution.fidelity import VARIANCE
from ..reports.chart import Chart, Dot, Series
from ..reports.table import shown_share, with_share
from ..units import format_bytes, format_count
from .report import Exploration, ExploredPoint, anchor, measured_text

Share = Callable[[ExploredPoint], float]


def charts_of(found: Exploration) -> tuple[Chart, Chart]:
    """Fidelity over bytes and over MACs: predicted, measured, and accuracy where it was judged."""
    return (
        _chart(found, "weight bytes", found.weights_share),
        _chart(found, "multiply-accumulates", found.macs_share),
    )


def _chart(found: Exploration, what: str, share: Share) -> Chart:
    lines: dict[str, dict[int, float]] = {
        "variance kept, predicted": {p.number: p.predicted for p in found.points},
        "variance kept, measured": {
            p.number: p.variance for p in found.points if p.variance is not None
        },
    }
    worst = {p.number: p.worst for p in found.points if p.worst is not None}
    metrics = list(dict.fromkeys(fidelity.metric for fidelity in worst.values()))
    if metrics != [VARIANCE]:
        lines[f"{' or '.join(metrics)}, measured"] = {k: one.value for k, one in worst.items()}
    for name, before in found.points[0].accuracy.items():
        # As shares of the files' own: on the same scale as fidelity, whatever the task is.
        if before > 0:
            lines[f"accuracy kept, {name}"] = {
                p.number: p.accuracy[name] / before for p in found.points if name in p.accuracy
            }
    series = tuple(
        Series(
            name,
            tuple(
                Dot(share(p), values[p.number], str(p.number), told(found, p), f"#{anchor(p)}")
                for p in found.points
                if p.number in values
            ),
            predicted=name.endswith("predicted"),
            best_only=True,
        )
        for name, values in lines.items()
        if values
    )
    return Chart(
        f"fidelity over {what} left",
        f"{what}, of those of the models apart",
        series,
        ((found.floor, f"--min-fidelity {found.floor:g}"),),
    )


def told(found: Exploration, point: ExploredPoint) -> str:
    """What is said of a point: '3: 1.05 MiB (75 %), 41.2 M MACs (60 %); 1 region out; ...'."""
    weights = with_share(
        format_bytes(point.weights_nbytes), point.weights_nbytes, found.weights_apart_nbytes
    )
    macs = with_share(f"{format_count(point.macs)} MACs", point.macs, found.macs_apart)
    measured = "not measured" if point.worst is None else f"measured {measured_text(point)}"
    return (
        f"{point.number}: {weights}, {macs}; {point.summary}; predicted "
        f"{shown_share(point.predicted)}, {measured}"
    )
