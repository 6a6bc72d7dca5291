"""The planner: whatever it gives is within limits and floors; what was learned is used again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import pytest

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.kinds import KINDS
from repsimc.compiler.errors import BudgetError
from repsimc.compiler.planning.deadline import Deadline
from repsimc.compiler.planning.limits import Budgets, Limits, bill_of
from repsimc.compiler.planning.planner import Planner
from repsimc.compiler.planning.search import Planned, Search
from repsimc.compiler.planning.sensitivity import Sensitivity
from repsimc.compiler.planning.workbench import Workbench
from repsimc.compiler.progress import NoProgress
from repsimc.compiler.structure.cost import predicted_memory
from repsimc.compiler.units import parse_budget, parse_macs
from tests.nets.six_blocks import PROGRAM, bench

WHOLE = bill_of(PROGRAM)
STRICT = {"metrics": {"a": "variance"}}


def planner(source: Workbench) -> Planner:
    memory = predicted_memory(source.case.program, source.case.apart)
    return Planner(source, Budgets(source.case, memory), NoProgress())


def planned(deadline: Deadline | None = None, **wishes: Any) -> Planned:
    return planner(bench(deadline, **wishes)).planned()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Action]:
    """The actions that were looked at."""
    seen: list[Action] = []
    real = Sensitivity.look

    def look(source: Sensitivity, action: Action) -> Any:
        seen.append(action)
        return real(source, action)

    monkeypatch.setattr(Sensitivity, "look", look)
    return seen


# -- limits and floors -------------------------------------------------------------------------


@pytest.mark.parametrize("share", ["35%", "90%"])
@pytest.mark.parametrize("what", ["budget", "max_macs"])
def test_a_plan_is_within_its_limits_and_floors(share: str, what: str) -> None:
    parse = parse_budget if what == "budget" else parse_macs
    plan, trial = planned(min_fidelity=0.9, **STRICT, **{what: parse(share)})
    bill = bill_of(trial.program)
    used = bill.weights_nbytes if what == "budget" else bill.macs
    most = WHOLE.weights_nbytes if what == "budget" else WHOLE.macs
    assert used <= int(share[:-1]) / 100 * most
    assert trial.met and trial.outputs[0].value >= 0.9
    assert {one.action for one in plan.actions} == set(trial.actions)


@pytest.mark.parametrize("floor", [0.95, 0.99999])
def test_without_a_budget_the_floor_is_kept_and_used(floor: float) -> None:
    _, trial = planned(min_fidelity=floor, **STRICT)
    assert trial.met and trial.outputs[0].value >= floor
    assert bool(trial.actions) == (floor < 0.9999)


def test_a_stricter_floor_never_saves_more() -> None:
    found = [planned(min_fidelity=floor, **STRICT)[1] for floor in (0.9, 0.999)]
    sizes = [
        bill.weights_nbytes / WHOLE.weights_nbytes + bill.macs / WHOLE.macs
        for bill in (bill_of(trial.program) for trial in found)
    ]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_a_floor_that_no_plan_within_the_budget_keeps_is_refused() -> None:
    wishes = {"budget": parse_budget("30%"), "min_fidelity": 0.9999, **STRICT}
    with pytest.raises(BudgetError, match="within the fidelity floor"):
        planned(**wishes)


def test_a_budget_that_only_what_is_free_is_needed_for_comes_to_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is free is in every plan, so that there is no choice beside it to bar."""
    monkeypatch.setattr("repsimc.compiler.planning.chooser._FREE", 0.02)
    _, trial = planned(budget=parse_budget("97%"), min_fidelity=0.5)
    assert trial.actions and bill_of(trial.program).weights_nbytes <= 0.97 * WHOLE.weights_nbytes


