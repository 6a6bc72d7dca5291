"""What figures do not promise is said in words."""

from __future__ import annotations

from typing import Any

from repsimc.compiler.reports.promises import frames_needed, promise_notes
from repsimc.compiler.reports.report import ModelReport, OutputFidelity

TOP1, VARIANCE = "top-1 agreement", "explained variance"


def model(name: str, *outputs: OutputFidelity) -> ModelReport:
    return ModelReport(name, 1, 1, 1, 1, 1, 1, (), outputs)


def output(metric: str = TOP1, value: float = 0.996, **more: Any) -> OutputFidelity:
    return OutputFidelity("y", metric, value, 0.99, 250, **more)


def test_nothing_is_said_of_what_is_proved_or_exact() -> None:
    assert promise_notes([model("a", output(lower=None)), model("b", output(lower=0.991))]) == []


def test_the_output_farthest_from_proved_is_named() -> None:
    (note,) = promise_notes([model("a", output(lower=0.98)), model("b", output(lower=0.97))])
    assert note.startswith("250 held-out frames prove 0.9700 of b/y at 95 %, below its floor")
    assert "(and 1 more); about 810 held-out ones with this fidelity would prove it" in note


def test_frames_that_would_prove_a_floor() -> None:
    assert frames_needed(output(value=1.0, lower=0.98)) == 300  # 299
    assert frames_needed(output(value=0.99, lower=0.98)) is None
    # The bound comes nearer with the root of the frames: four times for half the distance.
    assert frames_needed(output(VARIANCE, 0.994, lower=0.986)) == 1000


def test_what_falls_far_on_blends_is_named() -> None:
    flattered = output(lower=0.991, stressed=0.91)
    (note,) = promise_notes([model("a", output(lower=0.991, stressed=0.96)), model("b", flattered)])
    assert note.startswith("held-out frames prove 0.9910 of b/y, and blends of them 0.9100: if")
    assert "--min-stressed" in note


def test_scores_that_may_be_none_are_named() -> None:
    kept, moved = output(lower=0.995, explained=0.995), output(lower=0.995, explained=0.7)
    (note,) = promise_notes([model("a", kept), model("b", moved)])
    assert note.startswith("b/y is judged as class scores") and "0.7000 is kept" in note
    assert "'b/y' = 'variance' under [metrics]" in note
    variance = output(VARIANCE, lower=0.995, explained=0.7)
    assert promise_notes([model("a", variance)]) == []


def test_few_frames_do_not_look_flattered() -> None:
    # 30 frames without a miss, and blends of them without one: both prove 0.905.
    few = OutputFidelity("y", TOP1, 1.0, 0.9, 30, lower=0.905, stressed=0.905)
    assert promise_notes([model("a", few)]) == []
