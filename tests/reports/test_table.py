from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from repsimc.compiler.reports.report import ModelReport, OutputFidelity, Report, Sharing
from repsimc.compiler.reports.table import (
    Column,
    Grid,
    bytes_change,
    count_change,
    fidelity_grid,
    fidelity_value,
    markdown,
    print_grid,
    report_grid,
)

MIB = 2**20
REPORT = Report(
    models=(
        ModelReport("resnet20", 1_100_000, 1_100_000, 41_200_000, 41_200_000, 262144, 262144),
        ModelReport(
            "habitat_classifier",
            1_100_000,
            20_000,
            41_200_000,
            200_000,
            262144,
            1024,
            (
                Sharing("resnet20", ("relu_18",), ("relu_18",), 0.954, False),
                Sharing("other", ("relu_1",), ("relu_1",), 0.1, True),
            ),
            (OutputFidelity("logits", "top-1 agreement", 0.99999, 0.99, 500),),
        ),
        ModelReport(
            "detector",
            4 * MIB,
            3 * MIB,
            1_500_000_000,
            700_000_000,
            9 * MIB,
            5 * MIB,
            (Sharing("resnet20", ("relu_9",), ("p3", "p4"), 0.4, False),),
            (
                OutputFidelity("boxes", "explained variance", 0.9851, 0.99, 500),
                OutputFidelity("scores", "explained variance", 0.9999, 0.99, 500),
            ),
        ),
    ),
    weights_before_nbytes=6_394_304,
    weights_after_nbytes=4_265_728,
    memory_before_nbytes=16 * MIB,
    memory_after_nbytes=10 * MIB,
    macs_before=1_582_400_000,
    macs_after=741_400_000,
    budget_nbytes=12 * MIB,
    frames_fit=1500,
    frames_held_out=500,
    inputs_tied=True,
    notes=("model 'other' shares nothing with resnet20 beyond its first layer",),
)


def printed(grid: Grid, width: int = 100) -> str:
    out = io.StringIO()
    print_grid(grid, Console(file=out, width=width, highlight=False))
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def test_the_table_at_the_end(golden: Callable[[str, str], None]) -> None:
    golden("report_table.txt", printed(report_grid(REPORT)))


def budget_line(**changes: object) -> str:
    lines = report_grid(replace(REPORT, **changes)).summary  # type: ignore[arg-type]
    return next(line for line in lines if line.startswith("budget"))


def test_the_budget_line_says_what_the_budget_counts() -> None:
    assert budget_line() == "budget 12 MiB of predicted memory: met with 2 MiB to spare"
    # 40 % of 6 394 304 bytes; the weights take 4 265 728.
    share = {"budget_counts": "weights", "budget_nbytes": 2_557_721}
    assert budget_line(**share) == (
        "budget 40 % of the weights apart = 2.44 MiB: NOT met, 1.63 MiB too much"
    )
    assert budget_line(**share, weights_after_nbytes=2_557_721) == (
        "budget 40 % of the weights apart = 2.44 MiB: met with 0 B to spare"
    )


