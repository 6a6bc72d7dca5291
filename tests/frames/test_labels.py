"""Labels beside frames: from one file, from a folder, and what they may not be."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.errors import DataError
from repsimc.compiler.frames.labels import load_labels
from tests.frames.given_frames import X, floats, folder, images, npy, npz


def test_labels(tmp_path):
    np.savez(tmp_path / "0.npz", x=floats(), digit=np.arange(20, dtype=np.uint8)[:, None])
    np.savez(tmp_path / "1.npz", x=floats(), digit=np.arange(20, 25, dtype=np.int16))
    assert load_labels(tmp_path / "0.npz", "digit").tolist() == list(range(20))
    labels = load_labels(tmp_path, "digit")
    assert labels.dtype == np.int64
    assert labels.tolist() == list(range(25))


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
