"""The workbench: an answer hangs on its question alone, and is kept by all that decides it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.fitting.effort import GLANCE, TRIAL, Effort
from repsimc.compiler.fitting.reference import FitSize
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.planning.workbench import Question, adopt_constants
from tests.nets.six_blocks import PROGRAM, bench, taken_out


def test_a_glance_overestimates_and_changes_no_other_measurement() -> None:
    source = bench()
    alone = source.measure(taken_out(2), TRIAL).error
    assert source.measure(taken_out(2), GLANCE).error > alone
    assert source.measure(taken_out(2), TRIAL).error == alone


def test_answers_do_not_depend_on_what_was_asked_before() -> None:
    questions = [Question(taken_out(2), TRIAL), Question(taken_out(1, 4), TRIAL)]
    there = list(bench().measure_all(questions))
    back = list(bench().measure_all(questions[::-1]))[::-1]
    assert [trial.outputs for trial in there] == [trial.outputs for trial in back]


def test_a_region_that_begins_in_a_narrower_layer_goes_as_if_it_had_gone_first() -> None:
    source = bench()
    narrow = NarrowLayerAction("a", "a/b2_h", 3)
    inside = CollapseAction("a", "a/b2_h", "a/b2_d", 0)
    first = source.measure((narrow,), TRIAL)
    assert first.program.values()["a/b2_h"].shape[1] == 3
    onward = source.measure((narrow, inside), TRIAL, onto=first)
    verify(onward.program)
    assert onward.outputs == source.measure((narrow, inside), TRIAL).outputs
    assert onward.as_promised


def test_constants_are_adopted_but_for_named_operators() -> None:
    fitted, program = bench().measure(taken_out(1), TRIAL).program, PROGRAM.copy()
    adopt_constants(program, fitted, {"a/n_b3_c"})
    verify(program)
    values = {
        name: {n.name: n.inputs[1].values for n in p.graph.nodes if n.op == "Conv"}
        for name, p in (("own", PROGRAM), ("fitted", fitted), ("mixed", program))
    }
    assert values["mixed"]["a/n_b3_c"] is values["own"]["a/n_b3_c"]
    assert np.array_equal(values["mixed"]["a/n_b3_d"], values["fitted"]["a/n_b3_d"])
    assert not np.array_equal(values["mixed"]["a/n_b3_d"], values["own"]["a/n_b3_d"])


FEW = Effort(48, 16, FitSize(4, 512, 0.3, pools_behind=False))
EFFORTS = [
    FEW,
    replace(FEW, frames=64),
    replace(FEW, judged=24),
    replace(FEW, judged=None),
    replace(FEW, held_out=False),
    replace(FEW, held_out=False, judged=24),
    replace(FEW, held_out=False, frames=64),
    replace(FEW, size=FitSize(4, 512, 0.1, pools_behind=False)),
]


def test_answers_are_kept_by_all_of_their_effort() -> None:
    """Efforts that differ in one thing each: asked of one workbench, or each of its own."""
    questions = [Question(taken_out(2), effort) for effort in EFFORTS]
    together = bench()
    asked = list(together.measure_all(questions))
    assert [trial.outputs for trial in together.measure_all(questions)] == [
        trial.outputs for trial in asked
    ]
    alone = [next(bench().measure_all([question])) for question in questions]
    assert [trial.outputs for trial in asked] == [trial.outputs for trial in alone]
    # They would not do for one another.
    assert len({trial.outputs for trial in asked}) == len(EFFORTS)
    assert [trial.outputs[0].frames for trial in asked] == [16, 16, 24, 50, 16, 24, 16, 16]
