"""Looks at single actions: near to what a trial says; a whole loss where it is undefined."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.fitting.effort import TRIAL
from repsimc.compiler.fitting.landmarks import Landmarks
from repsimc.compiler.planning.sensitivity import Sensitivity
from tests.nets.six_blocks import REGIONS, bench, taken_out

OUTPUT = ("a", "y")


def test_a_look_is_near_to_a_trial() -> None:
    source = bench()
    sensitivity = Sensitivity(source)
    looks: list[float] = []
    for region in REGIONS:
        errors = sensitivity.look(region.action)
        assert errors is not None and set(errors) == {OUTPUT}
        looks.append(errors[OUTPUT])
    trials = [source.measure((region.action,), TRIAL).error for region in REGIONS]
    ratios = np.array(looks) / np.array(trials)
    assert ratios.min() > 1 / 4 and ratios.max() < 4 and 1 / 2 < np.median(ratios) < 2
    assert np.corrcoef(np.log(looks), np.log(trials))[0, 1] > 0.8


def test_an_action_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source = bench()
    sensitivity = Sensitivity(source)
    (action,) = taken_out(2)
    first = sensitivity.look(action)

    def never(*_asked: object) -> None:
        raise AssertionError("it was looked at again")

    monkeypatch.setattr(source, "tried", never)
    assert sensitivity.look(action) == first
    with pytest.raises(AssertionError, match="looked at again"):
        sensitivity.look(taken_out(3)[0])


def test_what_cannot_be_carried_out_or_saves_nothing_is_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Sensitivity(bench()).look(NarrowLayerAction("a", "a/b2_h", 999)) is None
    source = bench()
    (action,) = taken_out(2)
    assert Sensitivity(source).look(action) is not None
    # Billed at half of what the program costs that comes of it.
    billed = source.bills.bill((action,))
    assert billed is not None
    half = Bill(billed.weights_nbytes // 2, billed.macs)
    monkeypatch.setattr(source.bills, "bill", lambda _actions: half)
    assert Sensitivity(source).look(action) is None


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_an_output_that_is_no_number_is_a_whole_loss(
    number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bench()
    real = Landmarks.run

    def broken(marks: Landmarks, program: object, outputs: list[str]):  # type: ignore[no-untyped-def]
        for index, (batch, arrays) in enumerate(real(marks, program, outputs)):  # type: ignore[arg-type]
            if index == 0 and "a/y" in arrays:
                arrays["a/y"] = arrays["a/y"].copy()
                arrays["a/y"][0, 0] = number
            yield batch, arrays

    monkeypatch.setattr(Landmarks, "run", broken)
    assert Sensitivity(source).look(taken_out(2)[0]) == {OUTPUT: 1.0}
