"""The order in which regions go, and trials that go on from one another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from repsimc.compiler.actions.action import Action
from repsimc.compiler.fitting.effort import TRIAL
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.planning.damage import cost_of
from repsimc.compiler.planning.removals import Trying, removal_order
from repsimc.compiler.planning.sensitivity import Sensitivity
from repsimc.compiler.progress import NoProgress
from tests.nets.six_blocks import PROGRAM, REGIONS, bench, taken_out


def order(monkeypatch: pytest.MonkeyPatch, errors: Mapping[int, float | None]) -> list[int]:
    """Regions by number, as they go where a look at each tells that error (None: in vain)."""
    known = [site.action for site in REGIONS]

    def look(_: Sensitivity, action: Action) -> dict[tuple[str, str], float] | None:
        error = errors[known.index(action)]
        return None if error is None else {("a", "y"): error}

    monkeypatch.setattr(Sensitivity, "look", look)
    found = removal_order(bench(), REGIONS, NoProgress())
    assert [one.cost for one in found] == [
        cost_of(errors[known.index(one.site.action)] or 0.0) for one in found
    ]
    return [known.index(one.site.action) for one in found]


def test_regions_of_equal_cost_go_in_the_order_of_their_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = dict(enumerate([0.3, 0.1, 0.5, 0.2, 0.6, 0.4]))
    assert order(monkeypatch, errors) == [1, 3, 0, 5, 2, 4]


def test_what_is_in_vain_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {0: None, 1: 0.1, 2: None, 3: 0.2, 4: 0.05, 5: 0.4}
    assert order(monkeypatch, errors) == [4, 1, 3, 5]


def test_looks_order_what_a_fit_finds() -> None:
    source = bench()
    found = removal_order(source, REGIONS, NoProgress())
    assert len(found) == len(REGIONS)
    fitted = [source.measure((one.site.action,), TRIAL).error for one in found]
    ranks = np.argsort(np.argsort(fitted))
    assert np.corrcoef(ranks, np.arange(len(ranks)))[0, 1] > 0.7


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
