"""The folder of entries by content: whole entries only, the oldest go, keys tell all apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import pytest

from repsimc.compiler.execution.content_cache import ContentCache, content_key


def put(cache: ContentCache, key: str, nbytes: int = 100) -> None:
    cache.write(key, lambda file: file.write(b"x" * nbytes))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_keys_tell_values_names_and_types_apart() -> None:
    assert content_key(a=1, b=[2]) == content_key(b=[2], a=1)
    assert len({content_key(a=1), content_key(a=2), content_key(b=1), content_key(a="1")}) == 4


def test_an_entry_is_whole_or_not_there(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "new" / "folder", ".x", 1000)
    put(cache, "a")
    assert cache.path("a").read_bytes() == b"x" * 100

    def broken(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.write("a", broken)
    assert names(cache.folder) == ["a.x"] and cache.path("a").read_bytes() == b"x" * 100


def test_a_folder_that_cannot_be_made_is_an_error_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        put(ContentCache(tmp_path / "file" / "folder", ".x", 1000), "a")
    assert str(tmp_path / "file") in str(caught.value.filename)


def test_the_least_recently_used_goes_but_nothing_of_this_run(tmp_path: Path) -> None:
    for index in range(3):
        put(ContentCache(tmp_path, ".x", 1000), f"old{index}")
        os.utime(tmp_path / f"old{index}.x", (1000 + index, 1000 + index))
    (tmp_path / "other.y").write_bytes(b"y" * 5000)  # of something else: neither counts nor goes
    cache = ContentCache(tmp_path, ".x", 350)
    cache.touch("old0")
    cache.touch("none")
    put(cache, "new1")
    assert names(tmp_path) == ["new1.x", "old0.x", "old2.x", "other.y"]
    for index in range(2, 6):
        put(cache, f"new{index}")
    assert {f"new{index}.x" for index in range(1, 6)} <= set(names(tmp_path))
    assert "old2.x" not in names(tmp_path)


def test_what_a_killed_process_left_goes_when_it_is_old(tmp_path: Path) -> None:
    for name in ("old.part", "young.part"):
        (tmp_path / name).touch()
    os.utime(tmp_path / "old.part", (1000, 1000))
    put(ContentCache(tmp_path, ".x", 1000), "a")
    assert names(tmp_path) == ["a.x", "young.part"]
