"""The order in which regions go: how few measurements decide it, and what they measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from repsimc.compiler.actions import take_out_region
from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.bill import Bill, Bills
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.site import Site
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.fitting.effort import TRIAL
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.planning.descent import LOOKS, USELESS, Descent, Trying
from tests.nets.evidence import GivenEvidence
from tests.nets.networks import (
    ArrayFrames,
)
from tests.nets.residual import (
    images,
    residual_net,
)
from tests.nets.six_blocks import PROGRAM, REGIONS, SKELETON, bench, taken_out
from tests.programs import program_of


class Errors:
    """An error per region, added up over what is gone; remembers what was asked."""

    def __init__(self, each: Sequence[float], factor: float = 1.0) -> None:
        self.each = {c.action.exit: error for c, error in zip(REGIONS, each, strict=True)}
        self.factor = factor
        self.asked: list[tuple[Action, ...]] = []

    def __call__(self, actions: tuple[Action, ...]) -> float:
        self.asked.append(actions)
        ends = [a.exit for a in actions if isinstance(a, CollapseAction)]
        return self.factor * sum(self.each[end] for end in ends)


def order(measure: Errors, glance: Errors | None = None) -> list[int]:
    descent = Descent(REGIONS, SKELETON.bill, measure, lambda bill: float(bill.macs), glance=glance)
    known = [c.action for c in REGIONS]
    found: list[int] = []
    for step in descent.steps():
        assert isinstance(step.chosen, Site)
        found.append(known.index(step.chosen.action))
    return found


def test_regions_of_equal_cost_go_in_the_order_of_their_errors() -> None:
    measure = Errors([0.3, 0.1, 0.5, 0.2, 0.6, 0.4])
    assert order(measure) == [1, 3, 0, 5, 2, 4]


def test_after_a_first_look_each_step_measures_few() -> None:
    measure = Errors([0.3, 0.1, 0.5, 0.2, 0.6, 0.4])
    order(measure)
    later = [actions for actions in measure.asked if len(actions) > 1]
    assert len(measure.asked) - len(later) == len(REGIONS)
    assert len(later) <= LOOKS * (len(REGIONS) - 1)


def test_where_the_model_is_of_no_use_any_more_one_measurement_makes_a_step() -> None:
    asked: list[int] = []

    def growing(actions: tuple[Action, ...]) -> float:
        asked.append(len(actions))
        return USELESS * len(actions) ** 2 / 5

    descent = Descent(REGIONS, SKELETON.bill, growing, lambda bill: float(bill.macs))
    assert len(list(descent.steps())) == len(REGIONS)
    # Errors before the steps: 0, 1/5, 4/5, 9/5 ... of USELESS.
    assert [asked.count(gone) for gone in range(1, 7)] == [6, LOOKS, LOOKS, 1, 1, 1]


def test_one_that_was_only_glanced_at_is_measured_before_it_is_passed_over() -> None:
    # Neighbours make each other worse: 0 and 1 together cost far more than apart.
    def together(actions: tuple[Action, ...]) -> float:
        gone = {a.exit for a in actions if isinstance(a, CollapseAction)}
        near = {REGIONS[0].action.exit, REGIONS[1].action.exit}
        return 0.01 * len(gone) + (0.05 if near <= gone else 0.0)

    glance = Errors([0.011, 0.010, 0.0120, 0.0125, 0.0130, 0.0135])
    descent = Descent(
        REGIONS, SKELETON.bill, together, lambda bill: float(bill.macs), glance=glance
    )
    steps = [step.error for step, _ in zip(descent.steps(), range(4))]
    assert steps == pytest.approx([0.01, 0.02, 0.03, 0.04])


def test_a_glance_orders_and_measurements_decide() -> None:
    # A glance sees three times the error, and takes the second best region for the best.
    glance = Errors([0.9, 0.5, 1.5, 0.4, 1.8, 1.2])
    measure = Errors([0.3, 0.1, 0.5, 0.2, 0.6, 0.4])
    assert order(measure, glance) == [1, 3, 0, 5, 2, 4]
    assert {len(actions) for actions in glance.asked} == {1}
    assert sum(len(actions) == 1 for actions in measure.asked) == LOOKS


def test_fewer_looks_are_fewer_measurements() -> None:
    errors = [0.3, 0.1, 0.5, 0.2, 0.6, 0.4]
    counts: list[int] = []
    for looks in (1, LOOKS):
        measure = Errors(errors)
        worth = lambda bill: float(bill.macs)  # noqa: E731
        glance = Errors(errors, 3.0)
        found = Descent(REGIONS, SKELETON.bill, measure, worth, glance=glance, looks=looks)
        assert len(list(found.steps())) == len(REGIONS)
        counts.append(len(measure.asked))
    assert counts[0] == len(REGIONS) < counts[1]


@pytest.mark.parametrize("error", [0.0, float("inf")])
def test_glances_that_say_nothing_do_not_stop_the_search(error: float) -> None:
    glance = Errors([error] * len(REGIONS))
    found = order(Errors([0.3, 0.1, 0.5, 0.2, 0.6, 0.4]), glance)
    assert sorted(found) == list(range(len(REGIONS)))


@pytest.mark.parametrize("plan", [(1, 4), (4, 1), (2, 3), (3, 2), (1, 5, 3)])
def test_a_trial_that_goes_on_from_another_fits_the_same(plan: tuple[int, ...]) -> None:
    apart = bench().measure(taken_out(*plan), TRIAL)
    trying = Trying(bench(), TRIAL)
    trying(taken_out(*plan[:-1]))
    after = trying(taken_out(*plan))
    verify(after.program)
    # Upstream of the last gap nothing is fitted again: the same numbers but for rounding.
    assert after.error == pytest.approx(apart.error, rel=1e-2)


def test_nothing_gone_is_no_error_however_often_it_is_asked() -> None:
    trying = Trying(bench(), TRIAL)
    assert [trying(()).error for _ in range(2)] == pytest.approx([0, 0], abs=1e-9)


def test_what_lies_before_the_last_gap_is_taken_over() -> None:
    trying = Trying(bench(), TRIAL)
    first = trying(taken_out(1)).program
    second = trying(taken_out(1, 4)).program
    weights = [
        {node.name: node.inputs[1].values for node in program.graph.nodes if node.op == "Conv"}
        for program in (PROGRAM, first, second)
    ]
    name = "a/n_b0_d"  # before the first gap, so refitted with it, and left alone by the second
    assert not np.array_equal(weights[0][name], weights[1][name])
    assert np.array_equal(weights[1][name], weights[2][name])


def order_of(errors: dict[str, float]) -> list[str]:
    """The order in which two folds and a collapse go, by the errors measured for each."""
    program = program_of(residual_net(3))
    skeleton = Bills(program)
    kinds = {"gone": "b0 .. b1", "first": "b0_h", "second": "b2_h"}
    regions = [
        one
        for one in take_out_region.find(
            GivenEvidence(program, ArrayFrames({"a/x": images(192)})), ("a",)
        ).found
        if str(one.action).endswith(".. b1")
    ]
    folds = [
        Site(PruneChannelsAction("a", f"a/{kinds[name]}", (0, 1)), Bill(1, 1), 0.0)
        for name in ("first", "second")
    ]
    known: dict[object, float] = {regions[0].action: errors["gone"]}
    known |= {site.action: errors[name] for name, site in zip(("first", "second"), folds)}

    def measure(actions: tuple[Action, ...]) -> float:
        return float(np.sum([known[action] for action in actions]))

    steps = Descent(
        regions, skeleton.bill, measure, lambda bill: float(bill.macs), folds=folds
    ).steps()
    names = {str(regions[0].action): "gone"}
    names |= {str(site.action): name for name, site in zip(("first", "second"), folds)}
    return [names[str(step.chosen.action)] for step in steps]


def test_folds_and_regions_go_by_error_per_saving() -> None:
    assert order_of({"gone": 0.1, "first": 0.0, "second": 1.0}) == ["first", "gone", "second"]
    assert order_of({"gone": 0.0, "first": 0.1, "second": 0.2}) == ["gone", "first", "second"]


def test_what_could_not_be_carried_out_is_not_taken() -> None:
    infinite = float("inf")
    assert order_of({"gone": 0.1, "first": infinite, "second": 0.0}) == ["second", "gone"]
