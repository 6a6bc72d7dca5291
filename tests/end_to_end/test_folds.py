"""Folds in `repsimc compile`: found, measured, taken or refused, and replayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.actions import kinds as all_kinds
from repsimc.compiler.actions.action import Action, Readable
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.narrow_attention import NarrowAttentionAction
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.case import frames_of
from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.errors import BudgetError, FidelityError, ModelError
from repsimc.compiler.execution import latency
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.graph.program import Program
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning import merge_speed
from repsimc.compiler.planning.plan import Plan, PlannedAction
from repsimc.compiler.reports.report import Report
from repsimc.compiler.units import parse_budget, parse_macs
from tests.nets.attention import attention_layer
from tests.nets.foldable import (
    always_on,
    attention_net,
    gelu_mlp,
    quiet_channels,
    sometimes_dead,
    still_branch,
    tokens,
    twins,
)
from tests.nets.networks import Array, Net, perturbed, smooth_images
from tests.programs import program_of

STRICT = {"min_fidelity": 1.0, "metrics": {"a": "variance"}}
# Such that rounding and nothing else is lost.
ALMOST_ALL = {"min_fidelity": 0.9995, "metrics": {"a": "variance"}}


def images() -> Array:
    return smooth_images(400)


def some_tokens() -> Array:
    return np.asarray(tokens(400).arrays["a/x"])


@dataclass(frozen=True)
class Case:
    """A network, what it is to lose, and the budget that asks for it (none: it is free).

    `without` are kinds by which the network gets as small, or smaller; `floor` is one that only
    what is asked for keeps.
    """

    model: Callable[[], onnx.ModelProto]
    frames: Callable[[], Array]
    kind: type[Readable]
    budget: Mapping[str, Any] = field(default_factory=dict[str, Any])
    weights: float = 0.8
    macs: float = 1.0
    without: tuple[str, ...] = ()
    floor: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def alone(self) -> tuple[str, ...]:
        """All kinds but its own."""
        return tuple(kind.name for kind in all_kinds.KINDS if kind.action is not self.kind)


CASES = {
    "nearly linear activation": Case(
        lambda: gelu_mlp(0.15), some_tokens, FoldActivationAction,
        {"max_macs": parse_macs("60%")}, 0.5, 0.5,
    ),
    "activation always on": Case(always_on, images, FoldActivationAction, {}, 0.3, 0.2),
    "nearly dead channels": Case(
        quiet_channels, images, PruneChannelsAction, {"budget": parse_budget("75%")}, 0.75, 0.75
    ),
    "dead channels": Case(
        sometimes_dead, images, PruneChannelsAction, {}, 0.7, 0.7, ("fold-activation",), ALMOST_ALL
    ),
    "still branch": Case(still_branch, images, FreezeBranchAction, {}, 0.4, 0.4),
    "layers alike": Case(
        twins, images, TieWeightsAction, {"budget": parse_budget("70%")}, 0.7, 1.0
    ),
    "attention wider than its logits": Case(
        lambda: attention_layer(rank=8), some_tokens, NarrowAttentionAction,
        {"budget": parse_budget("88%")}, 0.88,
    ),
    "attention alike": Case(
        attention_net, some_tokens, ReuseAttentionAction, {}, 0.8, 0.8,
        ("tie-weights", "narrow-attention", "prune-channels", "collapse"),
    ),
}  # fmt: skip


# Every case is about another kind of fold, which narrower layers may be better than.
pytestmark = pytest.mark.usefixtures("layers_keep_their_units")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """case.onnx and case.npz for every case."""
    place = tmp_path_factory.mktemp("folds")
    for name, case in CASES.items():
        onnx.save(case.model(), place / f"{name}.onnx")
        np.savez(place / f"{name}.npz", x=case.frames())
    return place


@pytest.fixture(autouse=True)
def merges_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of some microseconds would decide otherwise."""
    monkeypatch.setattr(merge_speed, "best_seconds", lambda *_ends, **_options: [1.0, 0.9])


def made(folder: Path, name: str, given: Plan | None = None, **wishes: Any) -> CompileResult:
    options: dict[str, Any] = {"min_fidelity": 0.9, "calibration": folder / f"{name}.npz"}
    if name in CASES:
        options |= {"without": CASES[name].without, **CASES[name].floor}
    models = (("a", folder / f"{name}.onnx"),)
    return compile_models(CompileOptions(models=models, **options | wishes), plan=given)


def kinds(result: CompileResult) -> list[type]:
    return [type(planned.action) for planned in result.plan.actions]


@pytest.mark.parametrize("name", CASES)
def test_compile_finds_it(folder: Path, name: str) -> None:
    case = CASES[name]
    result = made(folder, name, **case.budget)
    report = result.report
    assert kinds(result) == [case.kind]
    assert report.weights_after_nbytes <= case.weights * report.weights_before_nbytes
    assert report.macs_after <= case.macs * report.macs_before
    assert all(output.met for model in report.models for output in model.fidelity)
    (planned,) = result.plan.actions
    (rewritten,) = report.actions
    assert rewritten.place == planned.action.place
    assert rewritten.predicted_loss == planned.predicted is not None
    assert planned.fidelity is not None and planned.fidelity >= 0.9


