"""Frames, files, inputs and recipes that the tests of frames are given, and cases of refusals."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repsimc.compiler.errors import DataError, RepsimcError
from repsimc.compiler.frames.calibration import FrameOptions, InputSpec, Preprocessing, load_frames

UNIT = Preprocessing(scale=1.0)


def spec(name="x", shape=("N", 3, 4, 4), dtype=np.float32):
    return InputSpec(name, np.dtype(dtype), shape)


def floats(count=20, shape=(3, 4, 4), seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(dtype)


def pixels(count=20, shape=(4, 4, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def all_rows(frames, model):
    return np.sort(np.concatenate([frames.fit_rows(model), frames.held_out_rows(model)]))


def fed(frames, model="a", name="x"):
    return frames.feed(model, np.arange(frames.count(model)))[name]


def save_images(folder: Path, images, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03}{suffix}")
    return folder


ONE = {"a": [spec()]}
TWO = {"a": [spec()], "b": [spec()]}
PAIR = {"a": [spec("x"), spec("y")]}
X = floats()
PIXELS = pixels()


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


def script(path: Path, body: str) -> Path:
    (path / "frames.py").write_text(f"import numpy as np\n{body}\n")
    return path / "frames.py"


def images(path: Path, count: int = 17, size: tuple[int, int] = (4, 4)) -> Path:
    for index in range(count):
        Image.new("RGB", (size[1], size[0]), (index, 0, 0)).save(path / f"{index:03}.png")
    return path


def archive(path: Path, name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path / "c.npz", "w", compression) as file:
        file.writestr(name, content)
    return path / "c.npz"


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def folder(path: Path, **pieces: Any) -> Path:
    for name, arrays in pieces.items():
        np.savez(path / f"{name}.npz", **arrays)
    return path


def bad_image(path: Path, content: bytes | Callable[[bytes], bytes]) -> Path:
    images(path, size=(64, 64))
    last = path / "016.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(last)
    last.write_bytes(content(last.read_bytes()) if callable(content) else content)
    return path


def check_refused(case: Case, folder: Path) -> None:
    """Assert that the case is refused by its error, with a hint and all it has to say."""
    calibration = case.make(folder)
    with pytest.raises(case.error) as caught:
        load_frames(calibration, case.inputs, FrameOptions(**case.options))
    assert type(caught.value) is case.error
    assert caught.value.hint
    for words in case.says:
        assert words in str(caught.value)
