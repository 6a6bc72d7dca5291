"""Bytes by bits and what stays in float, as a table: in 80 columns, and only where it matters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from repsimc.compiler.reports.precision import precision_grid
from repsimc.compiler.reports.report import FloatWeight, ModelReport, Report
from repsimc.compiler.reports.table import Grid
from tests.reports.test_report import report
from tests.reports.test_table import printed

LONG = "/model/backbone/layers.12/residual/pointwise_convolution"
IN_FLOAT = (
    FloatWeight(LONG, 300_000, "not in the plan", 0.0125),
    FloatWeight("/head/Gemm", 40_000, "read by others, too"),
    FloatWeight("/a/Conv", 64, "hardly any weights"),
    FloatWeight("/b/Conv", 64, "hardly any weights"),
)


def model(name: str, by_bits: Mapping[str, int], *in_float: FloatWeight) -> ModelReport:
    nbytes = sum(by_bits.values())
    return ModelReport(name, nbytes, nbytes, 1, 1, 1, 1, weights_by_bits=by_bits, in_float=in_float)


def told(*models: ModelReport) -> Grid | None:
    total: dict[str, int] = {}
    for one in models:
        for bits, nbytes in one.weights_by_bits.items():
            total[bits] = total.get(bits, 0) + nbytes
    return precision_grid(report(models=models, weights_by_bits=total))


def test_the_table_says_what_stays_in_float_and_why(golden: Callable[[str, str], None]) -> None:
    grid = told(
        model("text_detector", {"64": 48, "32": 340_128, "8": 1_100_000}, *IN_FLOAT),
        model("classifier", {"32": 20_000, "8": 600_000, "4": 300_000}),
    )
    assert grid is not None
    table = printed(grid, width=80)
    golden("precision_table.txt", table)
    # One line under the title for the headings, one for each rule, reason and model: none wrapped.
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) == 3 + 3 + 1 + 2


def test_what_is_all_in_32_bits_has_no_table_unless_fewer_were_asked_for() -> None:
    assert told(model("a", {"64": 8, "32": 4000})) is None
    # A mask of a few bytes is no weight in 8 bits.
    assert told(model("a", {"32": 400_000, "8": 4})) is None
    assert precision_grid(report()) is None
    grid = told(model("a", {"32": 4000}, IN_FLOAT[2]))
    assert grid is not None and grid.rows == (("a", "3.91 KiB", "/a/Conv: hardly any weights"),)


def test_models_that_came_in_few_bits_have_a_table_without_reasons() -> None:
    grid = told(model("a", {"32": 1024, "8": 3072}), model("b", {"32": 4096}))
    assert grid is not None
    assert [column.heading for column in grid.columns] == ["model", "32 bits", "8 bits"]
    assert grid.rows == (("a", "1 KiB", "3 KiB"), ("b", "4 KiB", "-"))
    assert grid.title.endswith(", 38 % of the bytes in fewer than 32")


def test_of_several_that_would_lose_the_worst_is_told() -> None:
    others = [FloatWeight(f"c{k}", 1024, "not in the plan", k / 100) for k in range(3)]
    grid = told(model("a", {"32": 3072}, *others))
    assert grid is not None and grid.rows[0][-1] == "3, 3 KiB: would lose up to 2.00 %"
    grid = told(model("a", {"32": 1024}, FloatWeight("c", 1024, "not in the plan")))
    assert grid is not None and grid.rows[0][-1] == "c: not in the plan"


def test_what_stays_in_float_survives_json_text() -> None:
    value = report(
        models=(model("a", {"32": 340_128}, *IN_FLOAT),), weights_by_bits={"32": 340_128}
    )
    data = json.loads(json.dumps(value.to_json(), allow_nan=False))
    assert Report.from_json(data) == value
    assert data["models"][0]["weights_by_bits"] == {"32": 340_128}
    assert data["models"][0]["in_float"][1] == {
        "operator": "/head/Gemm",
        "nbytes": 40_000,
        "why": "read by others, too",
        "predicted_loss": None,
    }
