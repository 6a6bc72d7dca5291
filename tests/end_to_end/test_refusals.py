"""Compilations that end in a refusal: the error says what to do, and nothing is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import repsimc
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.driver import CompileResult, Wishes, compile_models
from repsimc.compiler.errors import (
    BudgetError,
    DataError,
    FidelityError,
    ModelError,
    RepsimcError,
    UsageError,
)
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.options import CompileOptions, Settings
from repsimc.compiler.planning.plan import Plan, PlannedAction
from repsimc.compiler.planning.trial import Trial
from repsimc.compiler.planning.workbench import Workbench
from repsimc.compiler.units import Budget, parse_budget
from tests.nets.networks import smooth_images

Work = Callable[..., CompileResult]


def refused(kind: type[RepsimcError], work: Work, folder: Path, **wishes: Any) -> RepsimcError:
    """The error of a compilation into folder/bundle, after which the folder is empty."""
    folder.mkdir(exist_ok=True)
    with pytest.raises(kind) as caught:
        work(output=folder / "bundle", **wishes)
    assert type(caught.value) is kind
    assert list(folder.iterdir()) == []
    return caught.value


# -- fidelity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("exact_only", [True, False])
def test_the_floor_holds_for_what_is_exact_too(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact_only: bool
) -> None:
    real = Workbench.measure

    def worse(bench: Workbench, *asked: Any, **more: Any) -> Trial:
        trial = real(bench, *asked, **more)
        return replace(trial, outputs=tuple(replace(one, value=0.5) for one in trial.outputs))

    monkeypatch.setattr(Workbench, "measure", worse)
    wishes = {"exact_only": True} if exact_only else {"budget": "100%"}
    error = refused(FidelityError, work, tmp_path / "none", models="ab", **wishes)
    assert error.exit_code == 4
    assert "a/y top-1 agreement 0.5000 < 0.9" in error.message


# -- budgets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["10%", "30%"])
def test_a_budget_out_of_reach_names_the_smallest_plan(
    work: Work, tmp_path: Path, budget: str
) -> None:
    error = refused(BudgetError, work, tmp_path / "none", budget=budget)
    assert re.search(r"the smallest plan found needs about [\d.]+ KiB of weights", error.message)
    assert f"the budget of {budget} leaves" in error.message
    assert "min-fidelity" in error.hint
    # The refusal is right, since no budget at all gives no less.
    least = work().report
    assert least.weights_after_nbytes > int(budget[:-1]) / 100 * least.weights_before_nbytes
    # What it says was predicted; where that was too good, the next refusal says what was measured.
    promised = hinted(error)
    try:
        found = work(budget=f"{promised}%").report
    except BudgetError as measured:
        assert "about" not in measured.message and "the best within the budget" in measured.message
        assert hinted(measured) > promised
        found = work(budget=f"{hinted(measured)}%").report
    assert found.budget_met


def hinted(error: RepsimcError) -> int:
    """The budget that a refusal says would do, in percent."""
    promised = re.search(r"raise the budget to (\d+)%", error.hint)
    assert promised is not None
    return int(promised.group(1))


def test_a_budget_in_bytes_out_of_reach_names_bytes(work: Work, tmp_path: Path) -> None:
    error = refused(BudgetError, work, tmp_path / "none", budget="150KiB")
    promised = re.search(r"raise the budget to ([\d.]+ KiB)", error.hint)
    assert promised is not None and "in all" in error.message
    assert work(budget=promised.group(1)).report.budget_met


def without_values(folder: Path) -> CompileOptions:
    """Two models that have no weights, and no value between their inputs and outputs."""
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,4] y)'
    paths = {op.lower(): folder / f"{op.lower()}.onnx" for op in ("Neg", "Exp")}
    for op in ("Neg", "Exp"):
        onnx.save(onnx.parser.parse_model(f"{head} {{ y = {op}(x) }}"), paths[op.lower()])
    frames = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    return CompileOptions(models=tuple(paths.items()), calibration=frames)


def test_models_without_any_value_to_share_are_left_alone(tmp_path: Path) -> None:
    plan = compile_models(without_values(tmp_path)).plan
    assert not plan.actions
    assert set(plan.left_alone) == {"neg", "exp"}
    assert all("no representation" in why for why in plan.left_alone.values())


def test_a_budget_below_what_is_needed_beside_weights_is_not_met(tmp_path: Path) -> None:
    options = replace(without_values(tmp_path), budget=parse_budget("1KB"))
    with pytest.raises(BudgetError, match="needs about 0 B of weights"):
        compile_models(options)


def test_a_budget_below_everything_but_weights(work: Work, tmp_path: Path) -> None:
    error = refused(BudgetError, work, tmp_path / "none", budget="1KiB")
    assert "leaves nothing for weights" in error.message


def test_without_frames_the_budget_error_asks_for_some(work: Work, tmp_path: Path) -> None:
    error = refused(BudgetError, work, tmp_path / "none", budget="70%", calibration=None)
    assert "--calib" in error.hint and "frames" in error.hint
    assert re.search(r"raise the budget to \d+%", error.hint)


def test_exact_only_is_named_as_the_way_out(work: Work, tmp_path: Path) -> None:
    error = refused(BudgetError, work, tmp_path / "none", budget="70%", exact_only=True)
    assert "--exact-only" in error.hint


def test_what_stands_against_saving_more_is_said_per_model(work: Work, tmp_path: Path) -> None:
    error = refused(BudgetError, work, tmp_path / "none", budget="30%", min_fidelity=0.999)
    assert re.search(
        r"^  [abc]: each of \d+ possible rewrites is predicted to miss the fidelity floor",
        error.message,
        re.MULTILINE,
    )


# -- plans -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(work: Work) -> Plan:
    found = work(budget="75%").plan
    assert found.actions
    return found


def written(plan: Plan, folder: Path, **changes: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps(plan.to_json() | changes))
    return path


def one(plan: Plan, *actions: SharePrefixAction) -> Plan:
    return Plan(plan.models, tuple(map(PlannedAction, actions)))


def test_a_plan_that_misses_the_floor_is_refused(work: Work, plan: Plan, tmp_path: Path) -> None:
    path = written(plan, tmp_path)
    error = refused(FidelityError, work, tmp_path / "none", plan=path, min_fidelity=1.0)
    receiver = plan.actions[0].action.receiver
    assert f"{receiver}/y top-1 agreement 0.9" in error.message and "< 1" in error.message
    assert "--min-fidelity" in error.hint


def test_a_plan_over_the_budget_is_refused(work: Work, plan: Plan, tmp_path: Path) -> None:
    path = written(plan, tmp_path)
    error = refused(BudgetError, work, tmp_path / "none", plan=path, budget="20%")
    assert re.search(r"the plan needs [\d.]+ KiB more than the budget", error.message)


def test_a_plan_needs_frames(work: Work, plan: Plan, tmp_path: Path) -> None:
    path = written(plan, tmp_path)
    error = refused(UsageError, work, tmp_path / "none", plan=path, calibration=None)
    assert "--calib" in error.hint
    empty = written(one(plan), tmp_path)
    assert not work(plan=empty, calibration=None).plan.actions


def test_a_plan_needs_the_same_frames(work: Work, plan: Plan, tmp_path: Path) -> None:
    paths: dict[str, Path] = {}
    for seed, name in enumerate("abc"):
        paths[name] = tmp_path / f"{name}.npz"
        np.savez(paths[name], x=smooth_images(100, seed=seed))
    error = refused(
        UsageError, work, tmp_path / "none", plan=written(plan, tmp_path), calibration=paths
    )
    assert "--same-frames" in error.hint


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        (
            [
                SharePrefixAction("a", "b", (Link("b/s2", ("a/s2",)),), 1),
                SharePrefixAction("b", "a", (Link("a/s2", ("b/s2",)),), 1),
            ],
            "in a circle",
        ),
        (
            [
                SharePrefixAction("a", "b", (Link("b/s2", ("a/s2",)),), 1),
                SharePrefixAction("c", "b", (Link("b/c2", ("c/s2",)),), 1),
            ],
            "replace a value twice",
        ),
        ([SharePrefixAction("a", "b", (Link("b/none", ("a/s2",)),), 1)], "'b/none'"),
        ([SharePrefixAction("a", "b", (Link("b/y", ("a/s2",)),), 1)], "b/y is an input or output"),
        ([SharePrefixAction("a", "b", (Link("b/s2", ("a/y",)),), 1)], "cannot become"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(
    work: Work, plan: Plan, tmp_path: Path, actions: list[SharePrefixAction], said: str
) -> None:
    path = written(one(plan, *actions), tmp_path)
    error = refused(ModelError, work, tmp_path / "none", plan=path)
    assert said in error.message


def test_a_plan_for_other_files_is_refused(work: Work, plan: Plan, tmp_path: Path) -> None:
    path = written(plan, tmp_path, models={**plan.models, "b": "0" * 64})
    error = refused(ModelError, work, tmp_path / "none", plan=path)
    assert "model b is not the file the plan was made for" in error.message
    refused(ModelError, work, tmp_path / "none", plan=written(plan, tmp_path), models="ab")
    (tmp_path / "plan.json").write_text("{")
    refused(ModelError, work, tmp_path / "none", plan=tmp_path / "plan.json")


def test_a_plan_may_be_edited(work: Work, plan: Plan, tmp_path: Path) -> None:
    mine = SharePrefixAction("a", "c", (Link("c/s1", ("a/s1", "a/c1")),), 3)
    result = work(plan=written(one(plan, mine), tmp_path), min_fidelity=0)
    assert [planned.action for planned in result.plan.actions] == [mine]
    (entry,) = result.report.model("c").sharing
    assert (entry.donor, entry.receiver_values) == ("a", ("s1",))


# -- the rest ----------------------------------------------------------------------------------


def test_too_few_frames_are_refused(work: Work, tmp_path: Path) -> None:
    refused(DataError, work, tmp_path / "none", calibration=smooth_images(5))


def test_an_existing_output_is_refused_before_anything_is_done(work: Work, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="bundle"):
        work(output=tmp_path / "bundle", folder=Path("nowhere"), calibration=None)
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "precious"


def test_a_missing_model_is_refused(work: Work, tmp_path: Path) -> None:
    with pytest.raises(RepsimcError, match=r"a\.onnx"):
        work(folder=tmp_path, calibration=None, output=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"output": None}, "output folder"),
        ({"colour": "green"}, "knows no option colour"),
        ({"dry_run": True}, "writes a bundle"),
        ({"budget": "much"}, "'much' is not an amount of memory"),
        ({"min_fidelity": 2}, "fidelity floor of 2"),
        ({"metrics": {"a": "accuracy"}, "calibration": smooth_images(100)}, "'accuracy'"),
        ({"metrics": {"z": "top1"}}, "no model is called 'z'"),
        ({"names": {"z": "other.onnx"}}, "--name z=other.onnx names no model"),
    ],
)
def test_misuse_from_python_is_a_usage_error(
    family: Path, tmp_path: Path, wishes: dict[str, Any], said: str
) -> None:
    paths = [family / "a.onnx", family / "b.onnx"]
    with pytest.raises(UsageError) as error:
        repsimc.compile(paths, **({"output": tmp_path / "bundle"} | wishes))
    assert said in error.value.message
    assert not (tmp_path / "bundle").exists()


def test_an_integer_budget_is_in_bytes(family: Path, tmp_path: Path) -> None:
    paths = [family / "a.onnx", family / "b.onnx"]
    with pytest.raises(BudgetError):
        repsimc.compile(paths, budget=1000, output=tmp_path / "bundle")
    repsimc.compile(paths, budget=10**7, output=tmp_path / "bundle")
    report = json.loads((tmp_path / "bundle" / "report.json").read_text())
    assert (report["budget_nbytes"], report["budget_counts"]) == (10**7, "memory")


def test_the_budget_of_one_model_is_its_own(family: Path) -> None:
    options = CompileOptions(models=(("a", family / "a.onnx"),), budget=Budget(share=0.5))
    with pytest.raises(BudgetError, match="the smallest plan found needs"):
        compile_models(options)


def test_wishes_from_python_are_the_settings() -> None:
    said = {"budget", "output", "dry_run"}  # parameters of their own, or none
    assert set(Wishes.__annotations__) - {"preprocessing"} == set(Settings.__annotations__) - said


def test_a_plan_from_python_is_a_path_or_its_json(family: Path, tmp_path: Path) -> None:
    paths = [str(family / "a.onnx"), str(family / "b.onnx")]
    repsimc.compile(paths, output=str(tmp_path / "first"))
    file = tmp_path / "first" / "plan.json"
    for index, plan in enumerate((file, str(file), json.loads(file.read_text()))):
        bundle = repsimc.compile(paths, plan=plan, output=tmp_path / str(index))
        assert bundle.models == ("a", "b")
    for wrong in ([], 3, {"schema": "other"}):
        with pytest.raises((UsageError, ModelError), match="plan"):
            repsimc.compile(paths, plan=wrong, output=tmp_path / "wrong")  # type: ignore[arg-type]
