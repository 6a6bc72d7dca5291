"""A rewritten program's outputs beside the originals' on held-out frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.fidelity import TOP1, VARIANCE
from repsimc.compiler.execution.outputs import Certainty, OriginalOutputs, OutputComparison
from repsimc.compiler.graph.program import Program
from repsimc.compiler.planning.trial import Trial
from tests.nets.networks import ArrayFrames, Net, smooth_images
from tests.programs import AsRead, joined


def programs() -> Program:
    """a (scores y, map z) and b (scores y) on one input x, and c on an input of its own."""

    def net(seed: int, outputs: tuple[str, ...] = ("y",)) -> object:
        made = Net(seed)
        x = made.relu(made.conv("x", 3, 4))
        made.conv(x, 4, 2, out="z")
        made.head(x, 4, 5)
        return made.model(outputs, x=("N", 3, 8, 8))

    return joined([[("a", "x"), ("b", "x")]], a=net(0, ("y", "z")), b=net(1), c=net(2))  # type: ignore[arg-type]


def damaged(program: Program, weight: str, amount: float) -> Program:
    changed = program.copy()
    tensor = changed.weights()[weight]
    noise = np.random.default_rng(0).standard_normal(tensor.values.shape).astype(np.float32)
    tensor.values = tensor.values + amount * noise
    return changed


FRAMES = ArrayFrames({"x": smooth_images(60, seed=4)})
OTHERS = ArrayFrames({"c/x": smooth_images(30, seed=5)}, batch=30)


def outputs_of(program: Program, wishes: dict[str, str] | None = None) -> OriginalOutputs:
    return OriginalOutputs(
        program,
        AsRead(program),
        {"a": FRAMES, "b": FRAMES, "c": OTHERS},
        lambda model, output: 0.9 if model == "a" else 0.5,
        lambda model, output: (wishes or {}).get(f"{model}/{output}"),
    )


def test_an_unchanged_program_keeps_everything() -> None:
    program = programs()
    found = outputs_of(program).compare(program.copy(), ["c", "a", "b"])
    assert [(c.model, c.output, c.metric) for c in found] == [
        ("a", "y", TOP1),
        ("a", "z", VARIANCE),
        ("b", "y", TOP1),
        ("c", "y", TOP1),
    ]
    assert [c.value for c in found] == [1, 1, 1, 1]
    assert [c.explained for c in found] == [1, 1, 1, 1]
    assert [c.frames for c in found] == [60, 60, 60, 30]
    assert [c.floor for c in found] == [0.9, 0.9, 0.5, 0.5]
    assert Trial((), None, None, tuple(found)).loss == 0


def test_values_are_those_of_numpy_on_all_frames() -> None:
    program = programs()
    changed = damaged(program, "a/w2", 0.1)  # the filter of z
    y, z = outputs_of(program).compare(changed, ["a"])
    assert y.value == 1 and y.met
    names = {"x": FRAMES.arrays["x"]}
    (exact,) = Executable(program, None, ["a/z"])(names)
    (now,) = Executable(changed, None, ["a/z"])(names)
    wanted = 1 - np.square(now - exact).sum() / np.square(exact - exact.mean(axis=0)).sum()
    assert 0 < wanted < 0.9
    assert z.value == pytest.approx(wanted, rel=1e-4)
    assert z.explained == z.value
    assert not z.met


def test_a_wish_decides_the_metric() -> None:
    program = programs()
    changed = damaged(program, "b/w4", 0.3)
    (top1,) = outputs_of(program).compare(changed, ["b"])
    (variance,) = outputs_of(program, {"b/y": "variance"}).compare(changed, ["b"])
    assert (top1.metric, variance.metric) == (TOP1, VARIANCE)
    assert variance.value == variance.explained == top1.explained
    assert variance.value != top1.value


def test_the_original_runs_once() -> None:
    program = programs()
    frames = ArrayFrames(FRAMES.arrays)
    compared = OriginalOutputs(
        program, AsRead(program), {"a": frames, "b": frames}, lambda m, o: 0.9, lambda m, o: None
    )
    compared.compare(program, ["a"])
    assert len(frames.walks) == 2  # the original, and the program
    compared.compare(program, ["a"])
    assert len(frames.walks) == 3
    compared.compare(program, ["a", "b"])
    assert len(frames.walks) == 5  # the original of b, and both models in one session


def comparison(metric: str, value: float, explained: float, floor: float = 0.9) -> OutputComparison:
    return OutputComparison("a", "y", metric, value, floor, 100, explained, 1 - value)


def test_a_strict_floor_is_held_against_what_is_proved() -> None:
    program = programs()
    feeds = {"a": FRAMES, "b": FRAMES, "c": OTHERS}

    def compared(certainty: Certainty) -> OutputComparison:
        outputs = OriginalOutputs(
            program, AsRead(program), feeds, lambda m, o: 0.96, lambda m, o: None, certainty
        )
        return outputs.compare(program.copy(), ["b"])[0]

    plain = compared(Certainty())
    assert plain.lower == pytest.approx(0.05 ** (1 / 60)) and plain.met
    strict = compared(Certainty(strict=True))
    assert (strict.value, strict.judged, strict.met) == (1, strict.lower, False)
    # On fewer frames than there are in the end, the floor is that of all of them.
    assert compared(Certainty(strict=True, groups={"b": 100})).met
    # What nothing was done to rests on no sample.
    assert replace(strict, lower=None).met
