"""Inputs that become one: by the same frames, by name where nothing is free, or as asked for."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.frames.calibration import FrameOptions, load_frames
from repsimc.compiler.frames.tying import ASKED_FOR, SAME_FRAMES, SAME_NAME, Tie, tying
from tests.frames.given_frames import floats, spec

FIXED = ("N", 3, 4, 4)
A, B, C = ("a", "x"), ("b", "x"), ("c", "x")


def state(shape=(1, 3), name="h"):
    found = spec(name, shape)
    return type(found)(found.name, found.dtype, found.shape, state=True)


def test_equal_names_are_tied_where_every_size_is_fixed():
    specs = {"a": [spec(shape=FIXED)], "b": [spec(shape=FIXED)]}
    assert tying(specs, None).ties == (Tie((A, B), SAME_NAME),)
    assert tying(specs, None, automatic=False).ties == ()


@pytest.mark.parametrize("shape", [("N", 3, "H", "W"), (1, 3, None, None), ("N", 3, -1, 4)])
def test_equal_names_are_no_reason_where_sizes_are_free(shape):
    found = tying({"a": [spec(shape=shape)], "b": [spec(shape=shape)]}, None)
    assert found.ties == ()
    (note,) = found.notes
    assert "a.x and b.x stay apart" in note
    assert "--tie a.x=b.x" in note


def test_states_of_one_name_stay_apart_with_frames_and_without():
    specs = {"a": [spec(), state()], "b": [spec(), state()]}
    found = tying(specs, None)
    assert [tie.inputs for tie in found.ties] == [(A, B)]
    assert found.notes == ()
    frames = load_frames({"x": floats(), "h": np.zeros((1, 3), np.float32)}, specs)
    assert [tie.inputs for tie in tying(frames.inputs, frames).ties] == [(A, B)]


def test_what_a_fixed_size_would_take_away_is_left_apart_and_said():
    specs = {
        "a": [spec(shape=("N", 3, "H", "W"))],
        "b": [spec(shape=(1, 3, "H", "W"))],
        "c": [spec(shape=("N", 3, 4, 4))],
        "d": [spec(shape=("N", 3, "S", "S"))],
        "e": [spec(shape=("M", 3, "Y", "X"))],
    }
    frames = load_frames(floats(), specs)
    found = tying(frames.inputs, frames)
    assert found.ties == (Tie((A, ("e", "x")), SAME_FRAMES),)
    (note,) = found.notes
    assert "a.x and b.x and c.x and d.x stay apart, though the same frames feed them" in note


def test_a_tie_that_is_asked_for_takes_the_fixed_batch():
    specs = {"a": [spec()], "b": [spec(shape=(1, 3, 4, 4))], "c": [spec()]}
    frames = load_frames(floats(), specs)
    found = tying(frames.inputs, frames, ["a.x=b.x"])
    assert found.ties == (Tie((A, B), ASKED_FOR),)
    assert [found.joined(frames).batch(model) for model in "abc"] == [1, 1, None]
    assert [frames.batch(model) for model in "abc"] == [None, 1, None]


def test_ties_that_are_asked_for_come_together_in_one():
    specs = {name: [spec(shape=("N", 3, "H", "W"))] for name in "abc"}
    found = tying(specs, None, ["a.x=b.x", "b/x=c.x"])
    assert found.ties == (Tie((A, B, C), ASKED_FOR),)
    assert str(found.ties[0]) == "a.x = b.x = c.x (--tie)"


def test_a_name_may_hold_an_equals_sign():
    specs = {"a": [spec("u=v")], "b": [spec("w")]}
    assert tying(specs, None, ["a.u=v=b.w"]).groups == [[("a", "u=v"), ("b", "w")]]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("a.x", ("--tie a.x", "MODEL.INPUT=MODEL.INPUT")),
        ("a.x=b.z", ("no input is called 'b.z'", "b.x")),
        ("x=b.y", ("'x' is an input of several models", "a.x, b.x")),
        ("a.x=a.y", ("inputs of one model",)),
        ("a.x=b.y", ("one array cannot feed", "float32 [N, 7]")),
    ],
)
def test_a_tie_that_cannot_be(asked, says):
    specs = {"a": [spec(), spec("y", ("N", 7))], "b": [spec(), spec("y", ("N", 7))]}
    with pytest.raises(UsageError) as caught:
        tying(specs, None, [asked])
    for words in says:
        assert words in f"{caught.value} {caught.value.hint}"


def test_a_tie_of_different_frames_is_refused():
    specs = {"a": [spec()], "b": [spec()]}
    x, other = floats(), floats(seed=1)
    for given, options, says in (
        ({"a": x, "b": other}, FrameOptions(), "frames of their own"),
        ({"a": x, "b": other}, FrameOptions(same_frames=True), "frames of a.x and b.x differ"),
    ):
        frames = load_frames(given, specs, options)
        with pytest.raises(UsageError, match=says):
            tying(frames.inputs, frames, ["a.x=b.x"])