BUDGETED = [name for name, case in CASES.items() if case.budget]
FREE = [name for name, case in CASES.items() if not case.budget]


@pytest.mark.parametrize("name", BUDGETED)
def test_it_is_refused_where_the_floor_forbids_it(folder: Path, name: str) -> None:
    with pytest.raises(BudgetError):
        made(folder, name, **CASES[name].budget, **STRICT)


@pytest.mark.parametrize("name", CASES)
def test_a_budget_that_is_met_asks_for_nothing(folder: Path, name: str) -> None:
    assert kinds(made(folder, name, budget=parse_budget("100%"))) == []
    assert kinds(made(folder, name, exact_only=True)) == []


@pytest.mark.parametrize("name", BUDGETED)
def test_without_a_budget_at_least_as_much_is_saved(folder: Path, name: str) -> None:
    least, asked = made(folder, name).report, made(folder, name, **CASES[name].budget).report
    assert all(output.met for model in least.models for output in model.fidelity)

    def size(report: Report) -> float:
        nbytes = report.weights_after_nbytes / report.weights_before_nbytes
        return nbytes + report.macs_after / report.macs_before

    # Both keep the floors, so that the smaller of the two is to be had.
    assert size(least) <= size(asked) * 1.001


@pytest.mark.parametrize("name", FREE)
def test_what_other_frames_deny_is_refused(folder: Path, name: str) -> None:
    """Dead, straight, still or alike on the frames of the fit, and not on those held out."""
    path = folder / f"{name}.onnx"
    x = CASES[name].frames().copy()
    wishes = {**ALMOST_ALL, "without": CASES[name].alone}
    assert kinds(made(folder, name, calibration=x, **wishes)) == [CASES[name].kind]
    options = CompileOptions(models=(("a", path),), calibration=x)
    frames = frames_of(options, [read_model(path, "a")])
    assert frames is not None
    x[frames.held_out_rows("a")] *= 100
    assert kinds(made(folder, name, calibration=x, **wishes)) == []


@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_replayed_byte_for_byte(folder: Path, name: str, tmp_path: Path) -> None:
    one = made(folder, name, output=tmp_path / "one", **CASES[name].budget)
    plan = tmp_path / "one" / "plan.json"
    again = made(folder, name, output=tmp_path / "two", plan=plan)
    anew = made(folder, name, output=tmp_path / "three", **CASES[name].budget)
    assert again.plan == anew.plan == one.plan
    contents = {(tmp_path / n / "merged.onnx").read_bytes() for n in ("one", "two", "three")}
    assert len(contents) == 1


@pytest.mark.parametrize("name", BUDGETED)
def test_a_replayed_plan_is_held_to_the_floor(folder: Path, name: str) -> None:
    plan = made(folder, name, **CASES[name].budget).plan
    with pytest.raises(FidelityError):
        made(folder, name, plan, **STRICT)


def test_only_share_folds_nothing(folder: Path) -> None:
    with pytest.raises(BudgetError):
        made(folder, "dead channels", only="share", budget=parse_budget("80%"))


def test_folds_count_as_depth(folder: Path) -> None:
    result = made(folder, "dead channels", only="depth", budget=parse_budget("80%"))
    assert kinds(result) == [PruneChannelsAction]


def test_a_merge_that_is_not_faster_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower(programs: Sequence[Program], *_ends: object, **_options: int) -> list[float]:
        (before, after) = programs
        assert len(after.graph.nodes) < len(before.graph.nodes)
        return [1.0, 1.2]

    monkeypatch.setattr(merge_speed, "best_seconds", slower)
    assert FoldActivationAction not in kinds(made(folder, "activation always on"))
    with pytest.raises(BudgetError):
        made(folder, "nearly linear activation", max_macs=parse_macs("60%"))


def test_seconds_are_told_apart() -> None:
    small, large = (program_of(gelu_mlp(0.15, width)) for width in (8, 2048))
    few, many = latency.best_seconds([small, large], ["a/x"], ["a/y"], runs=3)
    assert 0 < few < float("inf") and 0 < many < float("inf")


def test_each_channel_is_told_of_once(tmp_path: Path) -> None:
    """Channels that hardly move include those that never do: one line in the plan, not two."""
    onnx.save(quiet_channels(1e-4, -1.0, 1), tmp_path / "quiet.onnx")
    np.savez(tmp_path / "quiet.npz", x=images())
    actions = [planned.action for planned in made(tmp_path, "quiet").plan.actions]
    of_r = [one for one in actions if isinstance(one, PruneChannelsAction) and one.value == "a/r"]
    assert of_r == [PruneChannelsAction("a", "a/r", (2, 5, 6, 9))]


def test_a_branch_that_moves_stays(tmp_path: Path) -> None:
    onnx.save(still_branch(-2.0), tmp_path / "moving.onnx")
    np.savez(tmp_path / "moving.npz", x=images())
    assert kinds(made(tmp_path, "moving")) == []


