"""Ranges of values in 8 bits: what is tried, the grids, and that these are ONNX's."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from repsimc.compiler.fitting.ranges import (
    Range,
    grid_of,
    lost_share,
    ranges_worth_trying,
    rounded,
    wrong_range,
)


def normal(count: int = 20000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("ends", [(0.0, 6.0), (-1.3, 4.1), (-7.0, 0.0), (-1e-20, 1e-20)])
def test_a_grid_is_what_onnx_runtime_makes_of_it(ends: Range, signed: bool) -> None:
    grid = grid_of(ends, signed)
    zero = np.asarray(grid.zero, grid.code)
    constants = [
        numpy_helper.from_array(np.asarray(grid.scale, np.float32), "s"),
        numpy_helper.from_array(zero, "z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    given, made = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"])] for name in ("x", "y")
    )
    graph = helper.make_graph(nodes, "g", given, made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.concatenate([normal(500) * ends[1], normal(500) * 9, [0.0]]).astype(np.float32)
    (expected,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(rounded(x, grid), expected)
    assert rounded(np.zeros(1, np.float32), grid)[0] == 0.0


def test_the_widest_range_comes_first_and_goes_beyond_what_was_seen() -> None:
    sample = np.append(normal(), [40.0]).astype(np.float32)
    ends = float(sample.min()), float(sample.max())
    found = ranges_worth_trying(sample, ends, False)
    widths = [high - low for low, high in found]
    assert widths == sorted(widths, reverse=True) and len(found) > 2
    assert found[0] == (1.25 * ends[0], 1.25 * ends[1]) and ends in found
    assert all(low <= 0.0 <= high for low, high in found)
    assert min(widths) < 0.3 * (ends[1] - ends[0])  # the outlier is clipped


def test_what_a_clip_cuts_off_is_no_part_of_a_range() -> None:
    sample = np.clip(3 * np.abs(normal()), 0, 6)
    assert ranges_worth_trying(sample, (0.0, 6.0), False, 6.0)[0] == (0.0, 6.0)


def test_a_value_that_is_always_zero_has_no_range() -> None:
    assert ranges_worth_trying(np.zeros(9, np.float32), (0.0, 0.0), False) == []
    assert ranges_worth_trying(np.zeros(0, np.float32), (0.0, 0.0), True) == []


def test_zero_is_in_every_range_of_numbers_that_are_all_positive() -> None:
    sample = 5 + normal() / 100
    assert all(low == 0.0 for low, _ in ranges_worth_trying(sample, (4.9, 5.1), False))


@pytest.mark.parametrize(
    ("ends", "problem"),
    [
        ((-math.inf, 1.0), "not finite"),
        ((0.0, math.nan), "not finite"),
        ((1.0, 2.0), "leaves out 0"),
        ((2.0, -2.0), "leaves out 0"),
        ((0.0, 0.0), "one number"),
        ((-1e300, 1.0), "float32"),
    ],
)
def test_a_wrong_range_is_told(ends: Range, problem: str) -> None:
    assert problem in wrong_range(*ends)


def test_a_right_range_is_none_to_tell_of() -> None:
    assert wrong_range(-1.0, 2.0) == wrong_range(0.0, 1e-30) == wrong_range(-3, 0) == ""


def test_the_lost_share_of_an_output() -> None:
    x = normal(400).reshape(100, 4)
    assert lost_share([x], [x]) == 0.0
    assert lost_share([x + 1.0], [x]) == pytest.approx(1.0, rel=0.1)
    # Batches are one set of frames, one frame each too.
    assert lost_share(list((x + 1.0)[:, None]), list(x[:, None])) == pytest.approx(
        lost_share([x + 1.0], [x])
    )
    assert lost_share([x * np.inf], [x]) == math.inf
    assert lost_share([x[:, :2]], [x]) == math.inf
    assert lost_share([np.ones(3, np.int64)], [np.zeros(3, np.int64)]) == 0.0
