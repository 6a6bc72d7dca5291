"""Refusals: each names what was asked, the best that could be had, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.execution.fidelity import VARIANCE
from repsimc.compiler.execution.outputs import OutputComparison
from repsimc.compiler.planning.chooser import Outlook
from repsimc.compiler.planning.forecast import Prediction
from repsimc.compiler.planning.integer_program import Choice
from repsimc.compiler.planning.limits import Budgets, Limits, bill_of
from repsimc.compiler.planning.refusals import Refusals
from repsimc.compiler.planning.trial import Trial
from repsimc.compiler.structure.cost import predicted_memory
from repsimc.compiler.units import parse_budget, parse_macs
from tests.nets.six_blocks import PROGRAM, bench, taken_out

WHOLE = bill_of(PROGRAM)
HALF = Bill(WHOLE.weights_nbytes // 2, WHOLE.macs // 2)


def budgets(**wishes: Any) -> Budgets:
    case = bench(**wishes).case
    return Budgets(case, predicted_memory(case.program, case.apart))


def refusals(frames: bool = True, **wishes: Any) -> tuple[Refusals, Limits]:
    asked = budgets(**wishes)
    return Refusals(asked, frames), asked.limits


def outlook(fidelity: float, bill: Bill = HALF) -> Outlook:
    return Outlook(Choice((), bill, {}, True), (), bill, Prediction({}, {}), fidelity, False)


def trial(value: float, floor: float = 0.99, actions: int = 1) -> Trial:
    compared = OutputComparison("a", "y", VARIANCE, value, floor, 50, value, 0.0)
    return Trial(taken_out(*range(actions)), PROGRAM, WHOLE, (compared,))


def test_what_was_wanted_is_told_in_words() -> None:
    told, _ = refusals(budget=parse_budget("60%"), max_macs=parse_macs("50%"))
    assert told.wanted.startswith("the budget of 60%") and "50%" in told.wanted
    assert refusals(max_latency=0.01)[0].wanted == "the latency asked for"


def test_a_budget_out_of_reach_names_the_least_before_any_fit() -> None:
    told, limits = refusals(budget=parse_budget("20%"))
    error = told.out_of_reach(limits, outlook(0.994), 0.31, {"a": "it is so"})
    assert "the budget of 20% leaves" in error.message
    assert "needs about" in error.message and "predicted to keep 0.99" in error.message
    assert "the budget would be met at about 0.31" in error.message
    assert error.message.endswith("\n  a: it is so")
    assert "raise the budget to 50%" in error.hint and "--min-fidelity below 0.99" in error.hint
    # Where no combination meets it there is nothing to say of one that does.
    error = told.out_of_reach(limits, outlook(0.994), None, {})
    assert "would be met" not in error.message


def test_a_limit_of_macs_is_told_in_macs() -> None:
    told, limits = refusals(max_macs=parse_macs("20%"))
    error = told.out_of_reach(limits, outlook(0.9), None, {})
    assert "MACs are allowed" in error.message and "of weights" not in error.message
    assert "at least" in error.hint and "MACs" in error.hint


def test_a_budget_in_bytes_counts_what_is_beside_weights() -> None:
    asked = budgets(budget=parse_budget("1KiB"))
    told = Refusals(asked, True)
    error = told.out_of_reach(asked.limits, outlook(0.9), None, {})
    assert "leaves nothing for weights" in error.message and "in all" in error.message
    needed = parse_budget(error.hint.split("raise the budget to ")[1].split(",")[0]).nbytes
    assert needed is not None and needed >= HALF.weights_nbytes + asked.beside


@pytest.mark.parametrize(
    ("frames", "wishes", "said"),
    [
        (False, {}, "give --calib PATH"),
        (True, {"exact_only": True}, "leave out --exact-only"),
        (True, {}, "give more calibration frames"),
    ],
)
def test_what_is_exact_is_not_enough(frames: bool, wishes: dict[str, Any], said: str) -> None:
    told, limits = refusals(frames, budget=parse_budget("60%"), **wishes)
    error = told.exact(limits, WHOLE)
    assert "nothing inexact" in error.message and said in error.hint
    assert "the budget to 100%" in error.hint


def test_plans_that_miss_the_floor_are_told_with_the_best_of_them() -> None:
    told, limits = refusals(budget=parse_budget("60%"))
    error = told.missed(limits, [trial(0.91), trial(0.95), trial(0.7)], trial(0.995))
    assert "needs" in error.message and "about" not in error.message
    assert "the best within the budget keeps 0.9500 of a/y, and 0.99 is asked for" in error.message
    # What keeps the floors is within the budget: then only the fits were in the way.
    roomy, wide = refusals(budget=parse_budget("100%"))
    error = roomy.missed(wide, [trial(0.91), trial(0.95)], trial(0.995))
    assert "every plan that meets the budget misses the fidelity floor" in error.message
    assert "0.9500 of a/y" in error.message and "--min-fidelity below 0.99" in error.hint
