"""Statistics of activations on frames: against plain NumPy, in one bounded pass."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.observing import observe
from repsimc.compiler.execution.statistics import (
    RangeMeasure,
    StatisticsObserver,
    StraightMeasure,
    mean_of,
)
from repsimc.compiler.structure.activation_functions import activations_of
from tests.nets.foldable import (
    always_on,
    attention_net,
    images,
    sometimes_dead,
    statistics_of,
    tokens,
)
from tests.nets.networks import ArrayFrames, Net, smooth_images
from tests.programs import program_of


def test_every_number_is_what_numpy_says() -> None:
    program, frames = program_of(sometimes_dead(-1.0)), images()
    measured = statistics_of(program, frames)
    found, reach = measured.activations["a/r"], measured.ranges["a/r"]
    pre, post = Executable(program, None, [found.activation.given, "a/r"])(
        {"a/x": frames.arrays["a/x"]}
    )
    x, y = (np.moveaxis(a, 1, -1).reshape(-1, 12).astype(np.float64) for a in (pre, post))
    np.testing.assert_allclose(reach.low, y.min(axis=0), rtol=1e-5)
    np.testing.assert_allclose(reach.high, y.max(axis=0), rtol=1e-5)
    for channel in range(12):
        slope, offset = np.polyfit(x[:, channel], y[:, channel], 1)
        if x[:, channel].max() <= 0:
            slope, offset = 0.0, 0.0
        lost = np.mean((y[:, channel] - slope * x[:, channel] - offset) ** 2)
        assert found.slope[channel] == pytest.approx(slope, abs=1e-5)
        assert found.offset[channel] == pytest.approx(offset, abs=1e-5)
        assert found.lost[channel] == pytest.approx(lost, abs=1e-6)
        assert found.power[channel] == pytest.approx(y[:, channel].var(), abs=1e-5)
    assert 0 < found.damage < 1


def test_always_on_and_always_off_channels_are_exact() -> None:
    on = statistics_of(program_of(always_on()), images()).activations["a/r"]
    assert (on.slope == 1).all() and (on.offset == 0).all() and on.damage == 0
    measured = statistics_of(program_of(sometimes_dead()), images())
    dead = measured.ranges["a/r"].high == 0
    assert dead.sum() == 5
    assert (measured.activations["a/r"].slope[dead] == 0).all()


def test_dead_channels_show_in_the_ranges() -> None:
    found = statistics_of(program_of(sometimes_dead()), images()).ranges["a/r"]
    assert found.constant().sum() == 5 and (found.mean[found.constant()] == 0).all()


def test_batches_give_what_one_go_gives() -> None:
    program = program_of(sometimes_dead(-1.0))
    whole, cut = (ArrayFrames(images().arrays, batch=batch) for batch in (192, 1))
    one, other = (statistics_of(program, f).activations["a/r"] for f in (whole, cut))
    np.testing.assert_allclose(one.slope, other.slope, atol=1e-5)
    np.testing.assert_allclose(one.lost, other.lost, atol=1e-5)
    assert len(cut.walks) == 1


@pytest.mark.parametrize(("shift", "all_seen"), [(-40.0, True), (0.0, False)])
def test_what_cannot_be_of_use_is_looked_at_on_few_frames(shift: float, all_seen: bool) -> None:
    """Of 192 frames; a channel that is dead so far has to be so on all."""
    program, frames = program_of(sometimes_dead(shift)), images()
    (activation,) = [a for a in activations_of(program, program.graph.nodes) if a.value == "a/r"]
    settling = StatisticsObserver([StraightMeasure(activation), RangeMeasure("a/r", 1)])
    observe(program, lambda limit: frames, [settling])
    assert (settling.found.frames == 192) == all_seen
    found, every = settling.found, statistics_of(program, images())
    assert found.activations["a/r"].damage == pytest.approx(
        every.activations["a/r"].damage, rel=0.2
    )
    dead, dead_on_all = found.ranges["a/r"].constant(), every.ranges["a/r"].constant()
    assert (dead == dead_on_all).all()


def test_values_that_never_change_are_found() -> None:
    net = Net()
    still = net.relu(net.node("Sub", net.node("Tanh", "x"), net.weight(np.float32(2))), out="d")
    net.relu(net.node("Add", net.conv("x", 3, 3), still), out="y")
    program = program_of(net.model(x=("N", 3, 8, 8)))
    found = statistics_of(program, images()).constants
    assert list(found) == ["a/d"] and found["a/d"].shape == (1, 3, 8, 8)


def test_a_value_that_changes_once_is_not_constant() -> None:
    net = Net()
    net.relu(net.node("Add", net.conv("x", 3, 3), net.relu("x", out="d")), out="y")
    program = program_of(net.model(x=("N", 3, 8, 8)))
    x = -np.ones((64, 3, 8, 8), np.float32)
    assert "a/d" in statistics_of(program, ArrayFrames({"a/x": x})).constants
    x[63, 2, 7, 7] = 1
    assert "a/d" not in statistics_of(program, ArrayFrames({"a/x": x})).constants


def test_attention_maps_are_compared() -> None:
    for alike in (True, False):
        found = statistics_of(program_of(attention_net(alike)), tokens()).attention
        assert list(found) == [("a/s0", "a/s1")]
        assert (found["a/s0", "a/s1"] > 0.99) == alike


def test_what_is_not_finite_is_left_out() -> None:
    net = Net()
    net.relu(net.conv(net.relu(net.node("Log", "x"), out="r"), 3, 4), out="y")
    program = program_of(net.model(x=("N", 3, 8, 8)))
    x = np.abs(smooth_images(16)) + 0.1
    assert "a/r" in statistics_of(program, ArrayFrames({"a/x": x})).activations
    x[3] = 0
    assert "a/r" not in statistics_of(program, ArrayFrames({"a/x": x})).activations


def test_a_model_without_activations_has_no_statistics() -> None:
    net = Net()
    net.node("Neg", "x", out="y")
    program = program_of(net.model(x=("N", 2)))
    frames = ArrayFrames({"a/x": np.zeros((4, 2), np.float32)})
    found = statistics_of(program, frames)
    assert (found.activations, found.ranges, found.constants) == ({}, {}, {})


def test_the_mean_over_frames() -> None:
    program, frames = program_of(always_on()), images()
    mean = mean_of(program, "a/c2", frames)
    (array,) = Executable(program, None, ["a/c2"])({"a/x": frames.arrays["a/x"]})
    assert mean is not None
    np.testing.assert_allclose(mean, array.mean(axis=0, keepdims=True), rtol=1e-4, atol=1e-4)


def test_what_reads_no_input_has_no_statistics() -> None:
    # Drawn numbers are not folded, so a program may compute values that depend on no frame.
    program = program_of("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4] x) => (float[N,4] y)
    { k = RandomNormal <shape = [1, 4]> ()  r = Relu(k)  y = Add(x, r) }""")
    frames = ArrayFrames({"a/x": np.zeros((6, 4), np.float32)})
    assert statistics_of(program, frames).activations == {}
