"""The workbench: the order of actions, and what is tried again when they do not get along."""

from __future__ import annotations

from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest

from repsimc.compiler.execution.outputs import OutputComparison
from repsimc.compiler.frames.calibration import InputSpec, load_frames
from repsimc.compiler.graph.program import Program
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.plan import Link, SharePrefixAction
from repsimc.compiler.planning.workbench import Workbench, in_order
from repsimc.compiler.progress import NoProgress
from repsimc.compiler.structure.cost import program_cost
from tests.end_to_end.conftest import siblings
from tests.nets.networks import smooth_images
from tests.programs import joined


def take(donor: str, receiver: str, value: str = "s2") -> SharePrefixAction:
    return SharePrefixAction(donor, receiver, (Link(f"{receiver}/{value}", (f"{donor}/s2",)),), 1)


def test_donors_come_before_their_receivers() -> None:
    for names in ("abcd", "dcba", "cadb"):
        chain = [take(donor, receiver) for donor, receiver in pairwise(names)]
        for order in permutations(chain):
            assert in_order(order) == chain


def test_the_order_does_not_depend_on_the_order_given() -> None:
    actions = [take("d", "c"), take("d", "a"), take("c", "b"), take("a", "d", "s1")]
    found = {tuple(in_order(order)) for order in permutations(actions)}
    assert len(found) == 1
    (order,) = found
    assert sorted(map(str, order)) == sorted(map(str, actions))  # a circle of models loses none


@pytest.fixture
def bench() -> Workbench:
    models = siblings()
    program = joined([[(name, "x") for name in models]], **models)
    spec = InputSpec("x", np.dtype(np.float32), ("N", 3, 8, 8))
    frames = load_frames({"x": smooth_images(200)}, {name: [spec] for name in models})
    options = CompileOptions(
        models=tuple((name, Path(f"{name}.onnx")) for name in models), min_fidelity=0.85
    )
    return Workbench(program, program.copy(), frames, options, NoProgress())


def nbytes(program: Program) -> int:
    return program_cost(program).weights_nbytes


def test_where_actions_do_not_get_along_one_is_given_up(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    apply = Workbench.apply

    def strict(
        self: Workbench, actions: list[SharePrefixAction]
    ) -> tuple[Program, list[OutputComparison]]:
        program, compared = apply(self, actions)
        tried.append(len(actions))
        if len(actions) > 1:  # as if together they missed the floor of every receiver
            worst = OutputComparison(
                actions[0].receiver, "y", "top-1 agreement", 0.1, 0.9, 50, 0, 0.9
            )
            return program, [worst]
        return program, compared

    monkeypatch.setattr(Workbench, "apply", strict)
    _, plan, compared = bench.smallest()
    assert tried[0] > 1 and tried[-1] == len(plan.actions) == 1
    assert all(output.met for output in compared)


def test_a_program_over_the_budget_after_all_is_planned_again(bench: Workbench) -> None:
    everything = nbytes(bench.program)
    limit = int(everything * 0.9)
    extra = 4000  # as if adapters had turned out larger than billed
    seen: list[int] = []

    def excess(program: Program) -> int:
        seen.append(nbytes(program))
        return nbytes(program) + extra - limit

    found = bench.plan(limit, excess)
    assert found is not None
    assert seen[0] + extra > limit >= nbytes(found[0]) + extra


def test_the_smallest_does_not_depend_on_what_was_tried_before(bench: Workbench) -> None:
    smallest = bench.smallest()
    again = Workbench(
        bench.program, bench.program.copy(), bench._frames, bench._options, NoProgress()
    )
    for share in (0.95, 0.8, 0.3):
        limit = int(nbytes(bench.program) * share)
        again.plan(limit, lambda program, limit=limit: nbytes(program) - limit)
    assert again.smallest()[1] == smallest[1]
    # And a budget that it fits is never refused.
    limit = nbytes(smallest[0])
    found = again.plan(limit, lambda program: nbytes(program) - limit)
    assert found is not None and nbytes(found[0]) <= limit


def test_a_site_is_measured_once(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    swapped = Workbench.swapped
    monkeypatch.setattr(
        Workbench, "swapped", lambda self, site: measured.append(id(site)) or swapped(self, site)
    )
    bench.plan(int(nbytes(bench.program) * 0.7), lambda program: 0)
    bench.smallest()
    assert measured and len(set(measured)) == len(measured)
