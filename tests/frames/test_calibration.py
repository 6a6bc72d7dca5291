"""Frames from every kind of source, preprocessing, streams, tied inputs, and labels."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.frames.calibration import (
    FrameOptions,
    Preprocessing,
    load_frames,
    load_labels,
)
from tests.frames.given_frames import ONE, UNIT, fed, floats, pixels, save_images, spec

# -- files of arrays -------------------------------------------------------------------------


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
    assert frames.tied_groups() == [[("a", "x"), ("b", "data")]]


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


def test_large_uncompressed_arrays_are_mapped_not_read(tmp_path):
    x = floats(40, (3, 100, 100))
    np.savez(tmp_path / "c.npz", pad=np.zeros(3), x=x)
    np.save(tmp_path / "c.npy", x)
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    inputs = {"a": [spec(shape=("N", 3, 100, 100))]}
    for name in ("c.npz", "c.npy", "f.npy"):
        frames = load_frames(tmp_path / name, inputs)
        assert isinstance(frames.sources["a", "x"].arrays[0], np.memmap)  # pyright: ignore
        np.testing.assert_array_equal(frames.feed("a", np.array([39, 0, 7]))["x"], x[[39, 0, 7]])


def test_fortran_order_and_big_endian_arrays(tmp_path):
    x = floats()
    np.savez_compressed(tmp_path / "c.npz", x=np.asfortranarray(x).astype(">f4"))
    np.testing.assert_array_equal(fed(load_frames(tmp_path / "c.npz", ONE)), x)


def test_npy_and_float64_and_fixed_batch_of_one(tmp_path):
    x = floats(dtype=np.float64)
    np.save(tmp_path / "c.npy", x)
    frames = load_frames(tmp_path / "c.npy", {"a": [spec(shape=(1, 3, 4, 4))]})
    assert frames.batch("a") == 1
    np.testing.assert_array_equal(fed(frames), x.astype(np.float32))


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_folder_of_files_of_one_or_more_frames(tmp_path, kind):
    x = floats(21)
    pieces = {"a": x[:10], "b": x[10], "c": x[11:]}  # b has no axis of frames: one frame
    for name, piece in pieces.items():
        if kind == "npy":
            np.save(tmp_path / f"{name}.npy", piece)
        else:
            np.savez(tmp_path / f"{name}.npz", x=piece, labels=np.arange(3))
    (tmp_path / ".hidden.npz").write_bytes(b"junk")
    frames = load_frames(tmp_path, ONE)
    np.testing.assert_array_equal(fed(frames), x)
    rows = np.array([20, 10, 3, 11, 3])
    np.testing.assert_array_equal(frames.feed("a", rows)["x"], x[rows])


def test_several_inputs_by_name(tmp_path):
    x, m = floats(), np.arange(20, dtype=np.int32)
    np.savez(tmp_path / "c.npz", x=x, mask=m)
    frames = load_frames(tmp_path / "c.npz", {"a": [spec(), spec("mask", ("N",), np.int64)]})
    fed_both = frames.feed("a", np.array([3, 1]))
    assert fed_both["mask"].dtype == np.int64
    np.testing.assert_array_equal(fed_both["mask"], [3, 1])
    np.testing.assert_array_equal(fed_both["x"], x[[3, 1]])


# -- arrays from Python ----------------------------------------------------------------------


def test_plain_array_and_arrays_by_input_name():
    x = floats()
    inputs = {"a": [spec()], "b": [spec()]}
    for calibration in (x, {"x": x}):
        frames = load_frames(calibration, inputs)
        assert frames.aligned("a", "b")
        assert frames.tied_groups() == [[("a", "x"), ("b", "x")]]


def test_arrays_by_model_are_separate_streams_unless_they_are_the_same():
    x, y = floats(), floats(30, seed=1)
    inputs = {"a": [spec()], "b": [spec()]}
    for calibration in ({"a": x, "b": y}, {"a/x": x, "b/x": y}, {"a": {"x": x}, "b": {"x": y}}):
        frames = load_frames(calibration, inputs)
        assert not frames.aligned("a", "b")
        assert (frames.count("a"), frames.count("b")) == (20, 30)
        assert frames.tied_groups() == []
    same = load_frames({"a": x, "b": x}, inputs)
    assert same.aligned("a", "b")
    said = load_frames({"a": x, "b": x + 1}, inputs, FrameOptions(same_frames=True))
    assert said.aligned("a", "b")
    assert said.tied_groups() == []  # the same frames, but not the same arrays


# -- streams and tied inputs ----------------------------------------------------------------


def test_a_path_per_model(tmp_path):
    np.savez(tmp_path / "a.npz", x=floats(20))
    np.savez(tmp_path / "b.npz", x=floats(20))
    np.savez(tmp_path / "c.npz", x=floats(20, seed=1))
    paths = {name: tmp_path / f"{name}.npz" for name in "abc"}
    inputs = {name: [spec()] for name in "abc"}
    apart = load_frames(paths, inputs)
    assert apart.streams == (("a",), ("b",), ("c",))
    assert apart.tied_groups() == []
    together = load_frames(paths, inputs, FrameOptions(same_frames=True))
    assert together.streams == (("a", "b", "c"),)
    # a.npz and b.npz have the same content, so one array can feed both
    assert together.tied_groups() == [[("a", "x"), ("b", "x")]]
    linked = tmp_path / "link.npz"
    linked.symlink_to(tmp_path / "a.npz")
    same_file = load_frames({"a": tmp_path / "a.npz", "b": linked}, {k: inputs[k] for k in "ab"})
    assert same_file.aligned("a", "b")


def test_models_of_one_stream_share_the_split(tmp_path):
    np.savez(tmp_path / "c.npz", x=floats(40), y=floats(40, (7,)))
    inputs = {"a": [spec()], "b": [spec("y", ("N", 7))]}
    frames = load_frames(tmp_path / "c.npz", inputs)
    np.testing.assert_array_equal(frames.fit_rows("a"), frames.fit_rows("b"))
    assert frames.tied_groups() == []


def test_different_batch_or_preprocessing_is_not_tied():
    inputs = {"a": [spec()], "b": [spec(shape=(1, 3, 4, 4))], "c": [spec()]}
    assert load_frames(floats(), inputs).tied_groups() == [[("a", "x"), ("c", "x")]]
    recipes = {"": UNIT, "c": Preprocessing(scale=2.0)}
    images = load_frames(pixels(), inputs, FrameOptions(preprocessing=recipes))
    assert images.tied_groups() == []
    assert images.aligned("a", "c")


def test_two_inputs_of_a_model_stay_apart():
    x = floats()
    inputs = {"a": [spec("l"), spec("r")], "b": [spec("l"), spec("r")]}
    groups = load_frames({"l": x, "r": x}, inputs).tied_groups()
    assert groups == [[("a", "l"), ("b", "l")], [("a", "r"), ("b", "r")]]


# -- images -----------------------------------------------------------------------------------


def test_image_folder_is_recursive_sorted_and_preprocessed(tmp_path):
    images = pixels(20)
    save_images(tmp_path / "f" / "one", images[:10])
    save_images(tmp_path / "f" / "two", images[10:], ".bmp")
    (tmp_path / "f" / "notes.txt").write_text("not a frame")
    (tmp_path / "f" / "loop").symlink_to(tmp_path / "f")
    recipe = Preprocessing(scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(1, 2, 4), colour="BGR")
    frames = load_frames(tmp_path / "f", ONE, FrameOptions(preprocessing={"a": recipe}))
    wanted = (images[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]
    assert fed(frames).dtype == np.float32
    np.testing.assert_allclose(fed(frames), wanted.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_one_frame_feeds_models_of_different_preprocessing(tmp_path):
    save_images(tmp_path, pixels(20, (8, 8, 3)))
    inputs = {
        "a": [spec("x", ("N", 3, 4, 4))],
        "b": [spec("y", (1, 6, 6, 3))],
        "c": [spec("z", ("N", 1, 8, 8))],
    }
    frames = load_frames(tmp_path, inputs, FrameOptions(preprocessing={"": UNIT}))
    assert frames.streams == (("a", "b", "c"),)
    assert fed(frames, "b", "y").shape == (20, 6, 6, 3)
    assert fed(frames, "c", "z").shape == (20, 1, 8, 8)


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


@pytest.mark.parametrize(
    ("resize", "corner", "middle"),
    [("stretch", 200, 50), ("crop", 50, 50), ("letterbox", 114, 50)],
)
def test_resize(tmp_path, resize, corner, middle):
    wide = np.full((8, 32, 3), 50, np.uint8)
    wide[:, :8] = 200
    save_images(tmp_path, [wide] * 17)
    recipe = Preprocessing(size=(8, 8), scale=1.0, resize=resize)
    frame = fed(
        load_frames(
            tmp_path, {"a": [spec(shape=("N", 3, 8, 8))]}, FrameOptions(preprocessing={"a": recipe})
        )
    )[0]
    assert frame[0, 0, 0] == corner
    assert frame[0, 4, 4] == middle


def test_a_very_long_image_does_not_grow_when_cropped(tmp_path):
    save_images(tmp_path, [np.full((1, 100_000, 3), 7, np.uint8)] * 17)
    recipe = Preprocessing(size=(4, 4), scale=1.0, resize="crop")
    frames = load_frames(tmp_path, ONE, FrameOptions(preprocessing={"a": recipe}))
    assert np.unique(frames.feed("a", np.arange(2))["x"]).tolist() == [7]


def test_images_of_one_size_need_no_size_where_the_model_takes_any(tmp_path):
    save_images(tmp_path, pixels(17, (5, 6, 3)))
    frames = load_frames(
        tmp_path, {"a": [spec(shape=("N", 3, "H", "W"))]}, FrameOptions(preprocessing={"": UNIT})
    )
    assert fed(frames).shape == (17, 3, 5, 6)


# -- scripts -----------------------------------------------------------------------------------

SCRIPT = """
import numpy as np
from beside import SHAPE
def load_data():
    for i in range(100):
        yield {"x": np.full(SHAPE, i, np.float32)}
