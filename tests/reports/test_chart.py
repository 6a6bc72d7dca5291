"""Charts: pictures that open, SVG that parses and holds every dot, and no markup of names."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ET

import numpy as np
from PIL import Image

from repsimc.compiler.reports.chart import Chart, Dot, Series, chart_png, chart_svg

PREDICTED = Series(
    "predicted", (Dot(1.0, 1.0, "0"), Dot(0.7, 0.9, "1"), Dot(0.4, 0.5, "2")), predicted=True
)
MEASURED = Series("measured", (Dot(1.0, 1.0, "0", "all", "#p0"), Dot(0.4, 0.6, "2", strong=True)))
CHART = Chart("a chart", "bytes", (PREDICTED, MEASURED), ((0.95, "floor"),))
HOSTILE = '</title><script>alert("&")</script>\x1b'


def pixels(charts: list[Chart]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(chart_png(charts))).convert("RGB"))


def test_a_picture_has_the_colours_of_its_series_and_levels() -> None:
    found = {tuple(each) for each in pixels([CHART]).reshape(-1, 3).tolist()}
    assert {(0, 114, 178), (213, 94, 0), (190, 30, 30)} <= found
    without = {tuple(each) for each in pixels([Chart("", "", (PREDICTED,))]).reshape(-1, 3)}
    assert (213, 94, 0) not in without and (190, 30, 30) not in without


def test_charts_stand_side_by_side_and_are_the_same_each_time() -> None:
    one, two = pixels([CHART]), pixels([CHART, CHART])
    assert two.shape == (one.shape[0], 2 * one.shape[1], 3)
    np.testing.assert_array_equal(two[:, one.shape[1] :], one)
    assert chart_png([CHART]) == chart_png([CHART])


def test_a_predicted_line_has_gaps() -> None:
    dots = (Dot(1.0, 0.5), Dot(0.2, 0.5))
    lines = [
        (pixels([Chart("", "", (Series("", dots, predicted),))]) == (0, 114, 178)).all(-1).sum()
        for predicted in (False, True)
    ]
    assert 0 < lines[1] < 0.7 * lines[0]


def test_svg_has_every_dot_in_its_place() -> None:
    root = ET.fromstring(chart_svg(CHART))
    circles = [dict(each.attrib) for each in root.iter("circle")]
    assert len(circles) == 5
    across = [float(each["cx"]) for each in circles[:3]]
    down = [float(each["cy"]) for each in circles[:3]]
    assert across == sorted(across, reverse=True), "x falls"
    assert down == sorted(down), "y falls, and pixels count from the top"
    assert [link.get("href") for link in root.iter("a")] == ["#p0"]
    told = [each.text for each in root.iter("text")]
    assert {"a chart", "bytes", "floor", "measured"} <= set(told)
    assert told[-3:] == ["0", "1", "2"], "over all dots, and once"
    assert [each.get("class") for each in root.iter("g")] == ["s0 predicted", "s1"]


def test_what_is_no_number_is_left_out() -> None:
    dots = (Dot(1.0, 1.0), Dot(0.5, math.nan), Dot(math.inf, 0.5))
    chart = Chart("", "", (Series("", dots),))
    assert len(list(ET.fromstring(chart_svg(chart)).iter("circle"))) == 1
    assert chart_png([chart])
    assert chart_png([Chart("nothing", "", ())]) and chart_svg(Chart("nothing", "", ()))


def test_the_line_joins_the_best_only_where_asked() -> None:
    dots = (Dot(1.0, 1.0), Dot(0.8, 0.7), Dot(0.6, 0.9), Dot(0.6, 0.2), Dot(0.3, 0.4))
    assert Series("", dots).line == dots
    assert Series("", dots, best_only=True).line == (dots[4], dots[2], dots[0])


def test_names_are_text_and_nothing_else() -> None:
    series = Series(HOSTILE, (Dot(0.5, 0.5, HOSTILE, HOSTILE, f"#{HOSTILE}"),))
    chart = Chart(HOSTILE, HOSTILE, (series,), ((0.9, HOSTILE),))
    shown = chart_svg(chart)
    assert "<script" not in shown and "\x1b" not in shown
    assert not list(ET.fromstring(shown).iter("script"))
    assert chart_png([chart])
