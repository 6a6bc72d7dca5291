"""What a path holds: files, folders of them, and what a script yields."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from repsimc.compiler.errors import DataError
from repsimc.compiler.frames import array_files
from repsimc.compiler.frames.calibration import FrameOptions, load_frames
from tests.frames.given_frames import (
    ONE,
    Case,
    X,
    check_refused,
    fed,
    floats,
    images,
    npy,
    npz,
    raw,
    script,
)


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


def link(path: Path, name: str, target: str) -> Path:
    (path / name).symlink_to(path / target)
    return path / name


CASES = {
    "missing path": Case(lambda p: p / "none.npz", ("no such file", "none.npz", "folder of")),
    "unknown kind": Case(lambda p: raw(p, b"1,2", "c.csv"), ("c.csv", "no kind", ".npz")),
    "one image": Case(lambda p: images(p, 1) / "000.png", ("single image", "folder")),
    "empty folder": Case(lambda p: p, ("holds no frames (nothing)", ".npz")),
    "folder of text": Case(lambda p: raw(p, b"", "a.txt").parent, ("no frames", "a.txt")),
    "link to itself": Case(lambda p: link(p, "c.npz", "c.npz"), ("c.npz", "symbolic links")),
    "dangling link": Case(
        lambda p: (link(p, "a.png", "gone.png"), images(p))[1], ("a.png", "No such file")
    ),
    "loop of folders": Case(lambda p: (link(p, "up", "."), p)[1], ("holds no frames",)),
    "a pipe": Case(lambda p: (os.mkfifo(p / "a.npz"), p)[1], ("a.npz", "not a regular file")),
    "images and arrays": Case(lambda p: npz(images(p), x=X).parent, ("both images", "arrays")),
    "npz and npy": Case(lambda p: npz(npy(p, X).parent, x=X).parent, ("both .npz", ".npy")),
    "script not allowed": Case(
        lambda p: script(p, "raise SystemError"), ("runs its code", "--allow-script")
    ),
    **{
        f"script {name}": Case(lambda p, b=body: script(p, b), says, options={"allow_script": True})
        for name, body, says in (
            ("without load_data", "x = 1", ("no function load_data()",)),
            ("that does not compile", "def", ("frames.py failed", "SyntaxError")),
            ("that exits", "raise SystemExit(3)", ("frames.py failed", "SystemExit: 3")),
            ("that raises", "def load_data(): yield 1 / 0", ("ZeroDivisionError",)),
            ("without frames", "def load_data(): return []", ("yields no frames",)),
            ("without an iterator", "def load_data(): return 3", ("not iterable",)),
            ("of arrays", "def load_data(): yield np.ones(3)", ("item 0", "ndarray, not a dict")),
            (
                "of changing keys",
                "def load_data():\n  yield {'x': 1}\n  yield {'y': 1}",
                ("item 1", "keys y", "had x"),
            ),
            (
                "of objects",
                "def load_data(): yield {'x': [object()]}",
                ("array 'x' in item 0", "no frames"),
            ),
        )
    },
}


@pytest.mark.parametrize("name", CASES)
def test_refusal(name: str, tmp_path: Path):
    check_refused(CASES[name], tmp_path)


def test_an_endless_script_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "MAX_DECODED_NBYTES", 1 << 20)
    path = script(tmp_path, "def load_data():\n  while True: yield {'x': np.ones((9, 3, 4, 4))}")
    with pytest.raises(DataError, match=r"item \d+ of load_data.*unpacks"):
        load_frames(path, ONE, FrameOptions(allow_script=True))
