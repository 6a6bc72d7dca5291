"""Frames that can't be used: each refusal says what is wrong, where, and what to do."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repsimc.compiler.errors import DataError, RepsimcError, UsageError
from repsimc.compiler.frames.calibration import FrameOptions, InputSpec, Preprocessing, load_frames


def spec(name="x", shape=("N", 3, 4, 4), dtype=np.float32):
    return InputSpec(name, np.dtype(dtype), shape)


ONE = {"a": [spec()]}
TWO = {"a": [spec()], "b": [spec()]}
PAIR = {"a": [spec("x"), spec("y")]}
UNIT = {"": Preprocessing(scale=1.0)}
X = np.random.default_rng(0).normal(size=(20, 3, 4, 4)).astype(np.float32)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Case:
    """`make` gives the calibration (usually a path under a folder); the message has `says`."""

    make: Callable[[Path], Any]
    says: tuple[str, ...]
    inputs: dict[str, list[InputSpec]] = field(default_factory=lambda: ONE)
    options: dict[str, Any] = field(default_factory=dict)
    error: type[RepsimcError] = DataError


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path / "c.npz", **arrays)
    return path / "c.npz"


def packed(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path / "c.npz", **arrays)
    return path / "c.npz"


def npy(path: Path, array: Any) -> Path:
    np.save(path / "c.npy", array)
    return path / "c.npy"


def raw(path: Path, content: bytes, name: str = "c.npz") -> Path:
    (path / name).write_bytes(content)
    return path / name


def cut(path: Path, keep: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def with_value(value: float, frame: int = 7) -> np.ndarray:
    x = X.copy()
    x[frame, 1, 2, 3] = value
    return x


def script(path: Path, body: str) -> Path:
    (path / "frames.py").write_text(f"import numpy as np\n{body}\n")
    return path / "frames.py"


def images(path: Path, count: int = 17, size: tuple[int, int] = (4, 4)) -> Path:
    for index in range(count):
        Image.new("RGB", (size[1], size[0]), (index, 0, 0)).save(path / f"{index:03}.png")
    return path


def flipped(path: Path) -> Path:
    """A compressed archive with one byte of its data changed."""
    path = packed(path, x=X)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def archive(path: Path, name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path / "c.npz", "w", compression) as file:
        file.writestr(name, content)
    return path / "c.npz"


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def encrypted(path: Path) -> Path:
    """An archive whose member says that it is encrypted."""
    path = archive(path, "x.npy", npy_bytes(X))
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    return path


def twice(path: Path) -> Path:
    with pytest.warns(UserWarning), zipfile.ZipFile(path / "c.npz", "w") as file:
        file.writestr("x.npy", npy_bytes(X))
        file.writestr("x.npy", npy_bytes(X))
    return path / "c.npz"


def folder(path: Path, **pieces: Any) -> Path:
    for name, arrays in pieces.items():
        np.savez(path / f"{name}.npz", **arrays)
    return path


def npy_folder(path: Path, *arrays: np.ndarray) -> Path:
    for index, array in enumerate(arrays):
        np.save(path / f"{index}.npy", array)
    return path


def link(path: Path, name: str, target: str) -> Path:
    (path / name).symlink_to(path / target)
    return path / name


def bad_image(path: Path, content: bytes | Callable[[bytes], bytes]) -> Path:
    images(path, size=(64, 64))
    last = path / "016.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(last)
    last.write_bytes(content(last.read_bytes()) if callable(content) else content)
    return path


CASES = {
    # -- paths
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
    # -- files that are not what they say
    "zero bytes npz": Case(lambda p: raw(p, b""), ("c.npz is empty (0 bytes)",)),
    "zero bytes npy": Case(lambda p: raw(p, b"", "c.npy"), ("c.npy is empty (0 bytes)",)),
    "not a zip": Case(lambda p: raw(p, b"hello" * 99), ("c.npz is not an .npz archive", "savez")),
    "npy called npz": Case(lambda p: raw(p, npy_bytes(X)), ("is one .npy array", "rename")),
    "pickle called npz": Case(lambda p: raw(p, pickle.dumps([1])), ("pickle", "refused")),
    "pickle called npy": Case(lambda p: raw(p, pickle.dumps([1]), "c.npy"), ("pickle", "refused")),
    "text called npy": Case(lambda p: raw(p, b"hello", "c.npy"), ("c.npy is not in .npy format",)),
    "pickled npz": Case(
        lambda p: npz(p, x=np.array([{}], dtype=object)), ("array 'x'", "pickled", "refused")
    ),
    "pickled npy": Case(lambda p: npy(p, np.array([None])), ("c.npy", "pickled", "refused")),
    "truncated npz": Case(lambda p: cut(npz(p, x=X), 0.6), ("truncated", "copy or save")),
    "truncated npy": Case(lambda p: cut(npy(p, X), 0.6), ("truncated", "3840 bytes")),
    "truncated member": Case(
        lambda p: archive(p, "x.npy", npy_bytes(X)[:-4]), ("array 'x'", "truncated")
    ),
    "changed byte": Case(flipped, ("c.npz is damaged", "x.npy")),
    "damaged header": Case(
        lambda p: raw(p, b"\x93NUMPY\x01\x00\x08\x00{'descr'", "c.npy"), ("damaged header",)
    ),
    "negative shape": Case(lambda p: raw(p, header((-1, 4)), "c.npy"), ("damaged header",)),
    "header of 4 GiB": Case(
        lambda p: raw(p, b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "c.npy"), ("damaged header",)
    ),
    "header version 3": Case(
        lambda p: raw(p, b"\x93NUMPY\x03\x00\x00\x00\x00\x00", "c.npy"), ("version 3.0",)
    ),
    "no arrays": Case(lambda p: npz(p), ("holds no arrays",)),
    "no npy members": Case(lambda p: archive(p, "x.txt", b"1"), ("holds no arrays",)),
    "encrypted": Case(encrypted, ("encrypted", "'x.npy'")),
    "array twice": Case(twice, ("array 'x' twice",)),
    "member outside": Case(
        lambda p: archive(p, "../x.npy", npy_bytes(X)), ("'../x.npy'", "out of the archive")
    ),
    "absolute member": Case(
        lambda p: archive(p, "/etc/x.npy", npy_bytes(X)), ("'/etc/x.npy'", "out of the archive")
    ),
    # -- arrays that do not fit
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
    "scalar input": Case(lambda p: npy(p, X), ("scalar", "constant"), {"a": [spec(shape=())]}),
    # -- values
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
    # -- how many
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
    "inputs of different batch": Case(
        lambda p: npz(p, x=X, y=X),
        ("'x' float32 [1, 3, 4, 4]", "'y' float32 [2, 3, 4, 4]", "axis 0"),
        {"a": [spec("x", (1, 3, 4, 4)), spec("y", (2, 3, 4, 4))]},
    ),
    "counts of inputs differ": Case(
        lambda p: npz(p, x=X, y=X[:19]), ("input 'x'", "input 'y'", "20 and 19 frames"), PAIR
    ),
    "counts of models differ": Case(
        lambda p: {"a": npz(p, x=X), "b": npy(p, X[:18])},
        ("model 'a'", "model 'b'", "20 and 18 frames", "leave out --same"),
        TWO,
        {"same_frames": True},
    ),
    # -- folders of arrays
    "frames differ in size": Case(
        lambda p: npy_folder(p, X, X[:, :, :2]),
        ("differ in size", "0.npy", "[3, 4, 4]", "1.npy", "[3, 2, 4]"),
        {"a": [spec(shape=("N", 3, "H", "W"))]},
    ),
    "a file without the key": Case(
        lambda p: folder(p, a={"x": X}, b={"x": X}, c={"z": X}), ("c.npz has no array 'x'",)
    ),
    "one damaged file": Case(
        lambda p: raw(folder(p, a={"x": X}), b"", "b.npz").parent, ("b.npz is empty",)
    ),
    # -- images
    "images without a scale": Case(
        lambda p: images(p),
        ("pixel (0..255)", "nothing is guessed", "[preprocess.a]", "size = [4, 4]", '"NCHW"'),
    ),
    "layout not clear": Case(
        lambda p: images(p),
        ("does not say which axis is colour", 'layout = "NCHW"'),
        {"a": [spec(shape=("N", "C", "H", "W"))]},
        {"preprocessing": UNIT},
    ),
    "image sizes differ": Case(
        lambda p: (images(p, 20), images(p, 1, (5, 6)))[0],
        ("differ in size", "000.png is [5, 6]", "001.png is [4, 4]", "size ="),
        {"a": [spec(shape=("N", 3, "H", "W"))]},
        {"preprocessing": UNIT},
    ),
    "wrong channels": Case(
        lambda p: images(p),
        ("3 channels", "GRAY images have 1"),
        options={"preprocessing": {"a": Preprocessing(scale=1.0, colour="GRAY")}},
    ),
    "wrong size": Case(
        lambda p: images(p),
        ("[8, 8]", "takes [4, 4]"),
        options={"preprocessing": {"a": Preprocessing(scale=1.0, size=(8, 8))}},
    ),
    "means for three channels": Case(
        lambda p: images(p),
        ("mean has 3 values", "GRAY"),
        {"a": [spec(shape=("N", 1, 4, 4))]},
        {"preprocessing": {"a": Preprocessing(scale=1.0, mean=(1, 2, 3))}},
    ),
    "scale for an uint8 input": Case(
        lambda p: images(p),
        ("pixels 0..255 as they are", "leave scale"),
        {"a": [spec(dtype=np.uint8)]},
        {"preprocessing": {"a": Preprocessing(scale=0.5)}},
    ),
    "images for a vector": Case(
        lambda p: images(p), ("no [N, C, H, W] shape",), {"a": [spec(shape=("N", 48))]}
    ),
    "images for integers": Case(
        lambda p: images(p),
        ("takes int64",),
        {"a": [spec(dtype=np.int64)]},
        {"preprocessing": UNIT},
    ),
    "images for two inputs": Case(lambda p: images(p), ("2 inputs (x, y)", ".npz"), PAIR),
    "image of zero bytes": Case(
        lambda p: bad_image(p, b""), ("016.png is empty",), options={"preprocessing": UNIT}
    ),
    "text called png": Case(
        lambda p: bad_image(p, b"hello"), ("016.png", "decoded"), options={"preprocessing": UNIT}
    ),
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
    # -- scripts
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
    # -- calls that make no sense
    "no frames for a model": Case(
        lambda p: {"a": npz(p, x=X)}, ("no frames for model 'b'", "--calib b=PATH"), TWO
    ),
    "unknown model": Case(
        lambda p: {"c": npz(p, x=X)}, ("no model is called 'c'", "called a"), error=UsageError
    ),
    "unknown model in preprocessing": Case(
        lambda p: npz(p, x=X),
        ("'c'", "called a"),
        options={"preprocessing": {"c": Preprocessing()}},
        error=UsageError,
    ),
    "paths and arrays": Case(
        lambda p: {"a": npz(p, x=X), "b": X}, ("mixes",), TWO, error=UsageError
    ),
    "a list": Case(lambda p: [1, 2], ("is a list", "path per model"), error=UsageError),
    "a list in a dict": Case(lambda p: {"x": [1]}, ("'x' is a list",), error=UsageError),
    "an empty dict": Case(lambda p: {}, ("empty",), error=UsageError),
    "negative seed": Case(lambda p: X, ("seed of -1",), options={"seed": -1}, error=UsageError),
    "no limit": Case(lambda p: X, ("limit of 0",), options={"limit": 0}, error=UsageError),
    "all held out": Case(lambda p: X, ("1.5",), options={"held_out": 1.5}, error=UsageError),
}


@pytest.mark.parametrize("name", CASES)
def test_refusal(name: str, tmp_path: Path):
    case = CASES[name]
    calibration = case.make(tmp_path)
    with pytest.raises(case.error) as caught:
        load_frames(calibration, case.inputs, FrameOptions(**case.options))
    assert type(caught.value) is case.error
    assert caught.value.hint
    for words in case.says:
        assert words in str(caught.value)
