"""The gate as a whole: what it measures, what it ends with, and that it looks twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from repsimc.compiler.errors import BudgetError, FidelityError, RegressionError, UndecidedError
from repsimc.compiler.gate import judging
from repsimc.compiler.gate.baseline import FIXED, ExactFigure, Shares
from repsimc.compiler.gate.judging import (
    AccuracyFloor,
    Check,
    GateOptions,
    amount_text,
    check_bundle,
)
from repsimc.compiler.gate.tables import check_grid
from repsimc.compiler.gate.verdicts import REGRESSED, TOO_NOISY
from repsimc.compiler.units import Budget
from repsimc.runtime.session import Bundle, load
from tests.runtime.bundles import bundled, tied_pair

FAST = GateOptions(rounds=1, runs=3, warmup=0, repeats=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    memory = {"merged_nbytes": 3000, "merged_weights_nbytes": 60, "apart_weights_nbytes": 100}
    return load(bundled(tmp_path_factory.mktemp("gate"), tied_pair(), memory=memory))


@pytest.fixture(scope="module")
def measured(bundle: Bundle) -> Check:
    return check_bundle(bundle, None, FAST)


def test_without_a_baseline_nothing_is_judged(measured: Check) -> None:
    assert measured.verdicts == () and measured.error is None
    figures = {one.name: one.value for one in measured.measured.figures}
    assert figures["operators"] == 2 and figures["memory, predicted"] == 3000
    assert list(measured.measured.latency) == [FIXED]
    assert {row[3] for row in check_grid(measured).rows} == {"measured"}


def test_one_round_is_too_few(bundle: Bundle, measured: Check) -> None:
    found = check_bundle(bundle, measured.measured, FAST)
    assert isinstance(found.error, UndecidedError) and found.error.exit_code == 8
    assert "1 processes, and 6 are the least" in found.error.message
    assert all(one.verdict == "same" for one in found.verdicts if not one.name.startswith("lat"))
    data = json.loads(json.dumps(found.to_json()))
    assert data["schema"] == "repsimc.check/1" and data["passed"] is False
    assert len(check_grid(found).rows) == len(found.verdicts)


def test_an_operator_more_is_a_regression(bundle: Bundle, measured: Check) -> None:
    fewer = tuple(
        replace(one, value=one.value - 1) if one.name == "operators" else one
        for one in measured.measured.figures
    )
    found = check_bundle(bundle, replace(measured.measured, figures=fewer), FAST)
    assert isinstance(found.error, RegressionError) and found.error.exit_code == 7
    assert "operators regressed: 1 -> 2" in found.error.message


def test_what_is_asked_for(bundle: Bundle) -> None:
    for budget, name in ((Budget(nbytes=1), "budget, predicted memory"), (Budget(share=0.5), "")):
        found = check_bundle(bundle, None, replace(FAST, budget=budget))
        assert isinstance(found.error, BudgetError) and name in found.error.message
    assert check_bundle(bundle, None, replace(FAST, budget=Budget(share=0.6))).error is None
    floors = [AccuracyFloor("a", 0.9, 0.95), AccuracyFloor("b", 0.9, 0.85)]
    found = check_bundle(bundle, None, FAST, accuracy=floors)
    assert isinstance(found.error, FidelityError)
    assert "accuracy b: 0.8500 where 0.9 is the least" in found.error.message


def test_a_regression_of_latency_is_seen_twice_or_not_told(
    bundle: Bundle, measured: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs(*factors: float) -> Callable[..., dict[str, Shares]]:
        left = list(factors)

        def found(*_: object) -> dict[str, Shares]:
            values = tuple(left[0] + 0.001 * k for k in range(6))
            left[:1] = left[1:2] or left[:1]
            return {FIXED: Shares(values, values, True)}

        return found

    before = tuple(1 + 0.001 * k for k in range(6))
    baseline = replace(measured.measured, latency={FIXED: Shares(before, before, True)})
    monkeypatch.setattr(judging, "_shares", runs(1.2, 1.2))
    found = check_bundle(bundle, baseline, FAST)
    assert [one.name for one in found.of(REGRESSED)] == [f"latency / {FIXED}"]
    monkeypatch.setattr(judging, "_shares", runs(1.2, 1.0))
    found = check_bundle(bundle, baseline, FAST)
    assert not found.of(REGRESSED)
    (unsure,) = found.of(TOO_NOISY)
    assert "measured again: same" in unsure.why
    monkeypatch.setattr(judging, "_shares", runs(0.8))
    found = check_bundle(bundle, baseline, FAST)
    assert found.error is None and any("keep it so with --update" in one for one in found.notes)


def test_what_else_differs_is_told(bundle: Bundle, measured: Check) -> None:
    there = replace(measured.measured.machine, processor="another", onnxruntime="0")
    baseline = replace(
        measured.measured,
        machine=there,
        threads=2,
        models={"a": "1" * 64, "b": "1" * 64},
        figures=(ExactFigure("gone", 1, "B"),),
    )
    found = check_bundle(bundle, baseline, FAST)
    said = " ".join(found.notes)
    assert "another processor: another there" in said and "another ONNX Runtime: 0" in said
    assert "compiled from other files than the baseline's: a, b" in said
    words = {one.name: one.why for one in found.verdicts}
    assert words["gone"].startswith("only the baseline has it")
    assert words[f"latency / {FIXED}"] == "the baseline ran on 2 threads, this on 1"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "B", "-"),
        (1536, "B", "1.5 KiB"),
        (7095744.0, "MACs", "7 095 744"),
        (0.5798923, "ratio", "0.579892"),
    ],
)
def test_amounts(value: float | None, unit: str, text: str) -> None:
    assert amount_text(value, unit) == text
