"""Hidden layers with fewer units: which ones, what that costs, and beside what it can stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc.compiler.actions import narrow_layer
from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.bill import Bills
from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.combining import without_outdone
from repsimc.compiler.actions.kinds import action_from_json
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.plan_reader import PlanReader
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.driver import compile_models
from repsimc.compiler.errors import ModelError
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.units import parse_budget
from repsimc.passes.pipeline import CLEANING, run_passes
from tests.actions.costs import assert_billed
from tests.nets.evidence import GivenEvidence
from tests.nets.foldable import carried_out, error, images, sometimes_dead, twice_the_units
from tests.nets.networks import Net, smooth_images
from tests.nets.residual import residual_net
from tests.programs import program_of


def test_units_that_are_there_twice_are_found_and_go() -> None:
    program = program_of(twice_the_units())
    sites = narrow_layer.find(GivenEvidence(program, images()), ("a",)).found
    half = next(site for site in sites if site.action == NarrowLayerAction("a", "a/r", 16))
    assert half.damage < 5e-3 and half.saved.weights_nbytes > 0 and half.saved.macs > 0
    narrow = program.copy()
    changes = carried_out(narrow, half.action, images())
    assert "16 of 32 units stay" in [change.what for change in changes]
    assert narrow.values()["a/r"].shape[1] == 16
    assert error(narrow, program, images(seed=1)) < 1e-3
    # Every pair keeps one: any other choice would lose units that nothing replaces.
    worse = [site for site in sites if isinstance(site.action, NarrowLayerAction)]
    assert all(site.damage > half.damage for site in worse if site.action.units < 16)


def test_the_budget_is_met_by_a_narrower_layer_and_replayed(tmp_path: Path) -> None:
    onnx.save(twice_the_units(), tmp_path / "a.onnx")
    np.savez(tmp_path / "a.npz", x=smooth_images(192))
    options = CompileOptions(
        models=(("a", tmp_path / "a.onnx"),),
        calibration=tmp_path / "a.npz",
        budget=parse_budget("60%"),
        min_fidelity=0.9,
    )
    first = compile_models(options)
    assert [type(one.action) for one in first.plan.actions] == [NarrowLayerAction]
    assert first.report.weights_after_nbytes <= 0.6 * first.report.weights_before_nbytes
    again = compile_models(options, plan=first.plan)
    assert _weights(again.program) == _weights(first.program)


def _weights(program: Program) -> dict[str, bytes]:
    return {name: tensor.values.tobytes() for name, tensor in program.weights().items()}


NARROW = NarrowLayerAction("a", "a/b1_h", 3)


@pytest.mark.parametrize(
    "actions",
    [
        [CollapseAction("a", "a/b1", "a/b2"), NARROW],  # the block before the gap
        [CollapseAction("a", "a/b0", "a/b1"), NARROW],  # inside the gap
        [CollapseAction("a", "a/b0", "a/b1"), NarrowLayerAction("a", "a/b2_h", 3)],  # behind it
        [NARROW, NarrowLayerAction("a", "a/b1_h", 2), NarrowLayerAction("a", "a/b0_h", 4)],
        [NARROW, PruneChannelsAction("a", "a/b1_h", (0, 1))],
    ],
)
def test_beside_others_it_costs_what_was_billed(actions: list[Action]) -> None:
    assert_billed(Bills(program_of(residual_net(3))), actions)


def test_it_does_not_stand_beside_channels_of_what_goes_through() -> None:
    skeleton = Bills(program_of(residual_net(3)))
    assert skeleton.bill([NARROW, PruneChannelsAction("a", "a/stem", (0, 1))]) is None


def test_regions_and_narrower_layers_are_fitted_in_one_walk() -> None:
    program = program_of(residual_net(3))
    reference = Reference(program, images())
    actions: list[Action] = [CollapseAction("a", "a/b1", "a/b2"), NARROW]
    steps = [step.name for step in passes_of(actions, lambda action: reference)]
    assert steps == ["collapse", "drop-dead", "refit-around"]
    done = program.copy()
    run_passes(done, passes_of(actions, lambda action: reference))
    run_passes(done, CLEANING)
    verify(done)
    assert done.values()["a/b1_h"].shape[1] == 3


def test_fewer_units_outdo_more_and_channels_by_name() -> None:
    program = program_of(sometimes_dead())
    seven = NarrowLayerAction("a", "a/r", 7)
    three = NarrowLayerAction("a", "a/r", 3)
    prune = PruneChannelsAction("a", "a/r", (0, 3, 4, 7))  # 8 of 12 are left
    assert three.covers(seven) and not seven.covers(three)
    assert without_outdone(program, [seven, prune, three]) == [three]
    assert without_outdone(program, [NarrowLayerAction("a", "a/r", 9), prune]) == [prune]
    skeleton = Bills(program)
    assert skeleton.bill([seven, prune]) == skeleton.bill([seven])


@pytest.mark.parametrize("units", [0, -1, 2.5, True, "8", None])
def test_units_have_to_be_a_number(units: object) -> None:
    entry = {"kind": "narrow-layer", "model": "a", "value": "a/r", "units": units}
    with pytest.raises(ModelError, match="units must be a whole number from 1"):
        action_from_json(PlanReader("action 1", "", entry))


def test_a_layer_of_shared_weights_is_left_alone() -> None:
    net = Net(1)
    weight, bias = net.weight(net.normal(6, 6, 3, 3, scale=0.3)), net.weight(np.zeros(6))
    x = net.relu(net.conv("x", 3, 6))
    for index in range(2):
        x = net.relu(net.node("Conv", x, weight, bias, pads=[1] * 4), out=f"r{index}")
    net.head(x, 6, 5)
    program = program_of(net.model(x=["N", 3, 8, 8]))
    skeleton = Bills(program)
    assert skeleton.bill([NarrowLayerAction("a", "a/r0", 3)]) is None
    assert "others read the weights" in str(skeleton.effect(NarrowLayerAction("a", "a/r0", 3)))
    assert narrow_layer.find(GivenEvidence(program, images()), ("a",)).found == []
