"""Frames that are alike are found, wherever they lie."""

from __future__ import annotations

import numpy as np

from repsimc.compiler.frames.scenes import SmallFrames, merged
from tests.nets.networks import Array


def scenes(*arrays: Array, most: int = 1000, run: int = 1000, batch: int = 7) -> list[int]:
    small = SmallFrames()
    for start in range(0, len(arrays[0]), batch):
        small.add([array[start : start + batch] for array in arrays])
    return small.scenes(most, run).tolist()


def pictures(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 3, 20, 20)).astype(np.float32)


def test_frames_of_their_own_stay_apart() -> None:
    assert scenes(pictures(30)) == list(range(30))
    pixels = np.random.default_rng(0).integers(0, 256, (30, 24, 24, 3), np.uint8)
    assert scenes(pixels) == list(range(30))


def test_copies_with_noise_are_one_scene_in_any_order() -> None:
    owner = np.random.default_rng(1).permutation(np.repeat(np.arange(5), 6))
    frames = pictures(5)[owner] + 0.02 * pictures(30, 2)
    found = scenes(frames.astype(np.float32))
    first = {int(own): index for index, own in reversed(list(enumerate(owner)))}
    assert found == [first[int(own)] for own in owner]


def test_a_long_scene_is_cut_into_runs() -> None:
    frames = np.ones((10, 4), np.float32)
    assert scenes(frames, most=9, run=4) == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert scenes(frames, most=10, run=4) == [0] * 10


def test_tokens_are_alike_only_where_they_are_equal() -> None:
    tokens = np.array([[1, 2], [2, 1], [1, 2], [1, 3]])
    assert scenes(tokens) == [0, 1, 0, 3]
    # What else a model is fed counts as well.
    other = np.array([[0.0], [0.0], [9.0], [0.0]], np.float32)
    assert scenes(tokens, other) == [0, 1, 2, 3]


def test_every_input_counts_however_small_its_numbers() -> None:
    large = 1000 * pictures(2).repeat(3, 0)
    small = 1e-3 * np.array([[1], [2], [1], [1], [2], [1]], np.float32)
    assert scenes(large, small) == [0, 1, 0, 3, 4, 3]


def test_many_frames_are_held_against_those_near_them() -> None:
    frames = np.arange(6100, dtype=np.float32)[:, None] // 2
    frames[-1] = 0
    found = scenes(1e3 * np.hstack([np.sin(frames * k) for k in (1, 3, 7, 11, 17)]), batch=1000)
    assert found[:6] == [0, 0, 2, 2, 4, 4]


def test_batches_that_share_a_scene_are_one() -> None:
    scene_of = np.array([0, 1, 2, 3, 3, 5, 6, 7])
    assert merged(scene_of, 1).tolist() == [0, 1, 2, 3, 3, 5, 6, 7]
    assert merged(scene_of, 2).tolist() == [0, 1, 1, 3]
    assert merged(scene_of, 4).tolist() == [0, 0]


def crops(pictures: int, rounds: int) -> Array:
    """A crop of each picture, then another of each, and so on; no two crops show the same part."""
    random = np.random.default_rng(3)
    skies = random.normal(size=(pictures, 3, 1, 1))
    noise = random.normal(size=(rounds, pictures, 3, 8, 8))
    return (skies + 0.7 * noise).reshape(-1, 3, 8, 8).astype(np.float32)


def test_crops_of_one_picture_are_a_scene_where_the_set_goes_round_them() -> None:
    found = scenes(crops(20, 3))
    assert found == [row % 20 for row in range(60)]
    # The last round may be short.
    assert scenes(crops(20, 3)[:50]) == [row % 20 for row in range(50)]


def test_frames_in_any_other_order_go_round_nothing() -> None:
    frames = crops(20, 3)
    mixed = frames[np.random.default_rng(0).permutation(60)]
    assert scenes(mixed) == list(range(60))
    # A film that moves on slowly is near to itself at every small distance.
    film = np.cumsum(np.random.default_rng(1).normal(size=(60, 3, 8, 8)), axis=0)
    assert scenes(film.astype(np.float32), most=60) == scenes(film.astype(np.float32))
    assert len(set(scenes(film.astype(np.float32)))) > 20
    # Two cameras in turn, say, tell more than two things.
    assert len(set(scenes(crops(2, 30)))) == 60
    assert scenes(crops(8, 2)) == list(range(16))  # too few to tell
