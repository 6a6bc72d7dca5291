"""Which axis counts frames, and which inputs are states, told by what a model says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.frames.axes import interface, with_axes
from tests.frames.given_frames import spec


def axes(*inputs, outputs=()):
    return {found.name: found.frame_axis for found in interface(inputs, outputs)}


def states(inputs, outputs):
    return [found.name for found in interface(inputs, outputs) if found.state]


def test_the_symbol_that_inputs_share_tells_the_axis_of_frames():
    vad = (spec("x", ("batch", "T")), spec("state", (2, "batch", 8)), spec("sr", (), np.int64))
    assert axes(*vad) == {"x": 0, "state": 1, "sr": None}
    assert axes(spec("x", ("T", "N", 4)), spec("y", ("N",))) == {"x": 1, "y": 0}
    assert axes(spec("ids", ("N", "T")), spec("mask", ("N", "T"))) == {"ids": 0, "mask": 0}


def test_on_one_input_alone_only_a_name_of_its_own_tells():
    assert axes(spec("x", ("T", "batch", 4))) == {"x": 1}
    assert axes(spec("points", (1, "N", 3))) == {"points": 0}
    assert axes(spec("x", (1, 3, 4))) == {"x": 0}


def test_a_fixed_first_axis_beside_free_frames_counts_none():
    found = axes(spec("x"), spec("anchors", (100, 4)), spec("one", (1, 4)))
    assert found == {"x": 0, "anchors": None, "one": 0}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("state", (2, "N", 8)), ("stateN", (None, "N", None))),
        (("h0", (1, 3)), ("hn", (1, 3))),
        (("h", (1, 3)), ("hn", (1, 3))),
        (("past_key_values.0.key", ("N", 2, "P", 4)), ("present.0.key", ("N", 2, "T", 4))),
        (("past", (1, 3)), ("present", (1, 3))),
        (("cache_in", (1, 3)), ("cache_out", (1, 3))),
        (("r1i", (1, 3)), ("r1o", (1, 3))),
        (("prev_h", (1, 3)), ("next_h", (1, 3))),
        (("hidden_state", (1, 3)), ("new_hidden_state", (1, 3))),
    ],
)
def test_a_state_is_known_by_the_output_that_carries_it_on(before, after):
    inputs, outputs = [spec("x"), spec(*before)], [spec("y", ("N", 3)), spec(*after)]
    assert states(inputs, outputs) == [before[0]]
    moved = [spec(after[0], (5, 5, 5, 5, 5))]
    assert states(inputs, moved) == []
    assert states(inputs, [spec(after[0], after[1], np.int64)]) == []
    # Alone it is what the model maps.
    assert states(inputs[1:], outputs) == []


@pytest.mark.parametrize(
    ("given", "made"),
    [("input", "output"), ("image", "image_out"), ("x", "x1"), ("state", "state"), ("k.0", "k.1")],
)
def test_names_that_only_look_alike_are_no_states(given, made):
    assert states([spec("mask"), spec(given)], [spec(made)]) == []


def test_users_name_the_axis():
    specs = {"a": [spec("x", (5, "M", 4))], "b": [spec("x", ("N", 4)), spec("y.z", (3, 4))]}
    found = with_axes(specs, ["a.x=1", "y.z=none"])
    assert [each.frame_axis for given in found.values() for each in given] == [1, 0, None]
    assert found["a"][0].batch is None
    assert with_axes(specs, ["x=1"])["b"][0].frame == ("N",)
    for said, says in (("a.x=3", "no axis 3"), ("a.x=one", "no axis one"), ("z=0", "'z'")):
        with pytest.raises(UsageError, match=says):
            with_axes(specs, [said])
