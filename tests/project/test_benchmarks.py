"""The benchmarks' own machinery: records, bars, the zoo's absence, tables. None needs the zoo."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx.parser
import pytest

from repsimc.compiler.frontends.onnx import import_model
from repsimc.compiler.graph.program import Source

ROOT = Path(__file__).parents[2]
SHARING = ROOT / "benchmarks" / "sharing.py"
DIGITS = ROOT / "examples" / "digits"
Importer = Callable[[str], ModuleType]
KEYS = ["name", "value", "unit", "bar", "met", "extra"]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Importer:
    """`module("records")` is benchmarks/records.py, imported as the benchmarks import it."""
    monkeypatch.syspath_prepend(str(SHARING.parent))
    return importlib.import_module


def sharing(*arguments: str, zoo: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SHARING), *arguments],
        env={**os.environ, "REPSIMC_ZOO": str(zoo)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def records(module: Importer) -> ModuleType:
    return module("records")


# -- records -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bar", "met"),
    [
        (0.63, "<= 0.63", True),
        (0.631, "<= 0.63", False),
        (-0.5, ">= -0.5", True),
        (-0.51, ">= -0.5", False),
        (1, "== 1", True),
        (0, "== 1", False),
        (None, "<= 0.63", False),
        (float("nan"), "<= 0.63", False),
        (float("inf"), ">= 7", False),
        (0.2, None, None),
    ],
)
def test_a_figure_is_held_against_its_bar(
    records: ModuleType, value: float | None, bar: str | None, met: bool | None
) -> None:
    assert records.figure("case/figure", value, "ratio", bar).met is met


def test_a_bar_that_cannot_be_read_is_no_bar_that_is_met(records: ModuleType) -> None:
    with pytest.raises((KeyError, ValueError)):
        records.figure("case/figure", 1.0, "ratio", "below 2")


def test_records_are_a_json_list(records: ModuleType, tmp_path: Path) -> None:
    found = [
        records.figure("a/weights", 0.5, "ratio", "<= 0.6", "why"),
        records.figure("a/latency", float("nan"), "ratio"),
        records.figure("a/blocks", np.int64(7).item(), "blocks", ">= 7"),
    ]
    records.write_records(found, tmp_path / "records.json")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    read = json.loads((tmp_path / "records.json").read_text(), parse_constant=refuse)
    assert [list(record) for record in read] == [KEYS] * 3
    assert read[0] == {
        "name": "a/weights", "value": 0.5, "unit": "ratio", "bar": "<= 0.6", "met": True,
        "extra": "why",
    }  # fmt: skip
    assert (read[1]["value"], read[1]["bar"], read[1]["met"]) == (None, None, None)
    assert all(isinstance(record["extra"], str) for record in read)


def test_missed_bars_are_found_and_counted(records: ModuleType) -> None:
    found = [
        records.figure("a/kept", 1, "", "== 1"),
        records.figure("a/missed", 2, "", "== 1"),
        records.figure("a/no bar", 3, ""),
    ]
    assert [record.name for record in records.missed(found)] == ["a/missed"]
    grid = records.grid(found, "title")
    assert [row[3] for row in grid.rows] == ["met", "MISSED", ""]
    assert grid.summary == ("1 of 2 bars met",)


# -- the zoo -----------------------------------------------------------------------------


def test_without_a_zoo_it_says_so(tmp_path: Path) -> None:
    done = sharing("--quick", "--json", str(tmp_path / "out.json"), zoo=tmp_path / "nowhere")
    assert done.returncode == 2
    assert "zoo not found" in done.stderr and "REPSIMC_ZOO" in done.stderr
    assert str(tmp_path / "nowhere") in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_a_case_that_breaks_is_reported_and_never_exits_0(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "data").mkdir()
    path = tmp_path / "out.json"
    done = sharing("--quick", "--case", "exact", "--json", str(path), zoo=tmp_path)
    assert done.returncode == 1
    assert "zoo not found" in done.stderr
    [record] = json.loads(path.read_text())
    assert (record["name"], record["met"]) == ("exact/finished", False)


def test_cases_that_need_no_zoo_run_without(tmp_path: Path) -> None:
    done = sharing("--quick", "--case", "memory", zoo=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "memory/skipped" in done.stdout


def test_help_names_options_and_cases() -> None:
    done = sharing("--help", zoo=Path())
    assert done.returncode == 0
    for word in ("--quick", "--json", "--case", "--markdown", "--strict", "REPSIMC_ZOO"):
        assert word in done.stdout
    for case in ("exact", "related", "independent", "transformers", "detectors", "memory"):
        assert case in done.stdout


def test_an_unknown_case_is_refused() -> None:
    done = sharing("--case", "nonsense", zoo=Path())
    assert done.returncode == 2
    assert "nonsense" in done.stderr


def test_mosaics_tile_whole_images(module: Importer) -> None:
    zoo = module("zoo")
    images = (
        np.zeros((48, 32, 32, 3), np.uint8) + np.arange(48, dtype=np.uint8)[:, None, None, None]
    )
    first, second = (np.stack(list(zoo._mosaics(images, 3, seed))) for seed in (0, 1))
    assert first.shape == (3, 3, 240, 320) and first.dtype == np.float32
    assert not np.array_equal(first, second)
    assert np.array_equal(first, np.stack(list(zoo._mosaics(images, 3, 0))))
    # Every image is of one colour, so every 40 x 40 tile of a frame is too.
    tiles = first[0].reshape(3, 6, 40, 8, 40)
    assert np.array_equal(tiles.min((2, 4)), tiles.max((2, 4)))
    assert first.min() >= -1 and first.max() <= 1


# -- measuring ---------------------------------------------------------------------------


def test_compiling_in_a_process_tells_report_time_and_memory(module: Importer) -> None:
    models = [(name, DIGITS / f"{name}.onnx") for name in ("digit", "parity")]
    found = module("compiling").compiled(models, exact_only=True, dry_run=True)
    assert found.refusal == "" and found.bundle is None
    assert found.share is not None and 0 < found.share <= 1
    assert 0 < found.compile_seconds < found.seconds
    assert found.peak_nbytes > 10 << 20


def test_what_repsimc_refuses_is_a_refusal(module: Importer, tmp_path: Path) -> None:
    found = module("compiling").compiled([("a", tmp_path / "a.onnx")], dry_run=True)
    assert found.report is None and found.share is None
    assert "Error" in found.refusal and "a.onnx" in found.refusal


def test_other_failures_are_no_refusal(module: Importer, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no_such_option"):
        module("compiling").compiled([("a", tmp_path / "a.onnx")], no_such_option=1)


def test_block_ends_are_the_relus_after_residual_sums(module: Importer) -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 17]>
        two (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] y)
        <float[4, 4, 1, 1] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
            a = Conv(x, w)
            first_sum = Add(a, x)
            first = Relu(first_sum)
            b = Conv(first, w)
            between = Relu(b)
            second_sum = Add(between, first)
            y = Relu(second_sum)
        }
    """)
    program = import_model(proto, "net", Source(Path("net.onnx"), 0, ""))
    assert module("stitching").block_ends(program, "net") == ["net/first", "net/y"]


