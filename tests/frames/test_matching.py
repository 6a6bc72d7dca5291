"""Which array feeds which input, and arrays that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from repsimc.compiler.frames.calibration import FrameOptions, load_frames
from repsimc.compiler.frames.preprocessing import Preprocessing
from repsimc.compiler.frames.tying import tied_groups
from tests.frames.given_frames import (
    ONE,
    PAIR,
    PIXELS,
    UNIT,
    Case,
    X,
    check_refused,
    fed,
    floats,
    folder,
    images,
    npy,
    npz,
    pixels,
    save_images,
    spec,
)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_input_name_ignores_labels(tmp_path, save):
    x = floats()
    save(tmp_path / "c.npz", x=x, other=x + 1, labels=np.arange(20))
    frames = load_frames(tmp_path / "c.npz", ONE)
    np.testing.assert_array_equal(fed(frames), x)
    assert fed(frames).dtype == np.float32


def test_npz_with_one_usable_array_feeds_every_model(tmp_path):
    x = floats()
    np.savez(tmp_path / "c.npz", frames=x, labels=np.arange(20), names=np.array(["a"] * 20))
    inputs = {"a": [spec("x")], "b": [spec("data")]}
    frames = load_frames(tmp_path / "c.npz", inputs)
    np.testing.assert_array_equal(fed(frames, "b", "data"), x)
    assert frames.streams == (("a", "b"),)
    assert tied_groups(frames) == [[("a", "x"), ("b", "data")]]


def test_labels_named_like_a_model_are_not_its_frames(tmp_path):
    x = floats()
    np.savez(tmp_path / "c.npz", a=np.arange(20), b=np.arange(20), x=x)
    frames = load_frames(tmp_path / "c.npz", {"a": [spec()], "b": [spec()]})
    for model in ("a", "b"):
        np.testing.assert_array_equal(fed(frames, model), x)
    assert frames.streams == (("a", "b"),)


def test_frames_named_like_a_model_come_before_those_of_its_input(tmp_path):
    own, x = floats(seed=1), floats()
    np.savez(tmp_path / "c.npz", a=own, x=x)
    frames = load_frames(tmp_path / "c.npz", {"a": [spec()], "b": [spec()]})
    np.testing.assert_array_equal(fed(frames, "a"), own)
    np.testing.assert_array_equal(fed(frames, "b"), x)


def test_pixels_named_like_a_model_are_its_frames_where_there_is_a_recipe(tmp_path):
    own, x = pixels(), floats()
    np.savez(tmp_path / "c.npz", a=own, x=x)
    frames = load_frames(tmp_path / "c.npz", ONE, FrameOptions(preprocessing={"a": UNIT}))
    np.testing.assert_array_equal(fed(frames), own.transpose(0, 3, 1, 2).astype(np.float32))
    # Without one only the array that fits is taken.
    np.testing.assert_array_equal(fed(load_frames(tmp_path / "c.npz", ONE)), x)


def test_several_inputs_by_name(tmp_path):
    x, m = floats(), np.arange(20, dtype=np.int32)
    np.savez(tmp_path / "c.npz", x=x, mask=m)
    frames = load_frames(tmp_path / "c.npz", {"a": [spec(), spec("mask", ("N",), np.int64)]})
    fed_both = frames.feed("a", np.array([3, 1]))
    assert fed_both["mask"].dtype == np.int64
    np.testing.assert_array_equal(fed_both["mask"], [3, 1])
    np.testing.assert_array_equal(fed_both["x"], x[[3, 1]])


def test_images_in_an_npz(tmp_path):
    images = pixels(20)
    np.savez(tmp_path / "c.npz", images=images, labels=np.arange(20))
    recipe = Preprocessing(scale=1 / 255, array="images")
    frames = load_frames(tmp_path / "c.npz", ONE, FrameOptions(preprocessing={"a": recipe}))
    wanted = (images.astype(np.float32) * np.float32(1 / 255)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(fed(frames), wanted)
    np.savez(tmp_path / "g.npz", images=images[..., 0])  # grey, without an axis of channels
    gray = load_frames(
        tmp_path / "g.npz",
        {"a": [spec(shape=("N", 1, 4, 4))]},
        FrameOptions(preprocessing={"": UNIT}),
    )
    np.testing.assert_array_equal(fed(gray)[:, 0], images[..., 0])


def test_float_frames_are_not_preprocessed_again(tmp_path):
    np.savez(tmp_path / "c.npz", x=floats())
    frames = load_frames(
        tmp_path / "c.npz", ONE, FrameOptions(preprocessing={"a": Preprocessing(scale=9.0)})
    )
    np.testing.assert_array_equal(fed(frames), floats())


def test_uint8_inputs_take_pixels_without_a_scale(tmp_path):
    images = pixels()
    save_images(tmp_path, images)
    inputs = {"a": [spec(shape=("N", 4, 4, 3), dtype=np.uint8)]}
    np.testing.assert_array_equal(fed(load_frames(tmp_path, inputs)), images)
    np.testing.assert_array_equal(fed(load_frames(images, inputs)), images)


def npy_folder(path: Path, *arrays: np.ndarray) -> Path:
    for index, array in enumerate(arrays):
        np.save(path / f"{index}.npy", array)
    return path


def with_value(value: float, frame: int = 7) -> np.ndarray:
    x = X.copy()
    x[frame, 1, 2, 3] = value
    return x


H = replace(spec("h", (1, "K")), state=True)

CASES = {
    "wrong key": Case(
        lambda p: npz(p, frame=X[:, :1], labels=np.arange(20)),
        ("no array 'x'", "model 'a'", "float32 [N, 3, 4, 4]", "'frame' float32 [20, 1, 4, 4]"),
    ),
    "two that fit": Case(lambda p: npz(p, p=X, q=X), ("'p' and 'q' would fit", "'a/x'")),
    "one for two inputs": Case(
        lambda p: npz(p, x=X), ("no array 'y'", "each input needs its own", "'a/y'"), PAIR
    ),
    "nameless for two inputs": Case(lambda p: npy(p, X), ("without a name", "(x, y)"), PAIR),
    "wrong shape": Case(
        lambda p: npz(p, x=X[..., :3]),
        ("array 'x' of", "float32 [20, 3, 4, 3]", "takes float32 [N, 3, 4, 4]"),
    ),
    "wrong rank": Case(lambda p: npy(p, X[:, 0, 0]), ("float32 [20, 4]", "[N, 3, 4, 4]")),
    "no frames": Case(lambda p: npy(p, X[:0]), ("holds no frames",)),
    "integers": Case(
        lambda p: npz(p, x=X.astype(np.int32)), ("int32", "not turned into float32", "scaled")
    ),
    "floats for integers": Case(
        lambda p: npz(p, x=X), ("not turned into int64",), {"a": [spec(dtype=np.int64)]}
    ),
    "strings": Case(lambda p: npz(p, x=np.array(["a", "b"])), ("<U1 [2]", "no frames", "numeric")),
    "complex": Case(lambda p: npy(p, X.astype(np.complex64)), ("complex64", "no frames")),
    "records": Case(lambda p: npy(p, np.zeros(3, "f4,f4")), ("no frames", "numeric")),
    "pixels without preprocessing": Case(
        lambda p: npz(p, images=PIXELS, labels=np.arange(20)),
        ("no array 'x'", "uint8 images 'images'", "[preprocess.a]", 'array = "images"', "scale ="),
    ),
    "pixels by input name": Case(lambda p: npz(p, x=PIXELS), ("uint8", 'array = "x"', "size = [4")),
    "frames for a scalar": Case(
        lambda p: npy(p, X), ("float32 []", "no axis of it counts"), {"a": [spec(shape=())]}
    ),
    "a scalar that is missing": Case(
        lambda p: npz(p, x=X), ("no array 'sr'", "sr=x"), {"a": [spec(), spec("sr", (), np.int64)]}
    ),
    "nothing but constants": Case(
        lambda p: npz(p, x=np.float32(3)), ("there are no frames",), {"a": [spec(shape=())]}
    ),
    "a state of no known size": Case(
        lambda p: npz(p, x=X), ("leave out the state 'h'", "'h' of one frame"), {"a": [spec(), H]}
    ),
    "NaN": Case(lambda p: npz(p, x=with_value(np.nan)), ("frame 7", "array 'x'", "c.npz", "NaN")),
    "infinity": Case(lambda p: npy(p, with_value(np.inf)), ("frame 7", "c.npy", "infinity")),
    "infinity before NaN": Case(
        lambda p: npy(p, np.concatenate([with_value(-np.inf), with_value(np.nan, 0)])),
        ("frame 7", "infinity"),
    ),
    "NaN in a folder": Case(
        lambda p: folder(p, a={"x": X}, b={"x": with_value(np.nan, 2)}), ("frame 2", "b.npz", "NaN")
    ),
    "NaN from Python": Case(lambda p: with_value(np.nan), ("frame 7", "calibration array", "NaN")),
    "too large for float16": Case(
        lambda p: npy(p, with_value(1e6)),
        ("frame 7", "too large for float16"),
        {"a": [spec(dtype=np.float16)]},
    ),
    "too large for uint8": Case(
        lambda p: npz(p, x=np.full((20, 2), 300)),
        ("frame 0", "outside uint8"),
        {"a": [spec(shape=("N", 2), dtype=np.uint8)]},
    ),
    "frames of a batch differ in size": Case(
        lambda p: npy_folder(p, X[:5], X[:15, :, :2]),
        ("2 frames at a time", "frames 4 to 5", "differ in size"),
        {"a": [spec(shape=(2, 3, "H", "W"))]},
    ),
    "a file without the key": Case(
        lambda p: folder(p, a={"x": X}, b={"x": X}, c={"z": X}), ("c.npz has no array 'x'",)
    ),
    "images for two inputs": Case(lambda p: images(p), ("2 inputs (x, y)", ".npz"), PAIR),
    "named array is missing": Case(
        lambda p: npz(p, pictures=PIXELS),
        ("no array 'images'", "[preprocess.a]", "'pictures' uint8 [20, 4, 4, 3]"),
        options={"preprocessing": {"a": Preprocessing(scale=1.0, array="images")}},
    ),
    "named array holds no pixels": Case(
        lambda p: npz(p, images=X),
        ("array 'images'", "float32 [20, 3, 4, 4]", "uint8 [n, height, width, 3]"),
        options={"preprocessing": {"a": Preprocessing(scale=1.0, array="images")}},
    ),
}


def test_frames_of_several_sizes_run_by_size(tmp_path):
    inputs = {"a": [spec(shape=("N", 3, "H", "W"))], "b": [spec("y", ("N", 7))]}
    small, large = floats(10, (3, 2, 4)), floats(14)
    y = floats(24, (7,))
    pieces = [large[:4], small, large[4:]]
    for index, piece in enumerate(pieces):
        start = sum(map(len, pieces[:index]))
        np.savez(tmp_path / f"{index}.npz", x=piece, y=y[start : start + len(piece)])
    for calibration in (tmp_path, {"x": pieces, "y": y}):
        frames = load_frames(calibration, inputs)
        parts = frames.alike(["a", "b"], np.arange(24))
        assert [part.tolist() for part in parts] == [
            [*range(4), *range(14, 24)],
            list(range(4, 14)),
        ]
        np.testing.assert_array_equal(frames.feed("a", parts[0])["x"], large)
        np.testing.assert_array_equal(frames.feed("a", parts[1])["x"], small)
        np.testing.assert_array_equal(frames.feed("b", parts[1])["y"], y[4:14])
        assert len(frames.fit_rows("a")) + len(frames.held_out_rows("a")) == 24
    assert frames.fingerprint() != load_frames({"x": pieces[::-1], "y": y}, inputs).fingerprint()


def test_scalars_and_constants_are_given_once_or_per_frame(tmp_path):
    anchors = replace(spec("anchors", (5, 4)), frame_axis=None)
    inputs = {"a": [spec(), spec("sr", (), np.int64), anchors]}
    fixed = floats(5, (4,), seed=1)
    once = load_frames({"x": X, "sr": 16000, "anchors": fixed}, inputs)
    fed_once = once.feed("a", np.arange(6))
    assert fed_once["sr"].shape == () and fed_once["sr"].dtype == np.int64
    np.testing.assert_array_equal(fed_once["anchors"], fixed)
    assert once.constants() == [("a", "sr"), ("a", "anchors")]
    rates = np.array([8000, 16000] * 10)
    np.savez(tmp_path / "c.npz", x=X, sr=rates, anchors=np.stack([fixed] * 20))
    each = load_frames(tmp_path / "c.npz", inputs)
    parts = each.alike(["a"], np.arange(20))
    assert [part.tolist() for part in parts] == [[*range(0, 20, 2)], [*range(1, 20, 2)]]
    assert [int(each.feed("a", part)["sr"]) for part in parts] == [8000, 16000]
    assert each.constants() == [("a", "anchors")]


def test_states_are_zeros_where_they_are_left_out_and_lie_on_their_own_axis():
    state = replace(spec("h", (2, "batch", 8)), frame_axis=1, state=True)
    inputs = {"a": [spec(shape=("batch", 3, 4, 4)), state]}
    for calibration in (X, {"x": X}):
        frames = load_frames(calibration, inputs)
        fed = frames.feed("a", np.arange(3))
        assert fed["h"].shape == (2, 3, 8) and not fed["h"].any()
        assert frames.left_out() == frames.still_states() == [("a", "h")]
    h = floats(2, (20, 8))
    for given, moves in ((h, True), (np.moveaxis(h, 1, 0), True), (h[:, 0], False)):
        frames = load_frames({"x": X, "h": given}, inputs)
        wanted = h[:, 5:8] if moves else np.stack([h[:, 0]] * 3, axis=1)
        np.testing.assert_array_equal(frames.feed("a", np.arange(5, 8))["h"], wanted)
        assert frames.left_out() == []
        assert bool(frames.still_states()) != moves


@pytest.mark.parametrize("name", CASES)
def test_refusal(name: str, tmp_path: Path):
    check_refused(CASES[name], tmp_path)