def test_a_program_that_stays_over_the_budget_ends_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is tried: what is not on bills makes every program too large."""
    monkeypatch.setattr(Budgets, "excess_nbytes", lambda budgets, program: 100)
    with pytest.raises(BudgetError):
        planned(budget=parse_budget("60%"), min_fidelity=0.5)


def test_more_budget_never_means_less_fidelity_within_one_search() -> None:
    search = Search(bench(min_fidelity=0.5, **STRICT), KINDS, NoProgress())
    search.prepare()
    kept: list[float] = []
    for share in (0.4, 0.6, 0.75, 0.9):
        limits = Limits(int(share * WHOLE.weights_nbytes))

        def excess(program: Any, most: int = int(share * WHOLE.weights_nbytes)) -> int:
            return bill_of(program).weights_nbytes - most

        found, _ = search.within(limits, excess)
        assert found is not None
        kept.append(found[1].outputs[0].value)
    assert kept == sorted(kept) and kept[0] < kept[-1]


# -- what was learned --------------------------------------------------------------------------


def test_what_was_learned_is_not_looked_at_again(looks: list[Action]) -> None:
    wishes = {"budget": parse_budget("60%"), "min_fidelity": 0.9, "resume": True}
    first, before = planned(**wishes)
    assert looks and len(looks) == len(set(looks))
    looks.clear()
    again, after = planned(**wishes)
    assert looks == []
    # What the first one's trials taught may lead to another plan, which is as good.
    assert first.actions and again.actions and after.met
    assert after.worst <= 1.2 * before.worst + 1e-3
    # Another budget looks at what it needs, and at nothing twice.
    planned(**wishes | {"budget": parse_budget("35%")})
    new = list(looks)
    looks.clear()
    planned(**wishes | {"budget": parse_budget("35%")})
    assert looks == [] and len(new) == len(set(new))


# -- the time limit ----------------------------------------------------------------------------


def ticking(seconds: float) -> Deadline:
    """A time limit on a clock that goes on by one second whenever it is asked."""
    ticks: Iterator[int] = count()
    return Deadline(seconds, lambda: float(next(ticks)))


def test_a_time_limit_that_is_over_refuses_a_budget() -> None:
    with pytest.raises(BudgetError, match="ended the search before any plan met the budget of 60%"):
        planned(ticking(0), budget=parse_budget("60%"), min_fidelity=0.5)


def test_without_a_budget_a_time_limit_gives_what_there_is() -> None:
    made = planner(bench(ticking(0), min_fidelity=0.5))
    plan, trial = made.planned()
    assert plan.actions == () and trial.actions == ()
    assert any("ended the search" in note for note in made.notes)


@pytest.mark.parametrize("seconds", [20, 80])
def test_whatever_the_time_limit_a_plan_is_within_limits_and_floors(seconds: int) -> None:
    try:
        _, trial = planned(ticking(seconds), budget=parse_budget("60%"), min_fidelity=0.9, **STRICT)
    except BudgetError as error:
        assert "time limit" in error.message or "needs" in error.message
        return
    assert trial.met and bill_of(trial.program).weights_nbytes <= 0.6 * WHOLE.weights_nbytes


# -- nothing to do -----------------------------------------------------------------------------


def test_where_there_is_no_site_the_program_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_asked: Any) -> Sequence[Any]:
        return ()

    monkeypatch.setattr("repsimc.compiler.planning.planner.chosen", none)
    plan, trial = planned(min_fidelity=0.5)
    assert plan.actions == () and trial.met
    with pytest.raises(BudgetError, match=r"needs about [\d.]+ KiB .*nothing inexact"):
        planned(min_fidelity=0.5, budget=parse_budget("60%"))


def test_a_met_budget_is_met_without_a_look(looks: list[Action]) -> None:
    plan, _ = planned(budget=parse_budget("100%"), min_fidelity=0.5)
    assert plan.actions == () and looks == []


def test_the_same_plan_comes_out_twice() -> None:
    wishes = {"budget": parse_budget("50%"), "min_fidelity": 0.5}
    one, other = planned(**wishes), planned(**wishes)
    assert one[0] == other[0] and one[1].outputs == other[1].outputs
    whole = bench().bills.bill(())
    assert whole is not None
    bills = bench().bills
    for action in one[1].actions:
        rest = bills.bill([other for other in one[1].actions if other != action])
        bill = bills.bill(one[1].actions)
        assert rest is not None and bill is not None
        # What an action adds is worth its line, or the budget needs it.
        needed = rest.weights_nbytes > 0.5 * whole.weights_nbytes
        assert (rest - bill).matters(whole) or needed
