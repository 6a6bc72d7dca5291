"""What the charts of a trade-off show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repsimc.compiler.execution.fidelity import VARIANCE
from repsimc.compiler.explore.charts import charts_of
from tests.explore.conftest import exploration


def test_predicted_and_measured_are_drawn_over_bytes_and_macs() -> None:
    found = exploration()
    found = replace(found, points=(*found.points[:2], replace(found.points[2], macs=2000)))
    by_bytes, by_macs = charts_of(found)
    predicted, variance, top1, *accuracy = by_bytes.series
    assert [dot.x for dot in predicted.dots] == [1.0, 0.75, 0.5]
    assert [dot.x for dot in by_macs.series[0].dots] == [1.0, 0.75, 0.25]
    assert [dot.y for dot in predicted.dots] == pytest.approx([1.0, 0.99, 0.75])
    assert predicted.predicted and not variance.predicted
    assert [dot.y for dot in variance.dots] == [0.98, 0.98]
    assert (top1.name, [dot.y for dot in top1.dots]) == ("top-1 agreement, measured", [1.0, 0.98])
    assert [series.name for series in accuracy] == ["accuracy kept, a/y", "accuracy kept, b/y"]
    assert [dot.y for dot in accuracy[0].dots] == pytest.approx([1.0, 0.89 / 0.9])
    assert by_bytes.levels == ((0.99, "--min-fidelity 0.99"),)


def test_explained_variance_is_not_drawn_twice() -> None:
    found = exploration(labelled=False)
    points = tuple(
        replace(
            point,
            outputs=tuple(
                replace(o, fidelity=o.fidelity and replace(o.fidelity, metric=VARIANCE))
                for o in point.outputs
            ),
        )
        for point in found.points
    )
    names = [series.name for series in charts_of(replace(found, points=points))[0].series]
    assert names == ["variance kept, predicted", "variance kept, measured"]


def test_dots_lead_to_their_rows_and_say_what_they_are() -> None:
    dot = charts_of(exploration())[0].series[0].dots[1]
    assert (dot.label, dot.link) == ("1", "#point-1")
    assert "1.46 KiB (75 %)" in dot.told and "1 region out" in dot.told
