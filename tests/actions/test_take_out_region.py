"""Regions taken out of a model, as JSON and in words."""

from __future__ import annotations

from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.planning.plan import Plan, PlannedAction, plan_from_json


def test_actions_survive_json() -> None:
    action = CollapseAction("a", "a/b0", "a/b1", 3)
    plan = Plan({"a": ""}, (PlannedAction(action, 10, 20, None, 0.5),))
    assert plan_from_json(plan.to_json()) == plan
    assert str(action) == "a goes without b0 .. b1, a 3x3 map instead"
