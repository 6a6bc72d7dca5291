"""Blends of frames, and what they prove of fidelity."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.execution.confidence import agreement_bound
from repsimc.compiler.execution.feeds import held_out_feeds
from repsimc.compiler.execution.outputs import OutputComparison
from repsimc.compiler.execution.stress import Blended, BlendedFrames, stressed, with_stress
from repsimc.compiler.frames.calibration import FrameOptions, Frames, load_frames
from repsimc.compiler.frames.sets import InputSpec
from repsimc.compiler.graph.program import Program
from tests.nets.networks import Array
from tests.programs import AsRead, joined, model_of_text

SCORES = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 4] y)
<float s = {SHARP}>
{ y = Mul (x, s) }
"""


def program(sharp: float) -> Program:
    return joined([], a=model_of_text(SCORES.replace("SHARP", str(sharp))))


def frames(x: Array, batch: int | str = "N") -> Frames:
    return load_frames(
        {"x": x}, {"a": [InputSpec("x", x.dtype, (batch, 4))]}, FrameOptions(held_out=None)
    )


def one_hot(count: int) -> Array:
    return np.eye(4, dtype=np.float32)[np.arange(count) % 4]


def test_each_frame_is_blended_with_others() -> None:
    x = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    blends = BlendedFrames(held_out_feeds(program(1), frames(x), "a"), 0.2, 4)
    made = np.concatenate([batch["a/x"] for batch in blends.batches(["a/x"])])
    assert blends.count == len(made) == 40 and made.dtype == np.float32
    for k, shift in enumerate((2, 4, 6, 8)):
        wanted = 0.8 * x + 0.2 * np.roll(x, -shift, axis=0)
        np.testing.assert_allclose(made[10 * k : 10 * k + 10], wanted, rtol=1e-5)


def test_frames_are_blended_with_those_of_their_size() -> None:
    # In no order, and one that is alone in its size.
    pieces = [np.full((count, size), value, np.float32) for count, size, value in _SIZED]
    spec = InputSpec("x", np.dtype(np.float32), ("N", "C"))
    found = load_frames({"x": pieces}, {"a": [spec]}, FrameOptions(held_out=None))
    original = joined([], a=model_of_text(SCORES.replace("4]", "C]").replace("SHARP", "1")))
    blends = BlendedFrames(held_out_feeds(original, found, "a"), 0.25, 1)
    made = [batch["a/x"] for batch in blends.batches(["a/x"])]
    assert [batch.shape for batch in made] == [(2, 3), (2, 5), (1, 7)]
    np.testing.assert_allclose(made[0], [[2] * 3, [4] * 3])
    np.testing.assert_allclose(made[1], [[12] * 5, [14] * 5])


_SIZED = [(1, 3, 1), (1, 5, 11), (1, 7, 0), (1, 3, 5), (1, 5, 15)]


def test_one_frame_of_each_size_is_not_blended() -> None:
    pieces = [np.ones((1, size), np.float32) for size in (3, 5)]
    spec = InputSpec("x", np.dtype(np.float32), ("N", "C"))
    found = load_frames({"x": pieces}, {"a": [spec]}, FrameOptions(held_out=None))
    original = joined([], a=model_of_text(SCORES.replace("4]", "C]").replace("SHARP", "1")))
    blended = Blended(original, AsRead(original), found)
    assert stressed(blended, original, ["a"], lambda model, output: None) == {}


def test_scalars_that_never_change_are_fed_as_they_are() -> None:
    text = SCORES.replace("(float[N, 4] x)", "(float[N, 4] x, float scale, int64 rate)").replace(
        "{ y = Mul (x, s) }", "{ a = Mul (x, scale)\n f = Cast <to = 1> (rate)\n y = Mul (a, f) }"
    )
    original = joined([], a=model_of_text(text.replace("SHARP", "1")))
    x = np.random.default_rng(2).normal(size=(20, 4)).astype(np.float32)
    given = {"x": x, "scale": np.array(2, np.float32), "rate": np.array(3)}
    specs = [
        InputSpec("x", x.dtype, ("N", 4)),
        InputSpec("scale", np.dtype(np.float32), ()),
        InputSpec("rate", np.dtype(np.int64), ()),
    ]
    found = load_frames(given, {"a": specs}, FrameOptions(held_out=None))
    blended = Blended(original, AsRead(original), found)
    values = stressed(blended, original, ["a"], lambda model, output: None)
    assert values == {("a", "y"): pytest.approx(0.05 ** (1 / 20))}  # 20 frames without a miss


def test_agreement_on_blends_is_that_of_numpy() -> None:
    # Frames of class 0 to 3 in turn; the compiled model prefers class 0 where others are weak.
    compiled = program(1)
    compiled.weights()["a/s"].values = np.array([1.3, 1, 1, 1], np.float32)
    x = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    original = program(1)
    blended = Blended(original, AsRead(original), frames(x))
    agree = []
    for shift in (8, 16, 24, 32):
        blend = np.float32(0.75) * x + np.float32(0.25) * np.roll(x, -shift, axis=0)
        agree.append((blend.argmax(1) == (blend * [1.3, 1, 1, 1]).argmax(1)).mean())
    assert np.mean(agree) < 1
    for confidence in (0.9, 0.95):
        found = stressed(blended, compiled, ["a"], lambda model, output: None, confidence)
        # 160 blends of 40 frames tell no more than 40 do.
        proved = agreement_bound(float(np.mean(agree)), 40, confidence)
        assert found == {("a", "y"): pytest.approx(proved)}


def test_blends_of_few_frames_prove_little() -> None:
    original = program(1)
    for count, proved in ((20, 0.05 ** (1 / 20)), (400, 0.05 ** (1 / 400))):
        x = np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)
        blended = Blended(original, AsRead(original), frames(x))
        found = stressed(blended, original, ["a"], lambda model, output: None)
        assert found == {("a", "y"): pytest.approx(proved)}


def test_blends_of_frames_of_one_scene_count_once() -> None:
    # Each frame stands there three times: their blends prove what those of a third would.
    x = np.repeat(np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32), 3, axis=0)
    given = load_frames({"x": x}, {"a": [InputSpec("x", x.dtype, ("N", 4))]}, FrameOptions())
    original = program(1)
    scenes = len(given.scenes_held_out("a"))
    assert scenes < len(given.held_out_rows("a")) / 2
    blended = Blended(original, AsRead(original), given)
    found = stressed(blended, original, ["a"], lambda model, output: None)
    assert found == {("a", "y"): pytest.approx(0.05 ** (1 / scenes))}


def test_integers_are_not_blended() -> None:
    text = SCORES.replace("float[N, 4] x)", "uint8[N, 4] x)").replace(
        "{ y = Mul (x, s) }", "{ f = Cast <to = 1> (x)\n y = Mul (f, s) }"
    )
    original = joined([], a=model_of_text(text.replace("SHARP", "1")))
    x = np.zeros((20, 4), np.uint8)
    blended = Blended(original, AsRead(original), frames(x))
    assert stressed(blended, original, ["a"], lambda model, output: None) == {}


def test_what_was_measured_stands_beside_the_floor() -> None:
    output = OutputComparison("a", "y", "top-1 agreement", 1.0, 0.9, 40, 1.0, 0.0)
    (same,) = with_stress([output], {}, 0.9)
    assert same == output and same.met
    (cracked,) = with_stress([output], {("a", "y"): 0.8}, 0.9)
    assert (cracked.stressed, cracked.cracks, cracked.met) == (0.8, True, False)
    (told,) = with_stress([output], {("a", "y"): 0.8}, None)
    assert told.met and not told.cracks
