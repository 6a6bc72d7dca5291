"""The plan as a value: through JSON and back, printed, refused where it is wrong or no fit."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.actions.freeze_branch import FreezeBranchAction
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.errors import ModelError, UsageError
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.planning.plan import (
    Plan,
    PlannedAction,
    check_plan,
    plan_from_json,
    read_plan,
)
from tests.nets.networks import Net
from tests.nets.residual import residual_net
from tests.programs import joined

ACTION = SharePrefixAction("a", "b", (Link("b/t", ("a/t", "a/u")), Link("b/u", ("a/u",))), kernel=3)
RAW = SharePrefixAction("b", "a", (Link("a/u", ("b/u",)),), kernel=0)
PLAN = Plan(
    {"a": "0" * 64, "b": "0" * 64},
    (
        PlannedAction(ACTION, 1000, 20_000, 0.91234567, 0.995, 0.01234567),
        PlannedAction(RAW),
    ),
    seed=7,
    left_alone={"c": "no other model sees the same frames"},
    predicted=0.02345678,
)


def test_the_actions_survive_json_text() -> None:
    text = json.dumps(PLAN.to_json(), allow_nan=False)
    found = plan_from_json(json.loads(text))
    assert [planned.action for planned in found.actions] == [ACTION, RAW]
    assert (found.models, found.seed) == (PLAN.models, 7)
    # What was expected is carried along, so that a replay writes the plan it was given.
    assert found.to_json() == PLAN.to_json()


def test_folds_are_actions_like_others() -> None:
    folds = (
        FoldActivationAction("a", "a/t", "a/u"),
        PruneChannelsAction("a", "a/t", (0, 3)),
        NarrowLayerAction("a", "a/t", 8),
        FreezeBranchAction("b", "b/u"),
        TieWeightsAction("b", ("b/n", "b/m")),
        ReuseAttentionAction("a", "a/t", "a/u"),
    )
    plan = Plan(PLAN.models, tuple(PlannedAction(fold, 10, 20, None, 0.99) for fold in folds))
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert str(plan).splitlines()[1] == "a loses 2 channels of t"
    assert all(len(fold.models) == 1 for fold in folds)


def test_what_a_region_ends_in_is_not_shared_too() -> None:
    region = PlannedAction(CollapseAction("a", "a/b0", "a/b1"))
    share = PlannedAction(SharePrefixAction("b", "a", (Link("a/b1", ("b/b1",)),), 1))
    models = joined([], a=residual_net(2), b=residual_net(2, seed=1))
    with pytest.raises(ModelError, match="replaces a/b1 twice") as raised:
        check_plan(Plan({"a": "", "b": ""}, (region, share)), models)
    assert raised.value.hint


def test_expectations_are_written_and_not_needed() -> None:
    data = PLAN.to_json()
    assert data["actions"][0]["expected"] == {
        "weights_saved_nbytes": 1000,
        "macs_saved": 20_000,
        "similarity": 0.912346,
        "fidelity": 0.995,
        "predicted": 0.012346,
    }
    assert data["actions"][1]["expected"]["similarity"] is None
    assert data["actions"][1]["expected"]["predicted"] is None
    assert data["expected"] == {"actions": 2, "predicted": 0.023457}
    assert data["left_alone"] == {"c": "no other model sees the same frames"}
    for nonsense in (None, [], {"fidelity": "high", "similarity": True, "macs_saved": math.inf}):
        for action in data["actions"]:
            action["expected"] = nonsense
        assert plan_from_json(data).actions == (PlannedAction(ACTION), PlannedAction(RAW))
    for action in data["actions"]:
        del action["expected"]
    del data["left_alone"]
    assert plan_from_json(data).actions == (PlannedAction(ACTION), PlannedAction(RAW))


def test_a_plan_reads_as_sentences() -> None:
    assert str(PLAN).splitlines() == [
        "b takes from a: t <- t + u, u <- u (3x3 adapter)",
        "a takes from b: u <- u (as it is)",
        "c is left alone: no other model sees the same frames",
    ]
    assert str(Plan({})) == "nothing inexact"


def test_what_all_lose_together_is_not_told_of_a_part_of_them() -> None:
    data = PLAN.to_json()
    assert plan_from_json(data).predicted == 0.023457
    fewer = data | {"actions": data["actions"][:1]}
    assert plan_from_json(fewer).predicted is None
    assert plan_from_json(fewer).actions[0].predicted == 0.012346
    for nonsense in (None, [], {"actions": 2}, {"actions": 2, "predicted": "much"}):
        assert plan_from_json(data | {"expected": nonsense}).predicted is None


def test_plans_of_earlier_versions_are_read() -> None:
    data = PLAN.to_json()
    del data["expected"]
    for action in data["actions"]:
        del action["expected"]["predicted"]
    found = plan_from_json(data)
    assert found.predicted is None
    assert [planned.predicted for planned in found.actions] == [None, None]
    assert found.actions[0].fidelity == 0.995


LINK = ("actions", 0, "links", 0)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((), [], "my.json is not a table"),
        (("schema",), "repsimc.plan/2", "my.json has schema 'repsimc.plan/2'"),
        (("schema",), None, "schema None"),
        (("models",), [], "models is not a table"),
        (("actions",), {}, "my.json: actions is not a list"),
        (("actions", 1), "share", "my.json: action 1 is not a table"),
        (("actions", 1, "kind"), "magic", "action 1 is of unknown kind 'magic'"),
        (("actions", 0, "donor"), "", "action 0: donor is '', not a name"),
        (("actions", 0, "receiver"), 3, "action 0: receiver is 3"),
        (("actions", 0, "kernel"), 2, "action 0: kernel is 2, not 0, 1 or 3"),
        (("actions", 0, "kernel"), True, "action 0: kernel is True"),
        (("actions", 0, "kernel"), "3", "action 0: kernel is '3'"),
        (("actions", 0, "kernel"), [], "action 0: kernel is []"),
        (("actions", 0, "links"), {}, "action 0: links is not a list"),
        (("actions", 0, "links"), [], "action 0 links nothing"),
        (LINK, "b/t", "action 0: links is not a table"),
        ((*LINK, "receiver_value"), None, "action 0: receiver_value is None"),
        ((*LINK, "donor_values"), "a/t", "action 0: donor_values is not a list"),
        ((*LINK, "donor_values"), [], "action 0: donor_values must be a list of names"),
        ((*LINK, "donor_values"), ["a/t", 1], "action 0: donor_values must be a list of names"),
        (("seed",), "7", "my.json: seed is '7'"),
        (("seed",), True, "my.json: seed is True"),
    ],
)
def test_a_malformed_plan_is_refused_by_entry(
    path: tuple[str | int, ...], value: object, said: str
) -> None:
    data: Any = copy.deepcopy(PLAN.to_json())
    if not path:
        data = value
    else:
        place = data
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
    with pytest.raises(ModelError) as error:
        plan_from_json(data, "my.json")
    assert said in error.value.message


@pytest.mark.parametrize("key", ["schema", "models", "actions"])
def test_a_missing_part_is_refused(key: str) -> None:
    data = PLAN.to_json()
    del data[key]
    with pytest.raises(ModelError):
        plan_from_json(data)


def test_a_plan_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN.to_json()))
    assert [planned.action for planned in read_plan(path).actions] == [ACTION, RAW]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"plan\.json is not valid JSON"):
        read_plan(path)


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b'"plan"', b'["left_alone"]'])
def test_a_plan_that_is_no_table_says_what_a_plan_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ModelError, match="is not a table") as caught:
        read_plan(tmp_path / "plan.json")
    assert "the plan.json of a bundle" in caught.value.hint


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the plan .*none\.json: No such file"):
        read_plan(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot read the plan"):
        read_plan(tmp_path)
    big = tmp_path / "big.json"
    with big.open("wb") as stream:
        stream.truncate(17 << 20)
    with pytest.raises(UsageError, match="too large"):
        read_plan(big)


# -- against a program -------------------------------------------------------------------------


def program() -> Any:
    def net(seed: int) -> Any:
        made = Net(seed)
        made.head(made.relu(made.conv("x", 3, 4, out="t"), out="u"), 4, 3)
        return made.model(x=("N", 3, 8, 8))

    return joined(a=net(0), b=net(1))


def changed(action: SharePrefixAction = ACTION, **models: str) -> Plan:
    return Plan({"a": "0" * 64, "b": "0" * 64} | models, (PlannedAction(action),))


def test_a_plan_that_fits_is_accepted() -> None:
    check_plan(changed(), program())
    check_plan(changed(a=""), program())  # an emptied digest insists


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (changed(c="0" * 64), "disagree on c"),
        (Plan({"a": "0" * 64}, ()), "disagree on b"),
        (changed(b="1" * 64), "model b is not the file the plan was made for"),
        (changed(SharePrefixAction("x", "b", ACTION.links, 1)), "model 'x'"),
        (changed(SharePrefixAction("a", "y", ACTION.links, 1)), "model 'y'"),
        (
            changed(SharePrefixAction("a", "b", (Link("b/none", ("a/t",)),), 1)),
            "value 'b/none', which is not in the program",
        ),
        (
            changed(SharePrefixAction("a", "b", (Link("b/t", ("a/none",)),), 1)),
            "value 'a/none', which is not in the program",
        ),
    ],
)
def test_a_plan_for_something_else_is_refused(plan: Plan, said: str) -> None:
    with pytest.raises(ModelError) as error:
        check_plan(plan, program())
    assert said in error.value.message


@pytest.mark.parametrize(
    ("link", "kernel", "said"),
    [
        # What an adapter cannot do: the plan is edited by hand, so each has to be said.
        (Link("b/y", ("a/t",)), 1, "b/y"),  # an output of the model
        (Link("b/t", ("a/y",)), 1, "a/y"),  # scores cannot become an image
        (Link("b/t", ("a/x",)), 0, "a/x"),  # 3 channels as they are for 4
    ],
)
def test_links_that_no_adapter_can_make_are_refused(link: Link, kernel: int, said: str) -> None:
    with pytest.raises(ModelError) as error:
        check_plan(changed(SharePrefixAction("a", "b", (link,), kernel)), program())
    assert said in error.value.message
