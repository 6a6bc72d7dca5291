"""The trade-off as JSON and as a table."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from repsimc.compiler.explore.report import (
    Exploration,
    ExploredOutput,
    accuracy_text,
    explore_grid,
    measured_text,
)
from repsimc.compiler.planning.plan import plan_from_json
from repsimc.compiler.reports.table import markdown, print_grid
from tests.explore.conftest import HOSTILE, exploration, fidelity


def printed(found: Exploration, width: int = 80) -> str:
    told = io.StringIO()
    print_grid(explore_grid(found), Console(file=told, width=width, highlight=False))
    return told.getvalue()


def test_json_tells_every_point_and_its_plan() -> None:
    found = exploration()
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert value["schema"] == "repsimc.explore/1"
    assert [point["weights_nbytes"] for point in value["points"]] == [2000, 1500, 1000]
    assert plan_from_json(value["points"][1]["plan"]) == found.points[1].plan
    [first, second] = value["points"][1]["outputs"]
    assert (first["model"], first["predicted_loss"], first["accuracy"]) == ("a", 0.01, 0.89)
    assert first["fidelity"]["value"] == 0.98 and second["model"] == "b"
    assert value["points"][2]["outputs"][0]["fidelity"] is None
    assert value["points"][1]["actions"] == ["a goes without a_in .. a_out"]


def test_infinite_predictions_are_json_too() -> None:
    found = exploration()
    endless = replace(found.points[2], outputs=(ExploredOutput("a", "y", math.inf),))
    value = json.loads(json.dumps(endless.to_json(), allow_nan=False))
    assert value["outputs"][0]["predicted_loss"] == "inf"
    assert endless.predicted == 0
    assert replace(endless, outputs=(ExploredOutput("a", "y", math.nan),)).predicted == 0


def test_the_table_fits_a_terminal(golden: Callable[[str, str], None]) -> None:
    told = printed(exploration())
    table = told.split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 80
    golden("explore_table.txt", told)


def test_a_table_without_labels_has_no_column_for_them() -> None:
    told = markdown(explore_grid(exploration(labelled=False)))
    assert "accuracy" not in told and "measured" in told


def test_a_missed_floor_is_marked() -> None:
    exact, measured, predicted = exploration().points
    assert measured_text(exact) == "1.0000"
    assert measured_text(measured) == "0.9800 *"
    assert measured_text(predicted) == "-"


def test_accuracy_of_several_outputs_is_the_worst_change() -> None:
    found = exploration()
    assert accuracy_text(found, found.points[1]) == "-1.00"
    assert accuracy_text(found, found.points[2]) == "-"
    alone = replace(found, points=tuple(replace(p, outputs=p.outputs[:1]) for p in found.points))
    assert accuracy_text(alone, alone.points[1]) == "89.00 %"


def test_the_worst_output_is_told() -> None:
    outputs = tuple(
        ExploredOutput(model, "y", loss, fidelity(value, 0.9, explained))
        for model, loss, value, explained in (("a", 0.1, 0.99, 0.7), ("b", 0.3, 0.95, 0.8))
    )
    point = replace(exploration().points[1], outputs=outputs)
    assert point.worst is not None and point.worst.value == 0.95
    assert (point.predicted, point.variance) == (pytest.approx(0.7), 0.7)


def test_names_do_not_steer_the_terminal() -> None:
    told = printed(exploration(HOSTILE))
    assert "\x1b" not in told and "\u202e" not in told
