from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy_format

from repsimc.runtime.array_archive import read_arrays
from repsimc.runtime.errors import ModelError

ARRAYS = {
    "0/0/in/a/x": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "one": np.array(True),
    "nothing": np.zeros((0, 4), np.float16),
    "text": np.array(["a", "bc"]),
}


def archive(path: Path, members: dict[str, bytes], packed: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packed) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def member(shape: object = (2,), dtype: str = "<f4", data: bytes = b"\0" * 8) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text = header.encode().ljust(117) + b"\n"
    return npy_format.magic(1, 0) + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path: Path, save: object) -> None:
    assert callable(save)
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_arrays(tmp_path / "a.npz", 10_000, "")
    assert list(found) == list(ARRAYS)
    for name, array in found.items():
        assert array.dtype == ARRAYS[name].dtype and array.flags.writeable
        np.testing.assert_array_equal(array, ARRAYS[name])
    assert list(read_arrays(tmp_path / "a.npz", 10_000, "", lambda name: name == "one")) == ["one"]
    with pytest.raises(ModelError, match="unpacks to more than 500 bytes") as caught:
        read_arrays(tmp_path / "a.npz", 500, "try again")
    assert caught.value.hint == "try again"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (member((2**61, 4)), "another size"),
        (member((-2,)), "no plain values"),
        (member((3,)), "another size"),
        (member((2,), data=b"\0" * 9), "another size"),
        (member(dtype="|O"), "no plain values"),
        (member(dtype="no dtype"), ""),
        (member("__import__('os')"), ""),
        (member("(" * 5000), ""),
        (pickle.dumps([1]), ""),
        (npy_format.magic(9, 9) + b"\0" * 100, ""),
        (b"", ""),
    ],
    ids=range(11),
)
def test_members_that_are_not_what_they_say(tmp_path: Path, content: bytes, says: str) -> None:
    path = archive(tmp_path / "a.npz", {"a.npy": content})
    with pytest.raises(ModelError, match=f"cannot be read: .*{says}"):
        read_arrays(path, 10_000, "")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", {"a.npy": member((2**26,), data=bytes(2**28))})
    assert path.stat().st_size < 2**20
    lying = path.read_bytes().replace(
        (2**28 + 128).to_bytes(4, "little"), (136).to_bytes(4, "little")
    )
    (tmp_path / "b.npz").write_bytes(lying)
    for name in ("a.npz", "b.npz"):
        tracemalloc.start()
        with pytest.raises(ModelError):
            read_arrays(tmp_path / name, 2**20, "")
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + b"\0" * 9])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        read_arrays(tmp_path / "a.npz", 100, "")
    with pytest.raises(ModelError, match="No such file"):
        read_arrays(tmp_path / "none.npz", 100, "")


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.savez(stream, a=np.arange(100))
    content = bytearray(stream.getvalue())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ModelError, match="CRC"):
        read_arrays(tmp_path / "a.npz", 10_000, "")
