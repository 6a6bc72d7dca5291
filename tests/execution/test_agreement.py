"""Exact programs beside the files they were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repsimc.compiler.execution.agreement import Exactness, Probe, frame_probes, gap, twice
from repsimc.compiler.execution.feeds import input_specs
from repsimc.compiler.frames.calibration import FrameOptions, load_frames
from repsimc.compiler.graph.program import Program
from tests.programs import AsRead, joined, model_of_text

ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("expected", "found", "wanted"),
    [
        (ONES, ONES, 0),
        (4 * ONES, 4 * ONES + np.float32([[0, 0, 1], [0, 0, 0]]), 0.25),
        (np.float32([np.nan, np.inf, 2]), np.float32([np.nan, np.inf, 2]), 0),
        (np.float32([np.nan, 1]), np.float32([1, 1]), np.inf),
        (np.float32([1, 1]), np.float32([1, np.inf]), np.inf),
        (np.float32([0, 0]), np.float32([0, 1e-9]), 1e-3),
        (ONES, ONES[:1], np.inf),
        (ONES, ONES.astype(np.float64), np.inf),
        (np.int64([1, 2, 3, 4]), np.int64([1, 2, 3, 5]), 0.25),
        (np.array([True, False]), np.array([True, True]), 0.5),
        (np.array(["a", "b"]), np.array(["a", "b"], object), 0),
        (np.array(["a", "b"]), np.array(["a", "c"]), np.inf),
        (np.float32([]), np.float32([]), 0),
        ([ONES, 2 * ONES], [ONES, 3 * ONES], 0.5),
        ([ONES], [ONES, ONES], np.inf),
        ([{0: 1.0, 1: 2.0}], [{0: 1.0, 1: 1.0}], 0.5),
        ({0: 1.0}, {1: 1.0}, np.inf),
        (None, None, 0),
        (None, ONES, np.inf),
    ],
)
def test_how_far_values_are_apart(expected: Any, found: Any, wanted: float) -> None:
    assert gap(expected, found) == pytest.approx(wanted)


def net(nodes: str, kind: str = "float", weight: str = "1, 2, 3") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => ({kind}[2,K] y)
    <float[3] w = {{{weight}}}> {{ {nodes} }}"""


def probe(program: Program, seed: int = 0) -> Probe:
    x = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
    feeds = dict.fromkeys(program.input_names, x)
    given = AsRead(program)
    expected = {
        name: given.run(name, {own: feeds[value] for own, value in model.inputs.items()})
        for name, model in program.models.items()
    }
    return Probe(feeds, expected)


def test_noise_is_no_difference_and_more_is() -> None:
    program = joined(a=net("y = Mul(x, w)"), b=net("y = Mul(x, w)"))
    held = probe(program)
    assert Exactness(program).difference([held]) is None
    for factor, wrong in ((1 + 1e-6, False), (1.1, True)):
        changed = program.copy()
        weight = changed.weights()["b/w"]
        weight.values = np.float32(factor) * weight.values
        found = Exactness(changed).difference([held])
        assert (found is not None) == wrong
        if found is not None:
            assert str(found).startswith("output 'y' of model 'b' differs by 0.1")


def test_a_program_that_does_not_run_differs() -> None:
    program = joined(a=net("y = Mul(x, w)"))
    held = probe(program)
    narrow = joined(a=net("y = Mul(x, x)").replace("[2,3] x", "[2,5] x"))
    found = Exactness(narrow).difference([held])
    assert found is not None
    assert "output 'y' of model 'a': " in str(found)


@pytest.mark.parametrize(
    ("nodes", "kind", "wanted"),
    [
        ("y = Mul(x, w)", "float", 1e-3),
        ("h = Cast<to=10>(x) g = Neg(h) y = Cast<to=1>(g)", "float", 2e-2),
        ("h = Cast<to=7>(x) y = Neg(h)", "int64", 0),
        ("h = Mul(x, w) y = ArgMax<axis=1>(h)", "int64", 1e-2),
    ],
)
def test_what_is_taken_for_noise(nodes: str, kind: str, wanted: float) -> None:
    program = joined(a=net(nodes, kind))
    (expected,) = probe(program).expected["a"].values()
    assert Exactness(program).tolerance("a").of(expected) == wanted


def test_more_is_allowed_where_the_file_itself_wavers() -> None:
    # The same number by two ways of adding; what is left of it is noise, made large.
    far = net("h = Add(x, w) d = Sub(h, w) e = Sub(d, x) y = Mul(e, w)", weight="9e4, 7e4, 5e4")
    near = net("y = Sub(x, x)")
    held = probe(joined(a=far))
    found = Exactness(joined(a=near)).difference([held])
    assert found is not None
    assert (
        Exactness(joined(a=near), AsRead(joined(a=far))).difference([held]) is not None
    )  # never so much


def test_two_runs_that_differ_are_random() -> None:
    program = joined(a=net("r = RandomNormalLike(x) y = Add(x, r)"))
    answer = twice(program, "a", {"a/x": ONES}, Wavering())
    assert isinstance(answer, str)
    assert "output 'y' is random" in answer


class Wavering:
    """A model that gives something else every time."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, model: str, feeds: Any) -> dict[str, Any]:
        self.runs += 1
        return {"y": self.runs * ONES}


def test_probes_are_of_several_sizes() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, T] x) => (float[N, T] y) { y = Relu (x) }"""
    original = joined([], a=model_of_text(text))
    pieces = [np.ones((20, size), np.float32) for size in (3, 5)]
    frames = load_frames({"x": pieces}, {"a": input_specs(original)}, FrameOptions(held_out=None))
    probes, random = frame_probes(original, frames, AsRead(original))
    assert [probe.feeds["a/x"].shape for probe in probes] == [(2, 3), (2, 5)]
    assert random == {}
