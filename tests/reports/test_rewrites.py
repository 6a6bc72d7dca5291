"""What was rewritten, as a table: in 80 columns, with what was predicted beside what came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from repsimc.compiler.reports.report import ActionReport, ModelReport, OutputFidelity, Report
from repsimc.compiler.reports.rewrites import loss_text, rewrites_grid, shortened
from repsimc.compiler.reports.table import Grid
from tests.reports.test_report import report
from tests.reports.test_table import printed

VARIANCE = "explained variance"
LONG = "/model/backbone/layers.12/residual/activation_function"
ACTIONS = (
    ActionReport(
        "share-prefix", "b: relu_9 <- relu_3 + relu_5 of a", 1_100_000, 41_200_000, 0.0312
    ),
    ActionReport("collapse", f"detector: {LONG}/Relu .. {LONG}/Add_output_0", 9000, 500, 0.00002),
    ActionReport("fold-activation", "a: relu_4", 0, -20, None),
    ActionReport("prune-channels", "a: dead", 64, 0, 0.0),
)


def told(*actions: ActionReport, predicted: float | None = 0.045, **changes: object) -> Grid:
    grid = rewrites_grid(report(actions=actions, predicted_loss=predicted, **changes))
    assert grid is not None
    return grid


def model(*explained: float | None) -> ModelReport:
    outputs = tuple(
        OutputFidelity(f"y{index}", VARIANCE, 0.99, 0.9, 100, explained=one)
        for index, one in enumerate(explained)
    )
    return ModelReport("a", 1, 1, 1, 1, 1, 1, (), outputs)


def test_the_table_says_why(golden: Callable[[str, str], None]) -> None:
    measured = (model(0.999, 0.97811),)
    golden("rewrites_table.txt", printed(told(*ACTIONS, models=measured), width=80))


def test_it_fits_into_80_columns_whatever_the_names_are() -> None:
    for place in ("a: x", f"a: {LONG}", f"a: {LONG} .. {LONG}, {LONG * 3}", "a: " + 30 * "x "):
        grid = told(ActionReport("narrow-attention", place, 1023 * 1024, 999_000_000, 0.5))
        table = printed(grid, width=80).split("\n\n")[0].splitlines()
        # One line under the title for the headings, one rule, one action: nothing was wrapped.
        assert len(table) == 4 and max(map(len, table)) <= 80
        assert ("..." in table[-1]) == (len(place) > 40)


def test_without_actions_there_is_no_table() -> None:
    assert rewrites_grid(report()) is None


def test_what_nobody_predicted_or_measured_is_not_told() -> None:
    line, _ = told(ACTIONS[2], predicted=None, models=(model(None),)).summary
    assert line.startswith("all together: not measured")
    line, _ = told(ACTIONS[2], predicted=0.5, models=(model(1.0),)).summary
    assert line.startswith("all together: 50.0 % as predicted, 0 % as measured")
    line, _ = told(ACTIONS[2], predicted=None, models=(model(0.9, math.nan),)).summary
    assert line.startswith("all together: 100.0 % as measured")


def test_of_very_many_those_that_lose_most_have_a_line() -> None:
    many = [ActionReport("collapse", f"a: r{k}", k, k, k / 1000) for k in range(60)]
    many[3] = ActionReport("collapse", "a: r3", 3, 3, None)
    grid = told(*many)
    assert [row[1] for row in grid.rows] == ["a: r3", *(f"a: r{k}" for k in range(21, 60))]
    assert grid.notes == ("20 more, none predicted to lose more, are in report.json",)


def rounded(name: str, series: str, lost: float | None = 0.1) -> ActionReport:
    return ActionReport("store-in-few-bits", f"a: {name}", 1024, 0, lost, series)


def test_more_than_a_few_of_one_series_are_one_row_where_the_first_of_them_was() -> None:
    eight = [rounded(f"conv{k}", "a: weights in 8 bits") for k in range(4)]
    four = [rounded(f"fc{k}", "a: weights in 4 bits") for k in range(3)]
    grid = told(ACTIONS[0], *eight[:2], *four, *eight[2:])
    assert [row[1:] for row in grid.rows[1:]] == [
        # Of what the one leaves the next takes its tenth: 1 - 0.9 ** 4.
        ("a: weights in 8 bits, 4 times", "4 KiB", "-", "34.4 %"),
        *((f"a: fc{k}", "1 KiB", "-", "10.0 %") for k in range(3)),
    ]
    (row,) = told(*eight[1:], rounded("conv9", "a: weights in 8 bits", None)).rows
    assert row[-1] == "-"
    # Each action has its entry in the report all the same.
    value = report(actions=(*eight, *four))
    assert Report.from_json(json.loads(json.dumps(value.to_json()))) == value


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (None, "-"),
        (0.0, "0 %"),
        (1e-6, "<0.01 %"),
        (0.0001, "0.01 %"),
        (0.0312, "3.12 %"),
        (0.25, "25.0 %"),
        (1.0, "100.0 %"),
    ],
)
def test_losses_are_percents(share: float | None, said: str) -> None:
    assert loss_text(share) == said


def test_names_lose_their_middle_and_keep_both_ends() -> None:
    assert shortened("a: relu_3", 9) == "a: relu_3"
    assert shortened("a: abcdefghijklmnop .. b", 20) == "a: abcde...mnop .. b"
    # The longest words first: the short one is still whole.
    found = shortened(f"a: {LONG} .. relu", 40)
    assert len(found) <= 40 and found.startswith("a: /model") and found.endswith(" .. relu")
    for width in (1, 5, 12):
        assert len(shortened(f"a: {LONG} .. {LONG}", width)) <= max(width, 3)


def test_the_actions_of_a_report_survive_json_text() -> None:
    value = report(actions=ACTIONS, predicted_loss=0.045)
    data = json.loads(json.dumps(value.to_json(), allow_nan=False))
    assert Report.from_json(data) == value
    assert data["actions"][0] == {
        "kind": "share-prefix",
        "place": "b: relu_9 <- relu_3 + relu_5 of a",
        "weights_saved_nbytes": 1_100_000,
        "macs_saved": 41_200_000,
        "predicted_loss": 0.0312,
        "series": "",
    }
