"""Sharing: what is tried again when swaps do not get along, and what is measured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.kinds import chosen
from repsimc.compiler.case import Case
from repsimc.compiler.execution.outputs import OutputComparison
from repsimc.compiler.fitting.effort import FULL, Effort
from repsimc.compiler.frames.calibration import InputSpec, load_frames
from repsimc.compiler.graph.program import Program
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.sharing import SharingPlanner
from repsimc.compiler.planning.trial import Trial
from repsimc.compiler.planning.workbench import Workbench
from repsimc.compiler.progress import NoProgress
from repsimc.compiler.structure.cost import program_cost
from tests.end_to_end.conftest import siblings
from tests.nets.networks import smooth_images
from tests.programs import AsRead, joined


@pytest.fixture
def bench() -> Workbench:
    models = siblings()
    program = joined([[(name, "x") for name in models]], **models)
    spec = InputSpec("x", np.dtype(np.float32), ("N", 3, 8, 8))
    frames = load_frames({"x": smooth_images(200)}, {name: [spec] for name in models})
    options = CompileOptions(
        models=tuple((name, Path(f"{name}.onnx")) for name in models), min_fidelity=0.85
    )
    case = Case(options, (), program, program.copy(), frames, given=AsRead(program))
    return Workbench(case, NoProgress())


def shares_on(bench: Workbench) -> SharingPlanner:
    return SharingPlanner(bench, chosen(), (), NoProgress())


def nbytes(program: Program) -> int:
    return program_cost(program).weights_nbytes


def test_where_actions_do_not_get_along_one_is_given_up(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    measure = Workbench.measure

    def strict(
        self: Workbench, actions: Sequence[Action], effort: Effort = FULL, *more: Any
    ) -> Trial:
        trial = measure(self, actions, effort, *more)
        if effort != FULL:
            return trial
        tried.append(len(actions))
        if len(actions) > 1:  # as if together they missed the floor of every receiver
            receiver = actions[0].models[-1]
            worst = OutputComparison(receiver, "y", "top-1 agreement", 0.1, 0.9, 50, 0, 0.9)
            return replace(trial, outputs=(worst,))
        return trial

    monkeypatch.setattr(Workbench, "measure", strict)
    plan, trial = shares_on(bench).smallest()
    assert tried[0] > 1 and tried[-1] == len(plan.actions) == 1
    assert trial.met


def test_a_program_over_the_budget_after_all_is_planned_again(bench: Workbench) -> None:
    everything = nbytes(bench.program)
    limit = int(everything * 0.9)
    extra = 4000  # as if adapters had turned out larger than billed
    seen: list[int] = []

    def excess(program: Program) -> int:
        seen.append(nbytes(program))
        return nbytes(program) + extra - limit

    found = shares_on(bench).plan(limit, excess)
    assert found is not None
    assert seen[0] + extra > limit >= nbytes(found[1].program) + extra


def test_the_smallest_does_not_depend_on_what_was_tried_before(bench: Workbench) -> None:
    plan, trial = shares_on(bench).smallest()
    again = shares_on(bench)
    for share in (0.95, 0.8, 0.3):
        limit = int(nbytes(bench.program) * share)
        again.plan(limit, lambda program, limit=limit: nbytes(program) - limit)
    assert again.smallest()[0] == plan
    # And a budget that it fits is never refused.
    limit = nbytes(trial.program)
    found = again.plan(limit, lambda program: nbytes(program) - limit)
    assert found is not None and nbytes(found[1].program) <= limit


def test_a_budget_gives_the_same_plan_whatever_was_asked_before(bench: Workbench) -> None:
    limit = int(nbytes(bench.program) * 0.8)

    def within(shares: SharingPlanner) -> object:
        return shares.plan(limit, lambda program: nbytes(program) - limit)[0]  # type: ignore[index]

    first = within(shares_on(bench))
    other = shares_on(bench)
    other.smallest()
    other.sketched(int(nbytes(bench.program) * 0.5))
    assert within(other) == first


def test_a_site_is_measured_once(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, Effort]] = []
    measure = Workbench.measure

    def counted(
        self: Workbench, actions: Sequence[Action], effort: Effort = FULL, *more: Any
    ) -> Trial:
        if effort != FULL:
            measured.append((str(actions[0]), effort))
        return measure(self, actions, effort, *more)

    monkeypatch.setattr(Workbench, "measure", counted)
    shares = shares_on(bench)
    shares.plan(int(nbytes(bench.program) * 0.7), lambda program: 0)
    shares.smallest()
    assert measured and len(set(measured)) == len(measured)
