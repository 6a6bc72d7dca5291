"""Folders that results go to: what is refused, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repsimc.compiler.cli.shell import Stopped
from repsimc.compiler.errors import UsageError
from repsimc.compiler.output_folders import (
    check_output_folder,
    clear_earlier,
    together,
    write_together,
)

MARKER = "result.json"


def test_a_new_or_empty_folder_is_fine(tmp_path: Path) -> None:
    check_output_folder(tmp_path / "new", MARKER, False)
    check_output_folder(tmp_path, MARKER, False)


def test_results_are_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    with pytest.raises(UsageError, match="exists"):
        check_output_folder(tmp_path, MARKER, False)
    check_output_folder(tmp_path, MARKER, True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_never_mixed_with(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds other files"):
        check_output_folder(tmp_path, MARKER, overwrite)
    with pytest.raises(UsageError, match="is a file"):
        check_output_folder(tmp_path / "notes.txt", MARKER, overwrite)


def held(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_files_appear_together_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_together(folder, {"a.txt": b"1", MARKER: b"{}"})
    (folder / "mine.txt").write_bytes(b"mine")
    with together(folder, MARKER) as partial:
        (partial / "models").mkdir()
        (partial / "models" / "b.txt").write_bytes(b"2")
        (partial / MARKER).write_bytes(b"[]")
        assert held(folder) == {"a.txt": b"1", "mine.txt": b"mine", MARKER: b"{}"}
    assert held(tmp_path) == {
        "out/a.txt": b"1",
        "out/mine.txt": b"mine",
        "out/models/b.txt": b"2",
        f"out/{MARKER}": b"[]",
    }


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Stopped(15)])
def test_a_full_disk_or_a_signal_leaves_what_was_there(
    tmp_path: Path, error: BaseException
) -> None:
    folder = tmp_path / "out"
    write_together(folder, {MARKER: b"{}"})
    with pytest.raises((UsageError, Stopped)) as caught, together(folder, MARKER) as partial:
        (partial / MARKER).write_bytes(b"half")
        raise error
    assert isinstance(caught.value, Stopped) or "nothing was changed" in caught.value.hint
    assert held(tmp_path) == {f"out/{MARKER}": b"{}"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_call_left_goes(tmp_path: Path) -> None:
    (tmp_path / ".out.partial-999999999-ab").mkdir()
    (tmp_path / ".out.partial-mine").mkdir()
    write_together(tmp_path / "out", {MARKER: b"{}"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.partial-mine", "out"]


def test_what_earlier_results_list_goes_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    listed = json.dumps({"files": ["plans/1.json", "../mine.txt", "gone.txt"]}).encode()
    write_together(folder, {"plans/1.json": b"1", "other.txt": b"2", MARKER: listed})
    (tmp_path / "mine.txt").write_bytes(b"mine")
    write_together(folder, {"plans/2.json": b"3", MARKER: b"{}"})
    assert held(tmp_path) == {
        "mine.txt": b"mine",
        "out/other.txt": b"2",
        "out/plans/2.json": b"3",
        f"out/{MARKER}": b"{}",
    }


def test_a_marker_that_cannot_be_read_lists_nothing(tmp_path: Path) -> None:
    write_together(tmp_path, {"a.txt": b"1", MARKER: b"no json"})
    clear_earlier(tmp_path, MARKER)
    assert held(tmp_path) == {"a.txt": b"1", MARKER: b"no json"}
