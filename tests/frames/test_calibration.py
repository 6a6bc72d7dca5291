"""Frames of models: streams, tied inputs, fingerprints, labels, and calls that make no sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.frames.calibration import FrameOptions, load_frames
from repsimc.compiler.frames.preprocessing import Preprocessing
from repsimc.compiler.frames.tying import tied_groups
from tests.frames.given_frames import (
    ONE,
    PAIR,
    TWO,
    UNIT,
    Case,
    X,
    check_refused,
    floats,
    npy,
    npz,
    pixels,
    spec,
)


def test_plain_array_and_arrays_by_input_name():
    x = floats()
    inputs = {"a": [spec()], "b": [spec()]}
    for calibration in (x, {"x": x}):
        frames = load_frames(calibration, inputs)
        assert frames.aligned("a", "b")
        assert tied_groups(frames) == [[("a", "x"), ("b", "x")]]


def test_arrays_by_model_are_separate_streams_unless_they_are_the_same():
    x, y = floats(), floats(30, seed=1)
    inputs = {"a": [spec()], "b": [spec()]}
    for calibration in ({"a": x, "b": y}, {"a/x": x, "b/x": y}, {"a": {"x": x}, "b": {"x": y}}):
        frames = load_frames(calibration, inputs)
        assert not frames.aligned("a", "b")
        assert (frames.count("a"), frames.count("b")) == (20, 30)
        assert tied_groups(frames) == []
    same = load_frames({"a": x, "b": x}, inputs)
    assert same.aligned("a", "b")
    said = load_frames({"a": x, "b": x + 1}, inputs, FrameOptions(same_frames=True))
    assert said.aligned("a", "b")
    assert tied_groups(said) == []  # the same frames, but not the same arrays


def test_a_path_per_model(tmp_path):
    np.savez(tmp_path / "a.npz", x=floats(20))
    np.savez(tmp_path / "b.npz", x=floats(20))
    np.savez(tmp_path / "c.npz", x=floats(20, seed=1))
    paths = {name: tmp_path / f"{name}.npz" for name in "abc"}
    inputs = {name: [spec()] for name in "abc"}
    apart = load_frames(paths, inputs)
    assert apart.streams == (("a",), ("b",), ("c",))
    assert tied_groups(apart) == []
    together = load_frames(paths, inputs, FrameOptions(same_frames=True))
    assert together.streams == (("a", "b", "c"),)
    # a.npz and b.npz have the same content, so one array can feed both
    assert tied_groups(together) == [[("a", "x"), ("b", "x")]]
    linked = tmp_path / "link.npz"
    linked.symlink_to(tmp_path / "a.npz")
    same_file = load_frames({"a": tmp_path / "a.npz", "b": linked}, {k: inputs[k] for k in "ab"})
    assert same_file.aligned("a", "b")


def test_models_of_one_stream_share_the_split(tmp_path):
    np.savez(tmp_path / "c.npz", x=floats(40), y=floats(40, (7,)))
    inputs = {"a": [spec()], "b": [spec("y", ("N", 7))]}
    frames = load_frames(tmp_path / "c.npz", inputs)
    np.testing.assert_array_equal(frames.fit_rows("a"), frames.fit_rows("b"))
    assert tied_groups(frames) == []


def test_different_batch_or_preprocessing_is_not_tied():
    inputs = {"a": [spec()], "b": [spec(shape=(1, 3, 4, 4))], "c": [spec()]}
    assert tied_groups(load_frames(floats(), inputs)) == [[("a", "x"), ("c", "x")]]
    recipes = {"": UNIT, "c": Preprocessing(scale=2.0)}
    images = load_frames(pixels(), inputs, FrameOptions(preprocessing=recipes))
    assert tied_groups(images) == []
    assert images.aligned("a", "c")


def test_two_inputs_of_a_model_stay_apart():
    x = floats()
    inputs = {"a": [spec("l"), spec("r")], "b": [spec("l"), spec("r")]}
    groups = tied_groups(load_frames({"l": x, "r": x}, inputs))
    assert groups == [[("a", "l"), ("b", "l")], [("a", "r"), ("b", "r")]]


def test_fingerprint_follows_content_and_preprocessing(tmp_path):
    images = pixels()
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "b.npy", images)
    changed = images.copy()
    changed[19, 0, 0, 0] ^= 1
    np.save(tmp_path / "c.npy", changed)

    def mark(path, recipe=UNIT):
        return load_frames(
            tmp_path / path, ONE, FrameOptions(preprocessing={"": recipe})
        ).fingerprint()

    assert mark("a.npy") == mark("b.npy")
    assert len({mark("a.npy"), mark("c.npy"), mark("a.npy", Preprocessing(scale=2.0))}) == 3


CASES = {
    "inputs of different batch": Case(
        lambda p: npz(p, x=X, y=X),
        ("'x' float32 [1, 3, 4, 4]", "'y' float32 [2, 3, 4, 4]", "axis 0"),
        {"a": [spec("x", (1, 3, 4, 4)), spec("y", (2, 3, 4, 4))]},
    ),
    "counts of inputs differ": Case(
        lambda p: npz(p, x=X, y=X[:19]), ("input 'x'", "input 'y'", "20 and 19 frames"), PAIR
    ),
    "counts of models differ": Case(
        lambda p: {"a": npz(p, x=X), "b": npy(p, X[:18])},
        ("model 'a'", "model 'b'", "20 and 18 frames", "leave out --same"),
        TWO,
        {"same_frames": True},
    ),
    "no frames for a model": Case(
        lambda p: {"a": npz(p, x=X)}, ("no frames for model 'b'", "--calib b=PATH"), TWO
    ),
    "unknown model": Case(
        lambda p: {"c": npz(p, x=X)}, ("no model is called 'c'", "called a"), error=UsageError
    ),
    "unknown model in preprocessing": Case(
        lambda p: npz(p, x=X),
        ("'c'", "called a"),
        options={"preprocessing": {"c": Preprocessing()}},
        error=UsageError,
    ),
    "paths and arrays": Case(
        lambda p: {"a": npz(p, x=X), "b": X}, ("mixes",), TWO, error=UsageError
    ),
    "a list": Case(lambda p: [1, 2], ("is a list", "path per model"), error=UsageError),
    "a list in a dict": Case(lambda p: {"x": [1]}, ("'x' is a list",), error=UsageError),
    "an empty dict": Case(lambda p: {}, ("empty",), error=UsageError),
    "negative seed": Case(lambda p: X, ("seed of -1",), options={"seed": -1}, error=UsageError),
    "no limit": Case(lambda p: X, ("limit of 0",), options={"limit": 0}, error=UsageError),
    "all held out": Case(lambda p: X, ("1.5",), options={"held_out": 1.5}, error=UsageError),
}


@pytest.mark.parametrize("name", CASES)
def test_refusal(name: str, tmp_path: Path):
    check_refused(CASES[name], tmp_path)
