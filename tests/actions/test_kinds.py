"""Kinds of actions: entries of a plan read back or refused, and each of them left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from repsimc.compiler.actions import kinds
from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.compute_in_eight_bits import ComputeInEightBitsAction
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.kinds import Kind, action_from_json, chosen
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.plan_reader import PlanReader
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.store_in_few_bits import StoreInFewBitsAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.cli import main as cli
from repsimc.compiler.driver import compile_models
from repsimc.compiler.errors import BudgetError, ModelError, UsageError
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.plan import Plan
from repsimc.compiler.units import parse_budget
from tests.nets.by_kind import EXAMPLES
from tests.nets.networks import perturbed, pyramid, smooth_images
from tests.nets.residual import residual_net

KINDS = kinds.KINDS
NAMES = [kind.name for kind in KINDS]
ACTIONS: list[Action] = [
    FoldActivationAction("a", "a/h", "a/r"),
    PruneChannelsAction("a", "a/r", (0, 3)),
    FreezeBranchAction("a", "a/r"),
    TieWeightsAction("a", ("a/n_c1", "a/n_c2")),
    ReuseAttentionAction("a", "a/s0", "a/s1"),
    StoreInFewBitsAction("a", ("a/n_c1", "a/n_c2"), 4),
    ComputeInEightBitsAction("a", ("a/h", "a/r"), ((-1.5, 2.0), (0.0, 6.0)), "cpu"),
]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_an_action_is_json_and_comes_back(action: Action) -> None:
    entry = json.loads(json.dumps(action.to_json()))
    assert action_from_json(PlanReader("plan", "", entry)) == action
    assert str(action).startswith("a ") and "a/" not in str(action)


@pytest.mark.parametrize(
    ("action", "place"),
    [
        (FoldActivationAction("a", "a/h", "a/r"), "a: r"),
        (PruneChannelsAction("a", "a//layer1/relu", (0, 3)), "a: /layer1/relu"),
        (FreezeBranchAction("a", "a/r"), "a: r"),
        (NarrowLayerAction("a", "a/r", 8), "a: r"),
        (TieWeightsAction("a", ("a/n_c1", "a/n_c2")), "a: n_c1, n_c2"),
        (ReuseAttentionAction("a", "a/s0", "a/s1"), "a: s1 <- s0"),
        (StoreInFewBitsAction("a", ("a/n_c1",), 8), "a: n_c1"),
        (
            StoreInFewBitsAction("a", ("a/n_c1", "a/n_c2", "a/n_c3", "a/n_c4"), 4),
            "a: n_c1 and 3 others",
        ),
        (ComputeInEightBitsAction("a", ("a/r",), ((0.0, 6.0),), "tensorrt"), "a: r"),
        (CollapseAction("a", "a/b0", "a/b1", 1), "a: b0 .. b1"),
        (
            SharePrefixAction("a", "b", (Link("b/t", ("a/t", "a/u")), Link("b/u", ("a/u",))), 3),
            "b: t <- t + u, u <- u of a",
        ),
    ],
    ids=str,
)
def test_a_place_is_in_the_names_of_the_file(action: Action, place: str) -> None:
    assert action.place == place


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_has_a_place_in_the_model_that_it_rewrites(name: str) -> None:
    action = EXAMPLES[name].action
    assert action.place.startswith(f"{action.models[-1]}: ")


@pytest.mark.parametrize("entry", [{"kind": "merge"}, {}])
def test_an_unknown_kind_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="plan is of unknown kind"):
        action_from_json(PlanReader("plan", "", entry))


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_every_entry_is_needed(action: Action) -> None:
    for key in set(action.to_json()) - {"kind"}:
        for wrong in (None, 3, "", [], [None], [True]):
            entry: dict[str, Any] = {**action.to_json(), key: wrong}
            with pytest.raises(ModelError, match="action 7"):
                action_from_json(PlanReader("action 7", "", entry))


# -- kinds left out -------------------------------------------------------------------------------

# What does with less memory by sharing, and what by going without a block.
RELATED, DEEP = ("a", "b"), ("r",)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.onnx and b.onnx, its relative; r.onnx, a residual network of two blocks."""
    folder = tmp_path_factory.mktemp("kinds")
    proto = pyramid(0, (6, 8, 10))
    onnx.save(proto, folder / "a.onnx")
    onnx.save(perturbed(proto, 0.05, 1), folder / "b.onnx")
    onnx.save(residual_net(2, scale=0.3, channels=4), folder / "r.onnx")
    return folder


