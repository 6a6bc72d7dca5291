from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

from repsimc.compiler.errors import ModelError
from repsimc.compiler.reports.report import ModelReport, OutputFidelity, Report, Sharing

TOP1 = "top-1 agreement"


def report(**changes: Any) -> Report:
    models = (
        ModelReport("a", 1000, 1000, 50, 50, 300, 300),
        ModelReport(
            "b",
            2000,
            500,
            100,
            10,
            400,
            200,
            (Sharing("a", ("t", "u"), ("v",), 0.75, False),),
            (OutputFidelity("scores", TOP1, 0.995, 0.99, 128),),
        ),
    )
    values: dict[str, Any] = {
        "models": models,
        "weights_before_nbytes": 3000,
        "weights_after_nbytes": 1500,
        "memory_before_nbytes": 4000,
        "memory_after_nbytes": 2000,
        "macs_before": 150,
        "macs_after": 60,
        "budget_nbytes": 2400,
        "budget_counts": "memory",
        "frames_fit": 384,
        "frames_held_out": 128,
        "inputs_tied": True,
        "notes": ("model 'c' was left alone",),
    }
    return Report(**(values | changes))


@pytest.mark.parametrize(
    "value",
    [
        report(),
        report(budget_nbytes=None, models=(), notes=()),
        report(budget_nbytes=1800, budget_counts="weights"),
    ],
)
def test_round_trip_through_json_text(value: Report) -> None:
    text = json.dumps(value.to_json(), allow_nan=False)
    assert Report.from_json(json.loads(text)) == value


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_fidelity_that_json_has_no_word_for_survives(value: float) -> None:
    text = json.dumps(OutputFidelity("y", TOP1, value, 0.99, 8).to_json(), allow_nan=False)
    found = OutputFidelity.from_json(json.loads(text)).value
    assert found == value or (math.isnan(found) and math.isnan(value))


def test_fields_of_a_later_version_are_passed_over() -> None:
    data = report().to_json() | {"colour": "green"}
    assert Report.from_json(data) == report()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("schema",), "repsimc.report/2", "schema 'repsimc.report/2'"),
        (("models",), {}, "'models' of 'report' is not a list"),
        (("models", 1, "macs_after"), "10", "'macs_after' of 'models' is not a whole number"),
        (("models", 1, "macs_after"), True, "'macs_after' of 'models' is not a whole number"),
        (("models", 1, "fidelity", 0, "value"), None, "'value' of 'fidelity' is not a number"),
        (("models", 1, "sharing", 0, "donor_values"), [1], "is not a list of texts"),
        (("models", 1, "sharing", 0), "a", "'sharing' is not a JSON object"),
        (("inputs_tied",), 1, "is not true or false"),
        (("budget_counts",), "time", "'budget_counts' of 'report' is none of memory, weights"),
    ],
)
def test_a_damaged_report_is_refused_by_field(
    path: tuple[str | int, ...], value: object, said: str
) -> None:
    data: Any = copy.deepcopy(report().to_json())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ModelError, match="report") as error:
        Report.from_json(data)
    assert said in error.value.message


LATER = {"sizes", "sizes_unknown", "ties", "actions", "predicted_loss", "weights_by_bits"}


def test_reports_of_earlier_versions_are_read() -> None:
    data = {key: value for key, value in report().to_json().items() if key not in LATER}
    assert Report.from_json(data) == report()


@pytest.mark.parametrize("key", [key for key in report().to_json() if key not in LATER])
def test_a_missing_field_is_refused(key: str) -> None:
    data = report().to_json()
    del data[key]
    with pytest.raises(ModelError, match=f"'{key}' of 'report' is missing"):
        Report.from_json(data)


def test_worst_is_the_output_nearest_to_or_farthest_below_its_floor() -> None:
    good = OutputFidelity("good", TOP1, 0.991, 0.99, 8)
    wide = OutputFidelity("wide", "explained variance", 0.95, 0.80, 8)
    broken = OutputFidelity("broken", TOP1, math.nan, 0.5, 8)
    close = OutputFidelity("close", "max abs difference", 1e-6, 1e-5, 8)
    far = OutputFidelity("far", "max abs difference", 0.5, 1e-5, 8)

    def worst(*outputs: OutputFidelity) -> str:
        found = ModelReport("a", 1, 1, 1, 1, 1, 1, (), outputs).worst
        assert found is not None
        return found.output

    assert worst(wide, good) == "good"
    assert worst(wide, good, far) == "far"
    assert worst(wide, far, broken) == "broken"
    assert [o.met for o in (good, wide, broken, close, far)] == [True, True, False, True, False]
    assert ModelReport("a", 1, 1, 1, 1, 1, 1).worst is None


def test_a_budget_in_bytes_is_on_memory() -> None:
    assert report().budget_met is True
    assert report(memory_after_nbytes=2401).budget_met is False
    assert report(weights_after_nbytes=2401).budget_met is True
    assert report(budget_nbytes=None).budget_met is None


def test_a_budget_that_is_a_share_is_on_weights() -> None:
    share = report(budget_counts="weights", budget_nbytes=1500)
    assert (share.budget_met, share.budget_spare_nbytes) == (True, 0)
    over = report(budget_counts="weights", budget_nbytes=1499)
    assert (over.budget_met, over.budget_spare_nbytes) == (False, -1)