def test_siblings_agree_up_to_the_frozen_stage(
    module: Importer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    siblings = module("siblings")
    monkeypatch.setattr(siblings, "_STAGES", ((1, 2, 4, 1), (1, 2, 4, 2)))
    monkeypatch.setattr(siblings, "_FROZEN", 1)
    weights: list[dict[str, bytes]] = []
    for seed in range(2):
        siblings.write_sibling(tmp_path / f"{seed}.onnx", seed)
        model = onnx.load(tmp_path / f"{seed}.onnx")
        onnx.checker.check_model(model, full_check=True)
        weights.append({w.name: w.raw_data for w in model.graph.initializer})
    same = {name for name in weights[0] if weights[0][name] == weights[1][name]}
    assert same == {name for name in weights[0] if name.startswith(("stem", "stage1"))}
    assert len(set(weights[0].values())) == len(weights[0])


def test_a_refused_case_misses_its_bars(module: Importer) -> None:
    compiled = module("compiling").Compiled(None, None, {}, "BudgetError: too small", 1, 1, 1)
    classifiers = module("classifiers")
    record = classifiers.unmeasured(classifiers.WIDE, compiled)
    assert (record.met, record.extra) == (False, "BudgetError: too small")
    assert classifiers.unmeasured(classifiers.EXACT, compiled).met is False
    assert module("detectors").reasons(compiled) == "BudgetError: too small"


def test_a_model_left_alone_without_a_reason_is_noticed(module: Importer) -> None:
    compiling = module("compiling")
    models = [(name, DIGITS / f"{name}.onnx") for name in ("digit", "parity")]
    found = compiling.compiled(models, exact_only=True, dry_run=True)
    assert module("detectors").reasons(found) == ""
    told = dataclasses.replace(found, plan={"left_alone": {"digit": "unlike", "parity": "unlike"}})
    assert "parity is left alone: unlike" in module("detectors").reasons(told)
    action = {"donor": "digit", "receiver": "parity"}
    shared = dataclasses.replace(found, plan={"actions": [action]})
    assert module("detectors").reasons(shared) == "1 rewrites that hold on the frames"
    folds = [{"kind": "freeze-branch", "model": name, "value": "x"} for name in ("digit", "parity")]
    folded = dataclasses.replace(found, plan={"actions": folds})
    assert module("detectors").reasons(folded) == "2 rewrites that hold on the frames"


def test_the_readme_table_sets_nothing_exact_and_repsimc_side_by_side(module: Importer) -> None:
    measuring = module("measuring")
    row = measuring.Row("two nets", 2 << 20, 0.8, 0.4, "-0.10", 0.5)
    left = measuring.Row("refused", 1 << 20, 1.0, None, "none", None, "left alone")
    curve = [("7 of 21", "9.2", "91.9", "90.1", "92.4")]
    text = module("sharing").readme(measuring.Outcome([], [row, left], curve))
    assert "| two nets | 2 MiB | 80 % | 40 % | -0.10 | 50 % |" in text
    assert "| refused | 1 MiB | 100 % | - (left alone) | none | - |" in text
    assert "| 7 of 21 | 9.2 | 91.9 | 90.1 | 92.4 |" in text
