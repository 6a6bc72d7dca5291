"""Two bundles beside each other: amounts, rewrites, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from repsimc.compiler.bundle.writing import BundleContents, write_bundle
from repsimc.compiler.errors import ModelError
from repsimc.compiler.reports.bundle_difference import difference_grids, difference_of
from repsimc.compiler.reports.report import ActionReport, Report
from repsimc.runtime.session import Bundle, load
from tests.reports.test_table import REPORT
from tests.runtime.bundles import tied_pair, trunk_and_pick

FOLD = ActionReport("collapse", "a: x .. y", 100, 10)
TIE = ActionReport("tie-weights", "a: x, y", 50, 0)


def made(folder: Path, report: Report, other: bool = False) -> Bundle:
    program = trunk_and_pick() if other else tied_pair()
    return load(write_bundle(folder, BundleContents(program, plan={}, report=report.to_json())))


def test_a_bundle_and_itself(tmp_path: Path) -> None:
    one, other = (made(tmp_path / name, REPORT) for name in "ab")
    found = difference_of(one, other)
    assert found.same and "nothing differs" in difference_grids(found)[0].rows[0]
    assert found.to_json()["same"] is True


def test_what_changed_and_why(tmp_path: Path) -> None:
    before = made(tmp_path / "a", replace(REPORT, actions=(FOLD, FOLD, TIE)))
    less = replace(REPORT, actions=(FOLD,), weights_after_nbytes=REPORT.weights_after_nbytes - 7)
    after = made(tmp_path / "b", less, other=True)
    found = difference_of(before, after)
    amounts = {one.name: (one.before, one.after) for one in found.amounts}
    assert amounts["weights"] == (REPORT.weights_after_nbytes, REPORT.weights_after_nbytes - 7)
    assert amounts["operators, Tanh"] == (1, None)
    assert amounts["operators, Gather"] == (None, 1)
    assert [(one.came, one.kind) for one in found.rewrites] == [
        (False, "collapse"),
        (False, "tie-weights"),
    ]
    texts = {one.name: (one.before, one.after) for one in found.texts}
    assert texts["models"] == ("a, b", "trunk, pick")
    assert "merged.onnx" in texts and "report.json" in texts
    assert [grid.title for grid in difference_grids(found)] == [
        "",
        "why: rewrites, and what each saves alone",
        "why: versions, files, what is shared",
    ]
    back = difference_of(after, before)
    assert all(one.came for one in back.rewrites)
    assert json.loads(json.dumps(back.to_json()))["schema"] == "repsimc.diff/1"


def test_a_report_that_is_damaged(tmp_path: Path) -> None:
    bundle = made(tmp_path / "a", REPORT)
    (bundle.path / "report.json").write_text("{")
    with pytest.raises(ModelError):
        difference_of(bundle, bundle)