# -- beside sharing and depth -----------------------------------------------------------------


@pytest.fixture(scope="module")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks of one origin, each with five dead channels behind the common part."""
    place = tmp_path_factory.mktemp("siblings")
    net = Net(4)
    x = net.relu(net.conv("x", 3, 10, out="c1"), out="s1")
    x = net.relu(net.conv(x, 10, 10, out="c2"), out="s2")
    shift = np.zeros(12)
    shift[[0, 3, 4, 7, 11]] = -60
    weight = net.weight(net.normal(12, 10, 3, 3, scale=0.2))
    x = net.relu(net.node("Conv", x, weight, net.weight(shift), pads=[1] * 4), out="r")
    net.head(net.relu(net.conv(x, 12, 8, out="c4")), 8, 5)
    model = net.model(x=("N", 3, 8, 8))
    onnx.save(model, place / "a.onnx")
    onnx.save(perturbed(model, 0.05), place / "b.onnx")
    np.savez(place / "frames.npz", x=images())
    return place


def compiled(siblings: Path, given: Plan | None = None, **wishes: Any) -> CompileResult:
    options = {"min_fidelity": 0.9, "calibration": siblings / "frames.npz"} | wishes
    models = tuple((name, siblings / f"{name}.onnx") for name in "ab")
    return compile_models(CompileOptions(models=models, **options), plan=given)


def test_sharing_and_folds_are_one_plan(siblings: Path) -> None:
    shared = compiled(siblings, only="share")
    both = compiled(siblings)
    assert kinds(shared) == [SharePrefixAction]
    assert sorted(kind.__name__ for kind in set(kinds(both))) == [
        "PruneChannelsAction",
        "SharePrefixAction",
    ]
    assert both.report.weights_after_nbytes < shared.report.weights_after_nbytes
    assert all(output.met for model in both.report.models for output in model.fidelity)


def test_folds_that_a_share_makes_idle_are_left_out(siblings: Path) -> None:
    result = compiled(siblings)
    for planned in result.plan.actions:
        others = tuple(p for p in result.plan.actions if p is not planned)
        without = compiled(siblings, given=Plan({"a": "", "b": ""}, others), min_fidelity=0.0)
        assert without.report.weights_after_nbytes > result.report.weights_after_nbytes, planned


def test_exact_means_come_before_approximate_ones(siblings: Path) -> None:
    result = compiled(siblings, budget=parse_budget("85%"))
    assert set(kinds(result)) == {PruneChannelsAction}
    assert all(f.value > 0.999 for model in result.report.models for f in model.fidelity)


# -- plans by hand ----------------------------------------------------------------------------

WRONG = [
    (FoldActivationAction("a", "a/x", "a/c2"), "no activation function"),
    (PruneChannelsAction("a", "a/y", (0,)), "is an input or output"),
    (PruneChannelsAction("a", "a/r", (12,)), "channel 12"),
    (NarrowLayerAction("a", "a/r", 12), "has 12 units"),
    (NarrowLayerAction("a", "a/c2", 2), "no linear operator alone reads 'c2'"),
    (NarrowAttentionAction("a", "a/r", 2), "no softmax over logits makes it"),
    (FreezeBranchAction("a", "a/nowhere"), "not in the program"),
    (FreezeBranchAction("a", "a/r"), "cannot read a constant"),
    (FreezeBranchAction("a", "a/y"), "input or output of the model"),
    (TieWeightsAction("a", ("a/n_c2", "a/n_y")), "differ in shape"),
    (ReuseAttentionAction("a", "a/r", "a/c2"), "differ in shape"),
    (FreezeBranchAction("b", "a/r"), "'b', which was not given"),
]


@pytest.mark.parametrize(("action", "problem"), WRONG, ids=[problem for _, problem in WRONG])
def test_a_plan_that_cannot_be_done_is_refused(folder: Path, action: Action, problem: str) -> None:
    with pytest.raises(ModelError, match=problem) as raised:
        made(folder, "dead channels", Plan({"a": ""}, (PlannedAction(action),)))
    assert raised.value.hint


def test_a_plan_that_rewrites_a_node_twice_is_refused(folder: Path) -> None:
    prune = PlannedAction(PruneChannelsAction("a", "a/t0", (0,)))
    tie = PlannedAction(TieWeightsAction("a", ("a/n_t0", "a/n_t1")))
    with pytest.raises(ModelError, match="twice"):
        made(folder, "layers alike", Plan({"a": ""}, (prune, tie)))


def test_more_channels_include_fewer(folder: Path) -> None:
    few, more = (
        PlannedAction(PruneChannelsAction("a", "a/r", channels)) for channels in ((0, 3), (0, 3, 4))
    )
    plans = [Plan({"a": ""}, actions) for actions in ((more,), (few, more), (more, few))]
    programs = [made(folder, "dead channels", plan).program for plan in plans]
    shapes = {tuple(program.node("a/n_c2").inputs[1].shape) for program in programs}
    assert shapes == {(4, 9, 1, 1)}
