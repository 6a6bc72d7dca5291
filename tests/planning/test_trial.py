"""Trials: what a combination did, as the four numbers that it is compared by."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.execution.fidelity import TOP1, VARIANCE
from repsimc.compiler.execution.outputs import OutputComparison
from repsimc.compiler.planning.trial import Trial
from repsimc.compiler.structure.cost import program_cost
from tests.nets.networks import pyramid
from tests.programs import program_of


def comparison(metric: str, value: float, explained: float, floor: float = 0.9) -> OutputComparison:
    return OutputComparison("a", "y", metric, value, floor, 100, explained, 1 - value)


def trial(outputs: Sequence[OutputComparison]) -> Trial:
    return Trial((), None, None, tuple(outputs))


def test_a_trial_tells_the_worst_output_and_the_sum_of_losses() -> None:
    found = trial([comparison(TOP1, 0.95, 0.8), comparison(VARIANCE, 0.97, 0.97)])
    assert (found.least, found.met) == (0.95, True)
    assert found.loss == pytest.approx(0.05 + 0.02 * 0.2 + 0.03)
    assert not trial([comparison(TOP1, 0.95, 1), comparison(TOP1, 0.89, 1)]).met
    assert trial([]).least == 1


def test_two_swaps_that_agree_on_the_same_frames_are_told_apart() -> None:
    finer = trial([comparison(TOP1, 0.95, 0.9)])
    worse = trial([comparison(TOP1, 0.95, 0.8)])
    assert finer.loss < worse.loss
    # An output without finite variance must not make the damage undefined.
    assert trial([comparison(TOP1, 0.95, -50.0)]).loss > worse.loss


def test_the_error_is_the_mean_and_the_spread_counts_outputs_that_were_not_compared() -> None:
    outputs = (comparison(VARIANCE, 0.9, 0.9), comparison(VARIANCE, 0.7, 0.7))
    assert trial(outputs).error == pytest.approx(0.2)
    program = program_of(pyramid())  # one output
    spread = Trial((), program, None, outputs[1:]).spread
    assert spread == pytest.approx(0.3)


def test_a_program_over_its_bill_is_not_as_promised() -> None:
    program = program_of(pyramid())
    cost = program_cost(program)
    bill = Bill(cost.weights_nbytes, cost.macs)
    assert Trial((), program, bill, ()).as_promised
    assert not Trial((), program, bill - Bill(cost.weights_nbytes // 10, 0), ()).as_promised
    assert not Trial((), program, None, ()).as_promised


def test_what_is_remembered_is_without_its_program() -> None:
    found = Trial((), program_of(pyramid()), None, (comparison(TOP1, 0.95, 0.9),))
    assert found.remembered().fitted is None
    assert found.remembered().loss == found.loss
