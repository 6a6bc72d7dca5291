"""Rows of many values at the same places of the same frames."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.execution.feeds import fit_feeds, input_specs
from repsimc.compiler.execution.samples import MAX_CHANNELS, POSITIONS, Samples, sample_values
from repsimc.compiler.frames.calibration import load_frames
from tests.nets.networks import Array, ArrayFrames, Net, smooth_images
from tests.programs import joined, program_of


def drawn(seed: int, rows: int, width: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("donor", "receiver", "fits"),
    [
        ((8, 8), (8, 8), True),
        ((8, 8), (4, 4), True),
        ((4, 4), (8, 8), True),
        ((8, 8), (4, 8), True),
        ((8, 8), (3, 3), False),
        ((6, 6), (4, 4), False),
        ((8, 4), (4, 8), False),  # smaller here and larger there
        ((8, 8), (8,), False),
        ((8,), (8,), True),
        ((8,), (4,), False),  # tokens correspond one to one
        ((), (), True),
        ((), (8,), False),
    ],
)
def test_comparable_sizes(donor: tuple[int, ...], receiver: tuple[int, ...], fits: bool) -> None:
    rows = drawn(0, 20, 2)
    data = Samples({"d": rows, "r": rows}, {"d": donor, "r": receiver}, {"d": 2, "r": 2})
    assert data.comparable("d", "r") is fits


def test_values_of_other_row_counts_are_not_comparable() -> None:
    data = Samples(
        {"d": drawn(0, 20, 2), "r": drawn(0, 10, 2)},
        {"d": (2,), "r": (2,)},
        {"d": 2, "r": 2},
    )
    assert not data.comparable("d", "r")


def test_row_k_of_every_value_is_the_same_place_of_the_same_frame() -> None:
    net = Net()
    same = net.node("Identity", "x", out="same")
    pooled = net.node("MaxPool", same, out="pooled", kernel_shape=[2, 2], strides=[2, 2])
    net.node("Flatten", net.node("GlobalAveragePool", pooled), out="flat")
    program = program_of(net.model(["same", "pooled", "flat"], x=("N", 3, 8, 8)))
    # Blocks of 2 x 2 equal pixels: pooling changes nothing but the size.
    x = np.repeat(np.repeat(smooth_images(21, size=4), 2, axis=2), 2, axis=3)
    frames = ArrayFrames({"a/x": x}, batch=5)
    found = sample_values(program, ["a/same", "a/pooled", "a/flat", "a/missing"], frames)
    assert set(found.rows) == {"a/same", "a/pooled", "a/flat"}
    assert found.spatial == {"a/same": (8, 8), "a/pooled": (4, 4), "a/flat": ()}
    assert found.channels["a/same"] == 3
    assert found.rows["a/same"].shape == (21 * POSITIONS, 3)
    np.testing.assert_array_equal(found.rows["a/same"], found.rows["a/pooled"])
    means = x.mean(axis=(2, 3))
    np.testing.assert_allclose(found.rows["a/flat"], means, rtol=1e-4, atol=1e-6)
    again = sample_values(program, ["a/same"], frames, seed=1)
    assert not np.array_equal(again.rows["a/same"], found.rows["a/same"])


def test_tokens_carry_their_channels_last() -> None:
    net = Net()
    net.linear("x", 6, 4, out="y")
    program = program_of(net.model(x=("N", 5, 6)))
    frames = ArrayFrames(
        {"a/x": np.random.default_rng(0).normal(size=(9, 5, 6)).astype(np.float32)}
    )
    found = sample_values(program, ["a/y"], frames)
    assert (found.spatial["a/y"], found.channels["a/y"]) == ((5,), 4)
    assert found.rows["a/y"].shape == (9 * POSITIONS, 4)


def test_values_that_do_not_count_frames_are_left_out() -> None:
    model = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4, 4] x) => (float[N, 4, 4] y, float[4, N, 4] z, float[N] s)
    { y = Relu (x)
      z = Transpose<perm=[1, 0, 2]> (x)
      s = ReduceSum<keepdims=0> (x, axes)
    }"""
    model = model.replace("{ y =", "<int64[2] axes = {1, 2}> { y =")
    frames = ArrayFrames({"a/x": np.ones((9, 4, 4), np.float32)})
    found = sample_values(program_of(model), ["a/y", "a/z", "a/s"], frames)
    assert set(found.rows) == {"a/y"}


def test_wide_values_are_mixed_down_alike() -> None:
    wide = MAX_CHANNELS + 64
    net = Net(1)
    net.node("Relu", "x", out="y")
    proto = net.model(x=("N", wide))
    program = joined([[("a", "x"), ("b", "x")]], a=proto, b=proto)
    x = np.random.default_rng(0).standard_normal((60, wide)).astype(np.float32)
    found = sample_values(program, ["a/y", "b/y"], ArrayFrames({"x": x}))
    rows = found.rows["a/y"]
    assert rows.shape == (60, MAX_CHANNELS)  # there is one place in a frame
    assert found.channels["a/y"] == wide
    np.testing.assert_array_equal(rows, found.rows["b/y"])
    # A random projection: lengths are kept to within some percent.
    lengths = np.linalg.norm(rows, axis=1)
    true = np.linalg.norm(np.maximum(x, 0), axis=1)
    assert np.abs(lengths / true - 1).max() < 0.25
    assert abs(np.mean(lengths / true) - 1) < 0.02


def test_frames_of_several_sizes_are_comparable_where_the_multiples_are_the_same() -> None:
    rows = {name: drawn(0, 20, 2) for name in "abc"}
    every = {"a": ((8, 8), (12, 8)), "b": ((4, 4), (6, 4)), "c": ((4, 4), (4, 4))}
    first = {name: sizes[0] for name, sizes in every.items()}
    data = Samples(rows, first, dict.fromkeys("abc", 2), every)
    assert data.comparable("a", "b") and data.comparable("b", "a")
    assert not data.comparable("a", "c")
    assert not data.same_size("b", "c") and data.same_size("b", "b")


def test_sampled_rows_of_frames_of_several_sizes() -> None:
    net = Net()
    net.node("Relu", net.conv("x", 3, 4, strides=[2, 2], out="c"), out="y")
    program = program_of(net.model(x=("N", 3, "H", "W")))
    specs = {"a": input_specs(program)}
    pieces = [smooth_images(20, size=8), smooth_images(12, size=16)]
    feeds = fit_feeds(program, load_frames(pieces, specs), "a")
    found = sample_values(program, ["a/c", "a/y"], feeds)
    assert {len(rows) for rows in found.rows.values()} == {feeds.count * POSITIONS}
    assert set(found.every["a/c"]) == {(4, 4), (8, 8)} and found.same_size("a/c", "a/y")
    np.testing.assert_array_equal(np.maximum(found.rows["a/c"], 0), found.rows["a/y"])
