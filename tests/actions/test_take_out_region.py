"""Regions taken out of a model, as JSON and in words."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.actions.take_out_region import CollapseAction, find
from repsimc.compiler.execution.samples import sample_values
from repsimc.compiler.planning.plan import Plan, PlannedAction, plan_from_json
from tests.nets.six_blocks import bench


def test_actions_survive_json() -> None:
    action = CollapseAction("a", "a/b0", "a/b1", 3)
    plan = Plan({"a": ""}, (PlannedAction(action, 10, 20, None, 0.5),))
    assert plan_from_json(plan.to_json()) == plan
    assert str(action) == "a goes without b0 .. b1, a 3x3 map instead"


def test_the_damage_is_what_an_affine_map_does_not_explain() -> None:
    """A block that hardly adds anything is explained by its entry, one that rectifies is not."""
    evidence = bench().evidence
    sites = {site.action.place: site for site in find(evidence, evidence.groups[0]).found}
    assert len(sites) == 6 and all(0 < site.damage < 1 for site in sites.values())
    action = next(iter(sites.values())).action
    assert isinstance(action, CollapseAction)
    rows = sample_values(
        evidence.program, [action.entry, action.exit], evidence.reference("a").frames
    ).rows
    x, y = rows[action.entry].astype(np.float64), rows[action.exit].astype(np.float64)
    design = np.column_stack([x, np.ones(len(x))])
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    share = float(np.square(left).sum() / np.square(y - y.mean(axis=0)).sum())
    assert sites[action.place].damage == pytest.approx(share, rel=0.35)
