"""Arithmetic in 8 bits as an action: what it refuses, what it changes, and in whose name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from repsimc.compiler.actions.action import Effect
from repsimc.compiler.actions.compute_in_eight_bits import (
    ComputeInEightBitsAction,
    actions_of,
    find,
)
from repsimc.compiler.actions.kinds import action_from_json
from repsimc.compiler.actions.plan_reader import PlanReader
from repsimc.compiler.errors import ModelError
from repsimc.compiler.graph.program import Program
from tests.nets.evidence import GivenEvidence
from tests.nets.foldable import images
from tests.nets.networks import Net
from tests.nets.residual import residual_net
from tests.programs import joined, program_of

PLAIN = ComputeInEightBitsAction("a", ("a/stem", "a/b0"), ((0.0, 6.0), (0.0, 7.0)), "cpu")


def net() -> Program:
    return program_of(residual_net(1))


def changed(**fields: Any) -> ComputeInEightBitsAction:
    known = {name: getattr(PLAIN, name) for name in ("model", "values", "ranges", "target")}
    return ComputeInEightBitsAction(**(known | fields))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"model": "b"}, "not given"),
        ({"values": ("a/stem", "a/none")}, "a/none"),
        ({"ranges": ((0.0, 6.0),)}, "1 ranges of 2 values"),
        ({"ranges": ((0.0, 6.0), (0.0, math.inf))}, "'b0' is wrong: 0 to inf is not finite"),
        ({"ranges": ((0.0, 6.0), (math.nan, 1.0))}, "not finite"),
        ({"ranges": ((1.0, 6.0), (0.0, 1.0))}, "'stem' is wrong: 1 to 6 leaves out 0"),
        ({"ranges": ((0.0, 0.0), (0.0, 1.0))}, "one number"),
    ],
)
def test_what_does_not_fit_the_program_is_refused(fields: dict[str, Any], problem: str) -> None:
    PLAIN.check(net())
    with pytest.raises(ModelError, match=problem):
        changed(**fields).check(net())


def test_integers_are_not_rounded() -> None:
    built = Net()
    shape = built.node("Shape", "x", out="s")
    built.node("Expand", built.weight([1.0]), shape, out="y")
    program = program_of(built.model(x=["N", 3]))
    with pytest.raises(ModelError, match="not float32"):
        changed(values=("a/s",), ranges=((0.0, 1.0),)).check(program)


@pytest.mark.parametrize(
    "change",
    [
        {"ranges": [[0, 6], [0, 10**40]]},
        {"ranges": [[0, 6], [0, "7"]]},
        {"ranges": [[0, 6], [0]]},
        {"ranges": [[0, 6], [0, True]]},
        {"ranges": [[0, 6], [2, 7]]},
        {"ranges": 3},
        {"values": ["a/stem", 3]},
        {"target": "any"},
        {"target": "dsp"},
    ],
    ids=str,
)
def test_a_plan_edited_wrongly_is_refused(change: dict[str, Any]) -> None:
    entry: dict[str, Any] = PLAIN.to_json() | change
    with pytest.raises(ModelError, match="action 3"):
        action_from_json(PlanReader("action 3", "", entry))


def test_it_saves_nothing_and_no_two_round_one_value() -> None:
    program = net()
    bills = GivenEvidence(program, images()).bills
    assert bills.bill([PLAIN]) == bills.bill([])
    effect, other = PLAIN.effect(program), changed(ranges=((0.0, 5.0), (0.0, 7.0)))
    assert isinstance(effect, Effect) and effect.values == {"a/stem", "a/b0"}
    assert bills.bill([PLAIN, other]) is None
    assert bills.affected(PLAIN) == ("a",)
    assert PLAIN.covers(changed(values=("a/b0",), ranges=((0.0, 7.0),)))
    assert not PLAIN.covers(other) and not PLAIN.covers(changed(target="tensorrt"))
    assert changed(values=("a/none", "a/b0")).effect(program) == "there is no 'none'"
    assert find(GivenEvidence(program, images(), "int8"), ("a",)).found == []


def test_each_model_rounds_its_own_and_inputs_go_to_their_first_reader() -> None:
    program = joined(a=residual_net(1), b=residual_net(1, seed=1))
    inputs = [value.name for value in program.graph.inputs]
    ranges = dict.fromkeys([*inputs, "a/stem", "b/stem"], (-1.0, 1.0))
    found = {one.model: one for one in actions_of(program, ranges, "cpu")}
    assert set(found) == {"a", "b"}
    assert "a/stem" in found["a"].values and "b/stem" in found["b"].values
    assert inputs[0] in found["a"].values
