"""Dimensions that are free in the model and have a size on the frames."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import onnx_graphsurgeon as gs
import pytest

from repsimc.compiler.graph.export import named_sizes
from repsimc.compiler.graph.free_size import (
    FreeSize,
    equal_shapes,
    equal_sizes,
    ratio_of,
    same_for_any_size,
    shown,
    size_of,
    sizes_of,
)

N = FreeSize("N", (1,), True)
HEIGHT = FreeSize("H", (320, 640))


def test_the_text_is_the_name_and_the_sizes_travel_with_it() -> None:
    for same in (HEIGHT, copy.deepcopy(HEIGHT), pickle.loads(pickle.dumps(HEIGHT))):
        assert same == "H" and isinstance(same, FreeSize)
        assert (same.sizes, same.per_frame) == ((320, 640), False)
    assert HEIGHT.named("W").sizes == HEIGHT.sizes and HEIGHT.named("W") == "W"


@pytest.mark.parametrize(
    ("dimension", "one", "four"),
    [
        (3, 3, 3),
        (N, 1, 4),
        (FreeSize("", (49,), True), 49, 196),
        (HEIGHT, 320, 320),
        ("H", None, None),
        (None, None, None),
        (-1, None, None),
    ],
)
def test_a_size_is_fixed_or_measured_or_unknown(
    dimension: Any, one: int | None, four: int | None
) -> None:
    assert (size_of(dimension), size_of(dimension, 4)) == (one, four)


def test_the_first_axis_counts_frames_where_nothing_else_is_known() -> None:
    assert sizes_of(("unk__3", 8, HEIGHT), 4) == (4, 8, 320)
    assert sizes_of((N, 8, "unk__4")) is None
    assert sizes_of(None) is None


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (3, 3, True),
        (3, 4, False),
        ("H", "H", True),
        ("H", "W", False),
        (None, None, False),  # two unknown sizes need not be the same one
        (FreeSize("", (320,)), FreeSize("H", (320,)), True),
        (HEIGHT, FreeSize("W", (320, 320)), False),  # equal on the frames, not on other sizes
        (FreeSize("", (7, 7)), 7, True),
        (FreeSize("", (7, 8)), 7, False),
        (N, FreeSize("", (1,)), False),
    ],
)
def test_sizes_are_equal_where_they_are_so_on_all_frames(one: Any, other: Any, equal: bool) -> None:
    assert equal_sizes(one, other) is equal_sizes(other, one) is equal
    assert equal_shapes([2, one], [2, other]) is equal


def test_ratios_hold_on_all_frames() -> None:
    half, odd = FreeSize("", (160, 320)), FreeSize("", (160, 321))
    assert ratio_of(HEIGHT, half) == 2 and ratio_of(half, HEIGHT) is None
    assert ratio_of(HEIGHT, odd) is None
    assert ratio_of(8, 4) == 2 and ratio_of(8, 3) is None and ratio_of("H", "H") is None


def test_exact_rewrites_go_by_names_alone() -> None:
    one, other = FreeSize("", (320,)), FreeSize("", (320,))
    assert not same_for_any_size([1, one], [1, other])
    assert same_for_any_size([1, HEIGHT], [1, FreeSize("H", (5,))])
    assert not same_for_any_size(None, [1])


def test_what_is_written_has_names_and_what_people_read_sizes() -> None:
    value = gs.Variable("x", "float32", [N, 3, HEIGHT, FreeSize("", (5,)), None])
    assert named_sizes(value) == ["N", 3, "H", None, None]
    assert shown(value.shape) == "[N, 3, 320, 5, ?]"
