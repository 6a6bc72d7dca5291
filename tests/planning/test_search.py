"""The search: what is free is done, what is predicted is told as it was before the fit, sweeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import onnx
import pytest

from repsimc.compiler.actions.kinds import chosen
from repsimc.compiler.case import Case, frames_of
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.chooser import Outlook
from repsimc.compiler.planning.damage import error_of
from repsimc.compiler.planning.limits import Limits, bill_of
from repsimc.compiler.planning.search import Search
from repsimc.compiler.planning.workbench import Workbench
from repsimc.compiler.progress import NoProgress
from tests.nets import six_blocks
from tests.nets.foldable import always_on, sometimes_dead, still_branch
from tests.nets.networks import smooth_images
from tests.programs import AsRead, program_of


def search(bench: Workbench) -> Search:
    found = Search(bench, chosen(), NoProgress())
    found.prepare()
    return found


def bench_of(model: onnx.ModelProto) -> Workbench:
    program = program_of(model)
    options = CompileOptions(
        models=(("a", Path("a.onnx")),), calibration=smooth_images(200), min_fidelity=0.9
    )
    frames = frames_of(options, [program])
    given = AsRead(program)
    return Workbench(Case(options, (program,), program, program, frames, given=given), NoProgress())


@pytest.fixture(scope="module")
def blocks() -> Workbench:
    return six_blocks.bench()


@pytest.mark.parametrize("net", [always_on, sometimes_dead, still_branch])
def test_what_costs_nothing_is_in_every_plan(net: Callable[[], onnx.ModelProto]) -> None:
    bench = bench_of(net())
    found = search(bench)
    (free,) = found.sweep([1e-9])
    assert free.actions and free.predicted.worst < 1e-4
    plan, trial = found.smallest()
    # Or something that does the same and more.
    assert trial.met and trial.bill == bench.bills.bill([one.action for one in plan.actions])
    assert trial.bill is not None and trial.bill.weights_nbytes <= free.bill.weights_nbytes
    assert bill_of(trial.program).macs <= free.bill.macs
    whole = bench.bills.bill(())
    assert whole is not None and free.bill.macs < whole.macs


def test_a_plan_tells_what_was_predicted_before_its_fit(
    blocks: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repsimc.compiler.planning.search.ROUNDS", 1)
    found = search(blocks)
    whole = blocks.bills.bill(())
    assert whole is not None
    limits = Limits(whole.weights_nbytes * 8 // 10)
    before = found.outlook(limits)
    assert before is not None
    made, _ = found.within(limits, lambda program: 0)
    assert made is not None
    plan = made[0]
    costs = {one.action: one.errors["a", "y"] for one in before.choice.candidates}
    mine = [costs.get(one.action, 0.0) for one in plan.actions]
    assert len(mine) >= 2 and plan.predicted == pytest.approx(error_of(sum(mine)), abs=1e-6)
    # What is free is in the plan beside what was chosen, at no cost.
    for planned, cost in zip(plan.actions, mine):
        assert planned.predicted == pytest.approx(error_of(cost), abs=1e-4)
    # The fit has taught since then: the same actions are not predicted as they were.
    again = found.outlook(limits)
    assert again is not None and again.choice.errors != before.choice.errors


def test_a_sweep_falls_in_size_and_keeps_to_the_losses(blocks: Workbench) -> None:
    found = search(blocks)
    least = found.least_loss()
    assert least is not None and 1e-4 <= least < 0.3
    for lost in (least, 0.1, 0.5):
        for proposal in found.sweep([lost]):
            assert proposal.predicted.worst <= lost * (1 + 1e-6)
            assert proposal.bill == blocks.bills.bill(proposal.actions)
            assert set(proposal.predicted.alone) == set(proposal.actions)
    several = found.sweep([0.5, 0.5, 0.02, 0.1])
    keys = [frozenset(one.actions) for one in several]
    assert len(keys) == len(set(keys)) >= 2
    assert all(one.predicted.worst == 0 for one in found.sweep([0.0]))


def told(outlook: Outlook) -> tuple[object, ...]:
    """All that an outlook says, of candidates their actions, savings and errors."""
    candidates = [(one.action, one.site.saved, one.errors) for one in outlook.choice.candidates]
    choice = outlook.choice.bill, outlook.choice.errors, outlook.choice.proven
    return candidates, choice, *(getattr(outlook, one.name) for one in fields(outlook)[1:])


def test_the_same_search_gives_the_same_sweep(blocks: Workbench) -> None:
    one, other = (search(blocks).sweep([0.01, 0.1, 0.4]) for _ in range(2))
    assert one and [told(outlook) for outlook in one] == [told(outlook) for outlook in other]


def test_a_fit_teaches_what_is_proposed_next(blocks: Workbench) -> None:
    found = search(blocks)
    (before,) = found.sweep([0.05])
    trial = found.fitted(before)
    assert trial.actions == before.actions
    plan = found.plan(before, trial)
    assert plan.predicted == pytest.approx(before.predicted.worst, abs=1e-6)
    assert [one.fidelity for one in plan.actions] == [trial.least] * len(plan.actions)
    assert all(one.fidelity is None for one in found.plan(before).actions)
    (after,) = found.sweep([0.05])
    measured = max(trial.errors.values())
    assert after != before
    # What is predicted of single actions has moved to the side on which the measurement lies.
    told = {one: lost for one, lost in before.predicted.alone.items() if lost > 1e-4}
    common = told.keys() & after.predicted.alone.keys()
    assert common
    for one in common:
        assert (after.predicted.alone[one] < told[one]) == (measured < before.predicted.worst)
