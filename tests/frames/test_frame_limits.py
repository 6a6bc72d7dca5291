"""What untrusted frames may cost: memory is bounded, nothing is run; and labels that are none."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repsimc.compiler.errors import DataError
from repsimc.compiler.frames import array_files
from repsimc.compiler.frames.calibration import FrameOptions, load_frames, load_labels
from tests.frames.test_bad_frames import (
    ONE,
    UNIT,
    X,
    archive,
    bad_image,
    folder,
    header,
    images,
    npy,
    npz,
    packed,
    script,
    spec,
)

# -- bounded memory -----------------------------------------------------------------------------


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "MAX_DECODED_NBYTES", 1 << 20)
    path = packed(tmp_path, x=np.zeros((20000, 3, 4, 4), np.float32))
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(array_files, "_filled", None)  # nothing may be unpacked
    with pytest.raises(DataError, match=r"unpacks to 3\.66 MiB.*at most 1 MiB"):
        load_frames(path, ONE)


def test_the_limit_counts_all_files_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "MAX_DECODED_NBYTES", 2 * X.nbytes)
    folder(tmp_path, a={"x": X}, b={"x": X}, c={"x": X})
    with pytest.raises(DataError, match=r"c\.npz unpacks to .* after .* of other frames"):
        load_frames(tmp_path, ONE)


def test_a_header_that_promises_more_than_the_archive_declares(tmp_path):
    path = archive(tmp_path, "x.npy", header((1 << 40, 3, 4, 4)), zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="truncated"):
        load_frames(path, ONE)


def test_an_endless_script_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "MAX_DECODED_NBYTES", 1 << 20)
    path = script(tmp_path, "def load_data():\n  while True: yield {'x': np.ones((9, 3, 4, 4))}")
    with pytest.raises(DataError, match=r"item \d+ of load_data.*unpacks"):
        load_frames(path, ONE, FrameOptions(allow_script=True))


def test_an_image_above_the_pixel_limit_is_refused(tmp_path, monkeypatch):
    images(tmp_path, size=(10, 10))
    for limit in (99, 10):  # below 100 pixels Pillow warns, below 50 it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=rf"000\.png has more pixels than.* {limit}"):
            load_frames(tmp_path, ONE, FrameOptions(preprocessing=UNIT))


def test_pixels_deeper_than_8_bits_are_refused(tmp_path):
    images(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has pixels of mode I"):
        load_frames(tmp_path, ONE, FrameOptions(preprocessing=UNIT))


def test_a_truncated_image_is_named_when_it_is_decoded(tmp_path):
    bad_image(tmp_path, lambda content: content[: len(content) // 2])
    inputs = {"a": [spec(shape=("N", 3, 64, 64))]}
    frames = load_frames(tmp_path, inputs, FrameOptions(preprocessing=UNIT))
    with pytest.raises(DataError, match=r"016\.png can't be decoded.*truncated"):
        frames.feed("a", np.array([3, 16]))


def test_pickles_run_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    npz(tmp_path, x=np.array([Trap()], dtype=object))
    with pytest.raises(DataError):
        load_frames(tmp_path / "c.npz", ONE)
    assert not (tmp_path / "ran").exists()


# -- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: npz(p, x=X), ("no array 'digit'", "'x' float32")),
        (lambda p: npz(p, digit=X), ("array 'digit'", "one integer per frame")),
        (lambda p: npz(p, digit=np.array(["seven"])), ("<U5", "one integer per frame")),
        (lambda p: npy(p, np.arange(3)), ("no named arrays", ".npz")),
        (lambda p: images(p), ("no named arrays", ".npz")),
        (lambda p: folder(p, a={"digit": np.arange(2)}, b={"x": X}), ("b.npz", "'digit'")),
        (lambda p: p / "none.npz", ("no such file",)),
    ],
)
def test_labels_refused(make, says, tmp_path):
    path = make(tmp_path)
    with pytest.raises(DataError) as caught:
        load_labels(path, "digit")
    for words in says:
        assert words in str(caught.value)
