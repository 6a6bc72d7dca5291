"""Files of arrays: read lazily, refused where damaged, bounded, and never run."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from repsimc.compiler.errors import DataError
from repsimc.compiler.frames import array_files
from repsimc.compiler.frames.calibration import load_frames
from tests.frames.given_frames import (
    ONE,
    Case,
    X,
    archive,
    check_refused,
    fed,
    floats,
    folder,
    header,
    npy,
    npz,
    packed,
    raw,
    spec,
)


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


def flipped(path: Path) -> Path:
    """A compressed archive with one byte of its data changed."""
    path = packed(path, x=X)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


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


def cut(path: Path, keep: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


CASES = {
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
    "one damaged file": Case(
        lambda p: raw(folder(p, a={"x": X}), b"", "b.npz").parent, ("b.npz is empty",)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refusal(name: str, tmp_path: Path):
    check_refused(CASES[name], tmp_path)


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


def test_pickles_run_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    npz(tmp_path, x=np.array([Trap()], dtype=object))
    with pytest.raises(DataError):
        load_frames(tmp_path / "c.npz", ONE)
    assert not (tmp_path / "ran").exists()