def test_weights_in_few_bits_are_told_of_where_they_are_more_than_a_few() -> None:
    first, *others = REPORT.models
    plain = report_grid(REPORT).summary
    few = {"32": 10 * MIB, "8": 2 * MIB, "4": MIB // 2, "64": 80}
    models = (replace(first, weights_by_bits=few), *others)
    lines = report_grid(replace(REPORT, weights_by_bits=few, models=models)).summary
    assert lines[0] == f"{plain[0]}, of them 2 MiB in 8 bits, 512 KiB in 4 bits"
    assert lines[1:] == plain[1:]  # models have a table of their own
    flags = {"32": 10 * MIB, "8": 40}
    assert report_grid(replace(REPORT, weights_by_bits=flags)).summary == plain


def test_what_could_not_be_compared_is_unverified() -> None:
    first, *others = REPORT.models
    unsure = replace(first, unverified="its outputs are random")
    report = replace(REPORT, models=(unsure, *others))
    assert report_grid(report).rows[0][-1] == "unverified"
    assert Report.from_json(report.to_json()) == report
    older = report.to_json()
    for model in older["models"]:
        del model["unverified"]
    assert Report.from_json(older) == REPORT


def test_the_table_as_markdown(golden: Callable[[str, str], None]) -> None:
    golden("report_table.md", markdown(report_grid(REPORT)))


def test_it_fits_into_100_columns_and_has_no_escapes_off_a_terminal() -> None:
    text = printed(report_grid(REPORT))
    table = text[: text.index("weights:")]
    assert max(map(len, table.splitlines())) <= 100
    assert "\x1b" not in text


def test_names_are_never_read_as_markup_nor_steer_the_terminal() -> None:
    name = "[bold]x[/bold] [link=file:///]\x1b]0;title\x07\x1b[2J"
    grid = Grid(name, (Column("model"),), ((name,),), (name,), (name,), (name,))
    text = printed(grid, width=200)
    assert text.count("[bold]x[/bold] [link=file:///]\\x1b]0;title\\x07\\x1b[2J") == 5
    assert "\x1b" not in text and "\x07" not in text


def test_markdown_cells_stay_cells() -> None:
    text = markdown(Grid("", (Column("model"),), (("a|b\nc`*_<br>",),)))
    assert text.splitlines()[-1] == r"| a\|b c\`\*\_\<br\> |"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (1_100_000, 1_100_000, "1.05 MiB"),
        (1_100_000, 550_000, "1.05 -> 0.52 MiB"),
        (1_100_000, 1, "1.05 -> <0.01 MiB"),
        (1_100_000, 0, "1.05 -> 0 B"),
        (0, 1000, "0 -> 1000 B"),
        (800, 60, "800 -> 60 B"),
        (300 * MIB, 45 * MIB, "300 -> 45 MiB"),
        (0, 0, "0 B"),
    ],
)
def test_both_amounts_are_in_one_unit(before: int, after: int, said: str) -> None:
    assert bytes_change(before, after) == said


def test_counts_are_decimal() -> None:
    assert count_change(41_200_000, 20_600_000) == "41.2 -> 20.6 M"
    assert count_change(900, 45) == "900 -> 45"


def test_a_floor_missed_by_little_does_not_read_as_kept() -> None:
    missed = OutputFidelity("y", "top-1 agreement", 0.989999, 0.99, 10_000)
    assert fidelity_value(missed) == "0.9899 top-1"
    assert fidelity_value(OutputFidelity("y", "max abs difference", 2e-6, 1e-5, 8)) == (
        "2.0e-06 max diff"
    )


def test_a_line_for_every_output_with_what_is_proved_of_it(
    golden: Callable[[str, str], None],
) -> None:
    bounded = OutputFidelity(
        *("y", "top-1 agreement", 0.996, 0.99, 500),
        *(0.98947, 0.95, 0.9312, None, 3.21, 0.4123),
    )
    exact = OutputFidelity("z", "explained variance", 1.0, 0.99, 500, max_difference=0.0)
    models = (
        ModelReport("a", 1, 1, 1, 1, 1, 1, (), (bounded, exact)),
        replace(REPORT.models[2], fidelity=(replace(bounded, strict=True),)),
    )
    grid = fidelity_grid(replace(REPORT, models=models))
    assert grid is not None
    golden("fidelity_table.txt", printed(grid))
    strict = report_grid(replace(REPORT, models=models)).rows[1][-1]
    assert strict == "0.9960 top-1, proved 0.9894 BELOW 0.99"
    blends = replace(bounded, stressed_floor=0.95)
    cracked = replace(models[0], fidelity=(blends,))
    rows = report_grid(replace(REPORT, models=(cracked,))).rows
    assert rows[0][-1] == "0.9960 top-1, on blends BELOW 0.95"


def test_what_a_report_does_not_tell_is_not_called_exact() -> None:
    of_an_earlier_version = OutputFidelity("y", "top-1 agreement", 0.996, 1e-9, 500)
    model = ModelReport("a", 1, 1, 1, 1, 1, 1, (), (of_an_earlier_version,))
    grid = fidelity_grid(replace(REPORT, models=(model,)))
    assert grid is not None and grid.rows[0][3:6] == ("-", "-", "-")


def test_without_frames_there_is_no_line() -> None:
    assert fidelity_grid(replace(REPORT, models=REPORT.models[:1])) is None


def test_of_very_many_outputs_the_worst_have_a_line() -> None:
    outputs = tuple(OutputFidelity(str(k), "x", 1 - k / 1000, 0.5, 8) for k in range(60))
    many = ModelReport("a", 1, 1, 1, 1, 1, 1, (), outputs)
    grid = fidelity_grid(replace(REPORT, models=(many,)))
    assert grid is not None and len(grid.rows) == 40 and grid.rows[0][1] == "59"
    assert grid.notes == ("20 more outputs, none worse, are in report.json",)