def planned(models: Path, names: Sequence[str], **wishes: Any) -> Plan | None:
    """The plan that meets 65 % of the memory; None where there is none within the floor."""
    options = CompileOptions(
        models=tuple((name, models / f"{name}.onnx") for name in names),
        calibration=smooth_images(80),
        budget=parse_budget("65%"),
        min_fidelity=0.6,
        **wishes,
    )
    try:
        result = compile_models(options)
    except BudgetError:
        return None
    assert result.report.weights_after_nbytes <= 0.65 * result.report.weights_before_nbytes
    assert all(output.met for model in result.report.models for output in model.fidelity)
    return result.plan


def kinds_of(plan: Plan) -> set[str]:
    return {one.action.kind for one in plan.actions}


def leave_out(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[Kind, ...]:
    left = tuple(kind for kind in KINDS if kind.name != name)
    monkeypatch.setattr(kinds, "KINDS", left)
    return left


def test_with_all_kinds_both_are_met_by_the_obvious_ones(models: Path) -> None:
    related, deep = planned(models, RELATED), planned(models, DEEP)
    assert related is not None and kinds_of(related) == {"share-prefix"}
    assert deep is not None and kinds_of(deep) == {"collapse"}


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_can_be_left_out_and_nothing_else_notices(
    name: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out(monkeypatch, name)
    found = {names: planned(models, names) for names in (RELATED, DEEP)}
    # Only who did the work is missed.
    assert found[RELATED] is not None or name == "share-prefix"
    assert found[DEEP] is not None or name == "collapse"
    for plan in found.values():
        assert plan is None or name not in kinds_of(plan)
    # To be asked to do without a kind is the same as not to have it.
    monkeypatch.undo()
    names = RELATED if name == "share-prefix" else DEEP
    assert planned(models, names, without=(name,)) == found[names]


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_that_is_left_out_is_not_listed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = leave_out(monkeypatch, name)
    assert cli.main(["passes", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)["kinds"]
    assert [(entry["name"], entry["only"]) for entry in listed] == [
        (kind.name, kind.only) for kind in left
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_with_a_kind_that_is_left_out_is_refused(
    name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    entry = EXAMPLES[name].action.to_json()
    path.write_text(
        json.dumps({"schema": "repsimc.plan/1", "models": {"r": ""}, "actions": [entry]})
    )
    leave_out(monkeypatch, name)
    options = CompileOptions(models=(("r", models / "r.onnx"),), plan=path)
    with pytest.raises(ModelError, match=f"plan.json: action 0 is of unknown kind '{name}'"):
        compile_models(options)


@pytest.mark.parametrize("name", NAMES)
def test_chosen_kinds_are_those_that_were_not_left_out(name: str) -> None:
    assert name not in [kind.name for kind in chosen(without=(name,))]
    assert len(chosen(without=(name,))) == len(KINDS) - 1
    (own,) = [kind for kind in KINDS if kind.name == name]
    assert own in chosen(own.only) and own not in chosen(own.only, (name,))


def test_what_is_no_kind_or_means_is_refused_before_any_work(tmp_path: Path) -> None:
    nowhere = (("a", tmp_path / "nowhere.onnx"),)
    with pytest.raises(UsageError, match="--without 'fold' is no kind of rewrite") as caught:
        compile_models(CompileOptions(models=nowhere, without=("collapse", "fold")))
    assert caught.value.hint == f"there are {', '.join(NAMES)}"
    with pytest.raises(UsageError, match="--only 'breadth' is no means") as caught:
        compile_models(CompileOptions(models=nowhere, only="breadth"))
    assert caught.value.hint == "there are share, depth, precision"


def test_a_means_is_said_with_only() -> None:
    with pytest.raises(UsageError, match="--without 'share' names a means") as caught:
        chosen(without=("share",))
    hint = "--only share takes it alone, --only depth or --only precision leaves it out"
    assert hint in caught.value.hint
    with pytest.raises(UsageError, match="--without '' is no kind"):
        chosen(without=("",))


def test_a_means_without_kinds_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(monkeypatch, "share-prefix")
    with pytest.raises(UsageError, match="--only 'share' is no means") as caught:
        chosen("share")
    assert caught.value.hint == "there are depth, precision"
