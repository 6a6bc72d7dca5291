"""Depth in `repsimc compile`: budgets of every kind, alone and beside sharing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.errors import BudgetError, ModelError, UsageError
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.plan import Plan, PlannedAction
from repsimc.compiler.units import parse_budget, parse_macs, parse_seconds
from tests.nets.networks import Net
from tests.nets.residual import CHANNELS, block, images, residual_net

# These tests are about regions, which narrower layers often are better than.
pytestmark = pytest.mark.usefixtures("layers_keep_their_units")

# Of 40 held-out frames hardly one changes its class: a finer measure.
VARIANCE = {"a": "variance", "b": "variance"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("joint")
    onnx.save(residual_net(4, scale=0.3), place / "a.onnx")
    onnx.save(residual_net(4, seed=1, scale=0.3), place / "b.onnx")
    np.savez(place / "frames.npz", x=images(160))
    return place


def made(
    folder: Path, models: str = "a", given: Plan | None = None, **wishes: object
) -> CompileResult:
    options = {"calibration": folder / "frames.npz", "min_fidelity": 0.7} | wishes
    paths = tuple((name, folder / f"{name}.onnx") for name in models)
    options = CompileOptions(models=paths, **options)  # type: ignore[arg-type]
    return compile_models(options, plan=given)


def gone(result: CompileResult) -> list[str]:
    return [
        planned.action.exit
        for planned in result.plan.actions
        if isinstance(planned.action, CollapseAction)
    ]


def test_one_model_gets_within_its_memory_budget_by_depth(folder: Path) -> None:
    result = made(folder, budget=parse_budget("60%"))
    assert len(gone(result)) == 2
    assert result.report.weights_after_nbytes <= 0.6 * result.report.weights_before_nbytes
    assert result.report.budget_met


def test_multiply_accumulates_are_a_budget(folder: Path) -> None:
    result = made(folder, max_macs=parse_macs("80%"))
    assert len(gone(result)) == 1
    assert result.report.macs_after <= 0.8 * result.report.macs_before


def test_budgets_combine(folder: Path) -> None:
    result = made(folder, budget=parse_budget("80%"), max_macs=parse_macs("55%"))
    assert len(gone(result)) == 2


def test_a_budget_that_is_met_already_takes_nothing_out(folder: Path) -> None:
    assert gone(made(folder, max_macs=parse_macs("100%"))) == []
    assert gone(made(folder, max_latency=60.0)) == []


def test_an_impossible_budget_says_what_was_found(folder: Path) -> None:
    with pytest.raises(BudgetError, match="smallest plan found needs"):
        made(folder, budget=parse_budget("5%"))
    with pytest.raises(BudgetError, match="MACs are allowed"):
        made(folder, max_macs=parse_macs("2%"))


def test_depth_alone_without_a_budget_goes_as_far_as_the_floor(folder: Path) -> None:
    result = made(folder, only="depth", min_fidelity=0.6)
    assert gone(result)
    assert all(output.met for model in result.report.models for output in model.fidelity)


def test_only_share_takes_no_region_out(folder: Path) -> None:
    with pytest.raises(BudgetError):
        made(folder, only="share", budget=parse_budget("60%"))


def test_two_models_share_one_budget(folder: Path) -> None:
    result = made(folder, "ab", only="depth", budget=parse_budget("70%"))
    assert {name.split("/")[0] for name in gone(result)} == {"a", "b"}


def test_a_plan_with_regions_is_replayed_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    one = made(folder, budget=parse_budget("60%"), output=tmp_path / "one")
    again = made(folder, plan=tmp_path / "one" / "plan.json", output=tmp_path / "two")
    assert again.plan == one.plan
    first, second = ((tmp_path / n / "merged.onnx").read_bytes() for n in ("one", "two"))
    assert first == second


def test_plans_that_contradict_themselves_are_refused(folder: Path) -> None:
    region = PlannedAction(CollapseAction("a", "a/b0", "a/b1"))
    nothing = PlannedAction(CollapseAction("a", "a/b0", "a/b2"))
    inside = PlannedAction(SharePrefixAction("a", "b", (Link("b/b1", ("a/b1_s",)),), 1))
    with pytest.raises(ModelError, match="is no region"):
        made(folder, given=Plan({"a": ""}, (nothing,)))
    with pytest.raises(ModelError, match="takes it out with the region"):
        made(folder, "ab", given=Plan({"a": "", "b": ""}, (region, inside)))


def test_sharing_and_depth_work_on_one_program(folder: Path) -> None:
    region = PlannedAction(CollapseAction("a", "a/b0", "a/b1"))
    shared = PlannedAction(SharePrefixAction("a", "b", (Link("b/b1", ("a/b1",)),), 1))
    result = made(folder, "ab", given=Plan({"a": "", "b": ""}, (region, shared)), min_fidelity=0.01)
    names = set(result.program.values())
    assert "a/b1_s" not in names
    assert "b/b1_s" not in names or "b/b0" not in names
    assert result.report.macs_after < 0.7 * result.report.macs_before


def test_a_region_of_a_shared_trunk_counts_for_both_models(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        net = Net(0)
        x = net.relu(net.conv("x", 3, CHANNELS))
        for index in range(3):
            x = block(net, x, CHANNELS, f"b{index}", 0.3)
        net.random = np.random.default_rng(seed)
        net.head(x, CHANNELS, 5)
        onnx.save(net.model(x=["N", 3, 8, 8]), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "frames.npz", x=images(160))
    result = made(tmp_path, "ab", only="depth", max_macs=parse_macs("25%"), metrics=VARIANCE)
    assert len(gone(result)) == 2
    # Two of three blocks that both models run once: two thirds of half.
    assert result.report.macs_after < 0.25 * result.report.macs_before
    assert all(0.7 <= o.value < 1 for model in result.report.models for o in model.fidelity)


def relative(model: onnx.ModelProto, share: float = 0.02) -> onnx.ModelProto:
    """The network with every weight moved by a share of itself."""
    random = np.random.default_rng(0)
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.ndim > 1:
            moved = array * (1 + share * random.standard_normal(array.shape))
            weight.CopyFrom(numpy_helper.from_array(moved.astype(array.dtype), weight.name))
    return model


@pytest.fixture(scope="module")
def relatives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("relatives")
    onnx.save(residual_net(4, scale=0.3), place / "a.onnx")
    onnx.save(relative(residual_net(4, scale=0.3)), place / "b.onnx")
    np.savez(place / "frames.npz", x=images(160))
    return place


def lowest(result: CompileResult) -> float:
    return min(output.value for model in result.report.models for output in model.fidelity)


def test_sharing_and_depth_together_do_less_damage_than_depth_alone(relatives: Path) -> None:
    budget = parse_budget("40%")
    with pytest.raises(BudgetError, match=r"prefix shared\)"):
        made(relatives, "ab", only="share", budget=budget, min_fidelity=0.5)
    depth = made(relatives, "ab", only="depth", budget=budget, metrics=VARIANCE)
    both = made(relatives, "ab", budget=budget, metrics=VARIANCE)
    assert {type(one.action) for one in both.plan.actions} == {SharePrefixAction, CollapseAction}
    assert lowest(both) > lowest(depth)
    # A region of the trunk goes from one model, and saves for both.
    assert len(gone(both)) == 1
    assert both.report.macs_after < 0.45 * both.report.macs_before


def test_a_refusal_says_what_the_smallest_plan_consists_of(relatives: Path) -> None:
    with pytest.raises(BudgetError, match=r"\(.*\d+ regions? out.*\)"):
        made(relatives, "ab", budget=parse_budget("4%"), min_fidelity=0.5)


@pytest.mark.parametrize("text", ["0%", "120%", "many", "0", "-3M"])
def test_macs_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError):
        parse_macs(text)


@pytest.mark.parametrize("text", ["8", "0ms", "fast", "-1ms"])
def test_times_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError):
        parse_seconds(text)


def test_limits_as_people_write_them() -> None:
    assert parse_macs("1.5G").limit(0) == 1_500_000_000
    assert parse_macs("60%").limit(200) == 120
    assert parse_seconds("8ms") == pytest.approx(0.008)
    assert json.dumps(str(parse_macs("60%"))) == '"60% of the MACs"'


def test_only_knows_two_means(folder: Path) -> None:
    with pytest.raises(UsageError, match="is no means"):
        made(folder, only="both")
