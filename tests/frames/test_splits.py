"""The split of frames for fitting and held-out frames, limits and fingerprints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.compiler.frames.calibration import FrameOptions, load_frames
from repsimc.compiler.frames.splits import MIN_FIT_FRAMES
from tests.frames.given_frames import ONE, Case, X, all_rows, check_refused, floats, npz, spec
from tests.nets.networks import Array


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(17, 200),
    batch=st.sampled_from([None, 1, 2, 5, 8]),
    seed=st.integers(0, 1000),
    share=st.floats(0.01, 0.99),
)
def test_split_is_disjoint_complete_and_deterministic(count, batch, seed, share):
    x = np.arange(count, dtype=np.float32)[:, None]
    inputs = {"a": [spec(shape=(batch or "N", 1))]}
    unit = batch or 1
    if count < (-(-MIN_FIT_FRAMES // unit) + 1) * unit:
        return

    def load(seed=seed):
        return load_frames(x, inputs, FrameOptions(seed=seed, held_out=share))

    frames = load()
    fit, held_out = frames.fit_rows("a"), frames.held_out_rows("a")
    assert not set(fit) & set(held_out)
    assert all_rows(frames, "a").tolist() == list(range(count - count % unit))
    assert len(fit) >= MIN_FIT_FRAMES
    assert len(held_out) >= unit
    for rows in (fit, held_out):
        assert rows.dtype == np.int64
        assert len(rows) % unit == 0
        blocks = rows.reshape(-1, unit)
        assert (blocks[:, 0] % unit == 0).all()  # whole batches stay together, in order
        assert (np.diff(blocks, axis=1) == 1).all()
    np.testing.assert_array_equal(load().fit_rows("a"), fit)
    assert load().fingerprint() == frames.fingerprint()


def test_split_depends_on_the_seed():
    first, second = (load_frames(floats(60), ONE, FrameOptions(seed=seed)) for seed in (0, 1))
    assert set(first.held_out_rows("a")) != set(second.held_out_rows("a"))
    assert len(first.held_out_rows("a")) == len(second.held_out_rows("a")) == 15
    assert first.fingerprint() != second.fingerprint()


def test_fixed_batches_of_a_stream_are_cut_to_a_common_multiple():
    inputs = {"a": [spec(shape=(4, 3, 4, 4))], "b": [spec(shape=(6, 3, 4, 4))]}
    frames = load_frames(floats(50), inputs)
    assert frames.count("a") == frames.count("b") == 48
    assert len(frames.held_out_rows("a")) == 12
    with pytest.raises(ValueError, match="4 rows at a time"):
        frames.feed("a", np.arange(6))


def test_for_verification_all_frames_are_held_out_in_order():
    frames = load_frames(floats(3), ONE, FrameOptions(held_out=None))
    assert frames.held_out_rows("a").tolist() == [0, 1, 2]
    assert len(frames.fit_rows("a")) == 0
    some = load_frames(floats(50), ONE, FrameOptions(held_out=None, limit=5))
    rows = some.held_out_rows("a")
    assert len(rows) == 5
    assert (np.diff(rows) > 0).all()


def test_limit_draws_from_all_frames():
    frames = load_frames(floats(200), ONE, FrameOptions(limit=40))
    assert frames.count("a") == 40
    assert len(frames.fit_rows("a")) == 30
    assert all_rows(frames, "a").max() > 100


def sides(x: Array, batch: int | None = None) -> tuple[set[int], set[int]]:
    frames = load_frames(x, {"a": [spec(shape=(batch or "N", *x.shape[1:]))]})
    return set(frames.fit_rows("a").tolist()), set(frames.held_out_rows("a").tolist())


def test_frames_of_one_scene_are_on_one_side() -> None:
    random = np.random.default_rng(0)
    scene = random.permutation(np.repeat(np.arange(10), 20))
    shots = random.normal(size=(10, 3, 8, 8))[scene] + 0.01 * random.normal(size=(200, 3, 8, 8))
    fit, held_out = sides(shots.astype(np.float32))
    assert {int(scene[k]) for k in fit}.isdisjoint(int(scene[k]) for k in held_out)
    assert (len(fit), len(held_out)) == (160, 40)  # a third scene would be too much


def test_a_film_is_held_out_by_runs() -> None:
    film = np.cumsum(np.random.default_rng(0).normal(size=(800, 3, 4, 4)), axis=0)
    _, held_out = sides(film.astype(np.float32))
    assert len(held_out) == 200
    assert sum(k + 1 not in held_out for k in held_out) <= 10  # runs of 20
    assert max(held_out) - min(held_out) > 300


def test_frames_of_their_own_lose_nothing() -> None:
    for count, held in ((60, 15), (2000, 500), (333, 83)):
        assert len(sides(floats(count))[1]) == held


def test_copies_of_one_frame_can_still_be_split() -> None:
    fit, held_out = sides(np.ones((40, 3, 4, 4), np.float32), batch=4)
    assert (len(fit), len(held_out)) == (32, 8) and not fit & held_out


def test_a_prefix_of_the_fit_frames_is_a_sample_of_all() -> None:
    frames = load_frames(floats(1000), ONE)
    first = frames.fit_rows("a")[:100]
    assert first.min() < 100 and first.max() > 900 and 400 < first.mean() < 600


def test_scenes_are_known_of_rows_that_were_looked_at() -> None:
    frames = load_frames(np.ones((40, 3, 4, 4), np.float32), ONE)
    assert len(frames.scenes_held_out("a")) == 10  # no frame tells more than the first
    assert frames.scenes_of("a", frames.rows("a")) is not None
    verified = load_frames(floats(9), ONE, FrameOptions(held_out=None))
    assert verified.scenes_of("a", verified.rows("a")) is None
    assert verified.scenes_held_out("a").tolist() == list(range(9))


CASES = {
    "too few frames": Case(
        lambda p: npz(p, x=X[:5]), ("there are 5 frames", "c.npz", "17 (16 to fit on, 1 held out)")
    ),
    "too few batches": Case(
        lambda p: npz(p, x=X), ("24 (16 to fit on, 8 held out)",), {"a": [spec(shape=(8, 3, 4, 4))]}
    ),
    "too low a limit": Case(
        lambda p: npz(p, x=X), ("limit of 10 frames", "17"), options={"limit": 10}
    ),
    "not a whole batch to verify": Case(
        lambda p: npz(p, x=X),
        ("there are 20 frames", "at least 32", "batches of 32"),
        {"a": [spec(shape=(32, 3, 4, 4))]},
        {"held_out": None},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refusal(name: str, tmp_path: Path):
    check_refused(CASES[name], tmp_path)
