"""Folders of images: found, decoded, resized, and bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repsimc.compiler.errors import DataError
from repsimc.compiler.frames.calibration import FrameOptions, load_frames
from repsimc.compiler.frames.preprocessing import Preprocessing
from tests.frames.given_frames import (
    ONE,
    UNIT,
    Case,
    bad_image,
    check_refused,
    fed,
    images,
    pixels,
    save_images,
    spec,
)


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


@pytest.mark.parametrize(
    ("recipe", "shapes"),
    [
        (UNIT, [(3, 5, 6), (3, 9, 4), (3, 1, 12)]),
        (Preprocessing(scale=1.0, multiple=4), [(3, 4, 8), (3, 8, 4), (3, 4, 12)]),
        (Preprocessing(scale=1.0, size=(4, 4)), [(3, 4, 4)] * 3),
    ],
)
def test_images_of_several_sizes(tmp_path, recipe, shapes):
    made = [pixels(1, size)[0] for size in ((5, 6, 3), (9, 4, 3), (1, 12, 3))] * 6
    save_images(tmp_path / "f", made)
    (tmp_path / "arrays").mkdir()
    for index, image in enumerate(made):
        np.savez(tmp_path / "arrays" / f"{index:02}.npz", x=image[None])
    inputs = {"a": [spec(shape=("N", 3, "H", "W"))]}
    for path in (tmp_path / "f", tmp_path / "arrays"):
        frames = load_frames(path, inputs, FrameOptions(preprocessing={"": recipe}))
        found = frames.alike(["a"], np.arange(18))
        assert len(found) == len(set(shapes))
        for row, shape in enumerate(shapes):
            part = next(part for part in found if row in part)
            fed = frames.feed("a", part)["x"]
            assert fed.shape == (18 // len(found), *shape)
            if recipe is UNIT:
                np.testing.assert_array_equal(fed[0], made[row].transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images_are_turned_upright(tmp_path, orientation, suffix):
    upright = np.zeros((8, 24, 3), np.uint8)
    upright[:, :8, 0] = upright[:4, :, 1] = 255  # red on the left, green above
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for index in range(17):
        image = Image.fromarray(np.ascontiguousarray(stored))
        image.save(tmp_path / f"{index:02}{suffix}", exif=exif, quality=100)
    inputs = {"a": [spec(shape=("N", 3, "H", "W"))]}
    frames = load_frames(tmp_path, inputs, FrameOptions(preprocessing={"": UNIT}))
    fed = frames.feed("a", np.arange(1))["x"][0].transpose(1, 2, 0)
    assert fed.shape == (8, 24, 3)
    np.testing.assert_allclose(fed[:, :, :2] > 127, upright[:, :, :2] > 127)


def test_images_of_other_modes_are_what_is_seen(tmp_path):
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    modes = [red, red.convert("RGBA"), red.convert("P"), red.convert("CMYK")]
    for index in range(17):
        mode = modes[index % 4]
        mode.save(tmp_path / f"{index:02}.{'jpg' if mode.mode == 'CMYK' else 'png'}", quality=100)
    see_through = red.convert("P")
    see_through.save(tmp_path / "17.png", transparency=b"\x00\x80")
    Image.new("L", (4, 4), 200).save(tmp_path / "18.png")
    frames = load_frames(tmp_path, ONE, FrameOptions(preprocessing={"": UNIT}))
    fed = frames.feed("a", np.arange(19))["x"]
    wanted = np.broadcast_to(np.array([200, 0, 0])[:, None, None], (18, 3, 4, 4))
    np.testing.assert_allclose(fed[:18], wanted, atol=5)
    assert (fed[18] == 200).all()


CASES = {
    "an image of another fixed side": Case(
        lambda p: (images(p, 20), images(p, 1, (5, 6)))[0],
        ("000.png comes to [3, 5, 6]", "float32 [N, 3, 4, W]", "size ="),
        {"a": [spec(shape=("N", 3, 4, "W"))]},
        {"preprocessing": {"": UNIT}},
    ),
    "image of zero bytes": Case(
        lambda p: bad_image(p, b""), ("016.png is empty",), options={"preprocessing": {"": UNIT}}
    ),
    "text called png": Case(
        lambda p: bad_image(p, b"hello"),
        ("016.png", "decoded"),
        options={"preprocessing": {"": UNIT}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refusal(name: str, tmp_path: Path):
    check_refused(CASES[name], tmp_path)


def test_an_image_above_the_pixel_limit_is_refused(tmp_path, monkeypatch):
    images(tmp_path, size=(10, 10))
    for limit in (99, 10):  # below 100 pixels Pillow warns, below 50 it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=rf"000\.png has more pixels than.* {limit}"):
            load_frames(tmp_path, ONE, FrameOptions(preprocessing={"": UNIT}))


def test_pixels_deeper_than_8_bits_are_refused(tmp_path):
    images(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has pixels of mode I"):
        load_frames(tmp_path, ONE, FrameOptions(preprocessing={"": UNIT}))


def test_a_truncated_image_is_named_when_it_is_decoded(tmp_path):
    bad_image(tmp_path, lambda content: content[: len(content) // 2])
    inputs = {"a": [spec(shape=("N", 3, 64, 64))]}
    said = r"016\.png can't be decoded.*truncated"
    with pytest.raises(DataError, match=said):  # a split looks at every frame
        load_frames(tmp_path, inputs, FrameOptions(preprocessing={"": UNIT}))
    frames = load_frames(tmp_path, inputs, FrameOptions(preprocessing={"": UNIT}, held_out=None))
    with pytest.raises(DataError, match=said):
        frames.feed("a", np.array([3, 16]))
