"""The depth curve as a picture: fidelity and accuracy over the multiply-accumulates left."""

from __future__ import annotations

from ..reports.chart import Chart, Dot, Series, chart_png
from .report import DepthCurve


def depth_png(curve: DepthCurve, picked: int | None = None) -> bytes:
    """A PNG: x is the share of multiply-accumulates left, y fidelity (and accuracy), 0..1."""
    base = curve.points[0]
    lines: dict[str, list[float]] = {
        base.worst.metric: [point.worst.value for point in curve.points]
    }
    for name in base.accuracy:
        lines[f"accuracy {name}"] = [point.accuracy[name] for point in curve.points]
    series = tuple(
        Series(
            name,
            tuple(
                Dot(
                    point.macs / base.macs if base.macs else 1.0,
                    value,
                    str(point.regions),
                    strong=point.regions == picked,
                )
                for point, value in zip(curve.points, values)
            ),
        )
        for name, values in lines.items()
    )
    title = f"depth of {curve.model}: fidelity over multiply-accumulates left"
    return chart_png([Chart(title, "multiply-accumulates left", series)])
