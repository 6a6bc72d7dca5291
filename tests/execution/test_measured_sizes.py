"""Sizes of values, measured on frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.errors import ModelError, UsageError
from repsimc.compiler.execution.feeds import fit_feeds, input_specs
from repsimc.compiler.execution.measured_sizes import (
    bind_to_frames,
    bind_to_shapes,
    take_sizes,
    told_sizes,
    unknown_sizes,
)
from repsimc.compiler.frames.calibration import Frames, load_frames
from repsimc.compiler.graph.free_size import equal_shapes, sizes_of
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.text import declared
from repsimc.compiler.isolation.allowance import ParseLimits
from repsimc.compiler.structure.cost import program_cost
from tests.nets.costly import WIDENS
from tests.nets.networks import Array, Net, smooth_images
from tests.programs import joined, program_of

HEIGHT, WIDTH = 12, 8
X = np.ascontiguousarray(smooth_images(40, size=HEIGHT)[..., :WIDTH])


def resizing(*sizes: int | str) -> onnx.ModelProto:
    """Halves an image and brings it back to its size by Shape, Slice, Concat and Resize."""
    net = Net()
    small = net.relu(net.conv("x", 3, 4, strides=[2, 2]), out="small")
    narrow = net.conv(small, 4, 4, 1, out="narrow")
    places = (np.array([2]), np.array([4]), np.array([0]))
    size = net.node("Slice", net.node("Shape", "x"), *map(net.weight, places))
    head = net.node("Slice", net.node("Shape", narrow), *map(net.weight, ([0], [2], [0])))
    full = net.node("Concat", head, size, axis=0)
    wide = net.node("Resize", narrow, "", "", full, out="wide", mode="nearest")
    net.conv(wide, 4, 2, out="y")
    return net.model(x=sizes or ("N", 3, "H", "W"))


def frames_for(program: Program, x: Array = X) -> Frames:
    return load_frames({"x": x}, {name: input_specs(program) for name in program.models})


def shape(program: Program, value: str, batch: int = 1) -> tuple[int, ...] | None:
    return sizes_of(program.values()[value].shape, batch)


def test_sizes_behind_computed_shapes_are_measured() -> None:
    program = program_of(resizing())
    assert shape(program, "a/wide") is None
    bind_to_frames(program, frames_for(program))
    assert shape(program, "a/small", 5) == (5, 4, HEIGHT // 2, WIDTH // 2)
    assert shape(program, "a/wide", 5) == (5, 4, HEIGHT, WIDTH)
    convs = 4 * 27 * 24 + 4 * 4 * 24 + 2 * 36 * 96
    assert program_cost(program).macs == convs
    assert program_cost(program).unknown == ()


def test_what_is_written_stays_free() -> None:
    program = program_of(resizing())
    bind_to_frames(program, frames_for(program))
    assert declared(program.values()["a/x"]) == "a/x: f32[N,3,H,W]"


def test_sizes_equal_by_chance_are_told_from_equal_ones() -> None:
    square = smooth_images(40, size=8)
    for others, alike in ((False, True), (True, False)):
        program = program_of(turned())
        bind_to_frames(program, frames_for(program, square), others)
        values = program.values()
        assert shape(program, "a/t") == (1, 3, 8, 8)
        assert equal_shapes(values["a/t"].shape, values["a/r"].shape) is alike


def turned() -> onnx.ModelProto:
    net = Net()
    net.node("Transpose", net.relu("x", out="r"), out="t", perm=[0, 1, 3, 2])
    net.node("Tanh", "t", out="y")
    return net.model(x=("N", 3, "H", "W"))


def test_a_name_that_stands_for_two_sizes_means_nothing() -> None:
    net = Net()
    net.relu("x", out="y")
    program = program_of(net.model(x=("N", 3, "size", "size")))
    bind_to_frames(program, frames_for(program))
    assert declared(program.values()["a/x"]) == "a/x: f32[N,3,?,?]"
    assert shape(program, "a/y") == (1, 3, HEIGHT, WIDTH)


def test_frames_folded_into_the_batch_count_for_each_frame() -> None:
    net = Net()
    net.node("Reshape", "x", net.weight(np.array([-1, 4])), out="r")
    net.node("Tanh", "r", out="y")
    program = program_of(net.model(x=("N", "T", 4)))
    bind_to_frames(program, frames_for(program, np.ones((40, 6, 4), np.float32)))
    assert shape(program, "a/y") == (6, 4) and shape(program, "a/y", 10) == (60, 4)


def test_sizes_that_depend_on_the_content_stay_unknown() -> None:
    net = Net()
    net.node("Cast", net.node("NonZero", "x", out="places"), out="y", to=1)
    program = program_of(net.model(x=("N", "T")))
    x = np.triu(np.ones((40, 40), np.float32))
    bind_to_frames(program, frames_for(program, x))
    assert shape(program, "a/places") is None


def test_values_of_unknown_rank_are_measured() -> None:
    net = Net()
    ones = net.node("Expand", "x", net.node("Shape", "x"))
    net.node("Reshape", ones, net.node("Concat", net.node("Shape", ones), axis=0), out="z")
    net.node("Tanh", "z", out="y")
    program = program_of(net.model(x=("N", "T")))
    program.values()["a/z"].shape = None
    bind_to_frames(program, frames_for(program, np.ones((40, 6), np.float32)))
    assert shape(program, "a/z", 3) == (3, 6)


def test_a_batch_that_is_free_by_name_alone_runs_frame_by_frame() -> None:
    net = Net()
    net.node("Reshape", "x", net.weight(np.array([1, 24])), out="r")
    net.gemm("r", 24, 2, out="y")
    program = program_of(net.model(x=("N", "T", 4)))
    frames = frames_for(program, np.ones((40, 6, 4), np.float32))
    bind_to_frames(program, frames)
    assert fit_feeds(program, frames, "a").batch == 1


def test_a_fixed_batch_is_measured_as_a_whole() -> None:
    program = program_of(resizing(2, 3, "H", "W"))
    bind_to_frames(program, frames_for(program))
    assert shape(program, "a/wide", 7) == (2, 4, HEIGHT, WIDTH)


def sized(*sizes: tuple[int, int]) -> list[Array]:
    return [X[:20, :, :height, :width] for height, width in sizes]


def test_frames_of_several_sizes_are_all_measured_the_largest_first() -> None:
    program = program_of(resizing())
    frames = load_frames({"x": sized((8, 8), (12, 8), (8, 4))}, {"a": input_specs(program)})
    bind_to_frames(program, frames, others=False)
    values = program.values()
    assert shape(program, "a/wide", 3) == (3, 4, 12, 8)
    height, width = values["a/small"].shape[2:]
    assert sorted(zip(height.sizes, width.sizes)) == [(4, 2), (4, 4), (6, 4)]


def test_several_sizes_of_frames_tell_axes_of_one_size_by_chance_apart() -> None:
    program = program_of(turned())
    frames = load_frames({"x": sized((8, 8), (8, 4))}, {"a": input_specs(program)})
    bind_to_frames(program, frames, others=False)
    assert not equal_shapes(program.values()["a/t"].shape, program.values()["a/r"].shape)


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_single_frame_of_the_largest_size_tells_what_depends_on_content(batch: str | int) -> None:
    net = Net()
    net.node("Cast", net.node("NonZero", net.relu("x", out="r"), out="places"), out="y", to=1)
    program = program_of(net.model(x=(batch, "T")))
    small, large = np.ones((40, 6), np.float32), np.ones((1, 9), np.float32)
    bind_to_frames(program, load_frames({"x": [small, large]}, {"a": input_specs(program)}))
    assert shape(program, "a/r") == (1, 9)
    assert shape(program, "a/places") is None


def test_models_of_one_program_take_its_sizes() -> None:
    apart = program_of(resizing(), "a")
    whole = joined([[("a", "x"), ("b", "x")]], a=resizing(), b=resizing())
    bind_to_frames(whole, both())
    take_sizes(apart, whole)
    assert shape(apart, "a/x") == (1, 3, HEIGHT, WIDTH)
    assert shape(apart, "a/wide") == (1, 4, HEIGHT, WIDTH)


def both() -> Frames:
    specs = {name: input_specs(program_of(resizing(), name)) for name in "ab"}
    return load_frames({"x": X}, specs)


def test_without_frames_the_user_tells_sizes() -> None:
    program = program_of(resizing())
    assert unknown_sizes(program) == ("a.x",)
    bind_to_shapes(program, {"x": (1, 3, 32, 16)})
    assert unknown_sizes(program) == ()
    assert told_sizes(program) == {("a", "x"): (1, 3, 32, 16)}
    assert shape(program, "a/wide", 2) == (2, 4, 32, 16)
    for name in ("a.x", "a/x"):
        again = program_of(resizing())
        bind_to_shapes(again, {name: (1, 3, 8, 8)})
        assert shape(again, "a/wide") == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"z": (1,)}, "names 'z', which is no input"),
        ({"x": (1, 3, 8)}, r"it takes \[N, 3, H, W\]"),
        ({"x": (1, 4, 8, 8)}, "cannot be 1x4x8x8"),
        ({"x": (1, 3, 8, 0)}, "cannot be 1x3x8x0"),
        ({"x": (1, 3, 1 << 20, 1 << 20)}, "elements"),
    ],
)
def test_sizes_that_fit_no_input_are_refused(sizes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        bind_to_shapes(program_of(resizing()), sizes)


def test_what_takes_too_much_of_sizes_that_are_told_is_refused() -> None:
    program = program_of(WIDENS.replace("N,2", "N,K"))
    with pytest.raises(ModelError, match="on inputs of the sizes given takes more than 64 MiB"):
        bind_to_shapes(program, {"x": (1, 2)}, ParseLimits(memory_nbytes=64 << 20))


def test_only_the_number_of_frames_free_needs_no_telling() -> None:
    net = Net()
    net.relu("x", out="y")
    program = program_of(net.model(x=("N", 3, 8, 8)))
    assert unknown_sizes(program) == () and told_sizes(program) == {}
