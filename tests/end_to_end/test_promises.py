"""What a compilation promises of fidelity: bounds, strict floors, and fidelity on blends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from repsimc.compiler.driver import CompileResult
from repsimc.compiler.errors import FidelityError
from repsimc.compiler.execution.confidence import agreement_bound
from repsimc.compiler.reports.report import ModelReport
from repsimc.runtime.session import load

Work = Callable[..., CompileResult]


def apart(result: CompileResult) -> tuple[ModelReport, ModelReport]:
    """Of two models of a family the one to which nothing was done, and the one that was changed."""
    [action] = result.plan.actions
    giver, taker = action.action.models
    return result.report.model(giver), result.report.model(taker)


def test_bounds_stand_in_report_and_manifest(work: Work, tmp_path: Path) -> None:
    result = work(models="ab", output=tmp_path / "bundle", confidence=0.9)
    whole, changed = apart(result)
    a, b = whole.fidelity[0], changed.fidelity[0]
    assert a.lower is None and a.stressed is None and a.max_difference == 0
    assert b.lower == pytest.approx(agreement_bound(b.value, b.frames, 0.9))
    assert b.stressed is not None and 0.5 < b.stressed <= 1
    assert b.max_difference and b.score_change
    told = load(tmp_path / "bundle").manifest.model(changed.name).fidelity[0]
    assert (told["lower"], told["confidence"]) == (b.lower, 0.9)
    report = json.loads((tmp_path / "bundle" / "report.json").read_text())
    [kept] = [model for model in report["models"] if model["name"] == changed.name]
    assert kept["fidelity"][0]["stressed"] == b.stressed


def test_a_strict_floor_is_proved_or_refused(work: Work) -> None:
    # 100 frames are held out: without a miss they prove 0.9705.
    result = work(models="ab", min_fidelity=0.9, strict=True)
    b = apart(result)[1].fidelity[0]
    assert b.lower is not None and b.lower >= 0.9 and b.met
    with pytest.raises(FidelityError, match="that takes 299 without a miss"):
        work(models="ab", min_fidelity=0.99, strict=True)
    # What is exact rests on no frames.
    assert work(models="ab", min_fidelity=0.99, strict=True, exact_only=True).report.models


def test_a_floor_for_blends_is_held(work: Work) -> None:
    result = work(models="ab", min_fidelity=0.9)
    changed = apart(result)[1]
    found = changed.fidelity[0].stressed
    assert found is not None
    kept = work(models="ab", min_fidelity=0.9, min_stressed=found, plan=None)
    assert kept.report.model(changed.name).fidelity[0].met
    with pytest.raises(FidelityError, match=rf"blends .* frames prove .* of {changed.name}/y"):
        work(models="ab", min_fidelity=0.9, min_stressed=min(found + 0.01, 1.0))
