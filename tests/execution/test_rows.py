"""Rows of activations: where they are taken, and which frame they belong to."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.execution.rows import (
    RowMemory,
    positions_per_frame,
    sample_positions,
    value_rows,
)


@pytest.mark.parametrize("rows", [1, 8, 17, 40, 1000])
def test_sampled_positions_are_distinct_and_cover_the_image(rows: int) -> None:
    positions = sample_positions(8, 5, rows, seed=0)
    assert positions.shape == (8, min(5, -(-rows // 8)))
    assert all(len(set(frame)) == len(frame) for frame in positions.tolist())
    assert positions.min() >= 0 and positions.max() < 5
    np.testing.assert_array_equal(positions, sample_positions(8, 5, rows, seed=0))
    many = sample_positions(200, 5, 200, seed=0)
    assert set(many.reshape(-1).tolist()) == {0, 1, 2, 3, 4}


def test_rows_of_folded_frames_are_those_of_their_items() -> None:
    random = np.random.default_rng(0)
    tokens = random.standard_normal((6, 5, 4)).astype(np.float32)  # 2 frames of 3 windows of 5
    positions = sample_positions(2, 15, 14, seed=0)
    flat = tokens.reshape(2, 15, 4)
    wanted = np.concatenate([flat[frame, places] for frame, places in enumerate(positions)])
    np.testing.assert_array_equal(value_rows(tokens, positions, True), wanted)
    images = random.standard_normal((6, 3, 2, 2)).astype(np.float32)  # 2 frames of 3 images
    positions = sample_positions(2, 12, 14, seed=0)
    flat = images.reshape(2, 3, 3, 4).transpose(0, 1, 3, 2).reshape(2, 12, 3)
    wanted = np.concatenate([flat[frame, places] for frame, places in enumerate(positions)])
    np.testing.assert_array_equal(value_rows(images, positions, False), wanted)


@pytest.mark.parametrize(
    ("shape", "frames", "last", "count"),
    [
        ((4, 7, 3), 4, True, 7),
        ((12, 7, 3), 4, True, 21),
        ((7, 12, 3), 4, True, 21),
        ((4, 3, 5, 5), 4, False, 25),
        ((8, 3, 5, 5), 4, False, 50),
        ((4, 3), 4, True, 1),
        ((5, 3), 4, True, None),
        ((2, 3, 6, 6), 4, False, None),  # a map is never split among frames
        ((3,), 4, True, None),
        ((0, 3), 4, True, None),
        ((4, 3), 0, True, None),
    ],
)
def test_rows_per_frame(shape: tuple[int, ...], frames: int, last: bool, count: int | None) -> None:
    assert positions_per_frame(np.zeros(shape, np.float32), frames, last) == count


def test_row_memory_is_used_again_and_grows() -> None:
    memory = RowMemory()
    first = memory.rows(10, 1, 4)
    assert first.shape == (10, 1, 4)
    assert np.shares_memory(first, memory.rows(5, 2, 4))
    assert memory.rows(100, 3).shape == (100, 3)