"""


def test_script_runs_only_when_allowed(tmp_path):
    (tmp_path / "beside.py").write_text("SHAPE = (1, 3, 4, 4)")
    (tmp_path / "frames.py").write_text(SCRIPT)
    frames = load_frames(tmp_path / "frames.py", ONE, FrameOptions(allow_script=True))
    assert fed(frames)[:, 0, 0, 0].tolist() == list(range(100))
    few = load_frames(tmp_path / "frames.py", ONE, FrameOptions(allow_script=True, limit=20))
    assert few.count("a") == 20


# -- labels -------------------------------------------------------------------------------------


def test_labels(tmp_path):
    np.savez(tmp_path / "0.npz", x=floats(), digit=np.arange(20, dtype=np.uint8)[:, None])
    np.savez(tmp_path / "1.npz", x=floats(), digit=np.arange(20, 25, dtype=np.int16))
    assert load_labels(tmp_path / "0.npz", "digit").tolist() == list(range(20))
    labels = load_labels(tmp_path, "digit")
    assert labels.dtype == np.int64
    assert labels.tolist() == list(range(25))


# -- the preprocessing itself -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"size": [0, 4]}, "height, width"),
        ({"size": "224"}, "finite numbers"),
        ({"layout": "CHW"}, "NCHW"),
        ({"colour": "rgb"}, "BGR"),
        ({"scale": 0}, "multiplied"),
        ({"scale": float("nan")}, "finite"),
        ({"mean": [1, 2]}, "one per channel"),
        ({"std": [1, 0, 1]}, "one per channel"),
        ({"resize": "squeeze"}, "letterbox"),
        ({"array": 3}, "name of an array"),
    ],
)
def test_preprocessing_refuses_nonsense(fields, says):
    with pytest.raises(UsageError, match=says):
        Preprocessing(**fields)


def test_preprocessing_takes_what_toml_gives():
    read = Preprocessing(size=[4, 8], mean=0.5, std=[1, 2, 3], scale=1)  # pyright: ignore
    assert (read.size, read.mean, read.std) == ((4, 8), (0.5,), (1.0, 2.0, 3.0))
    assert hash(read)
