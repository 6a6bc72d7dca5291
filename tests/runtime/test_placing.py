"""Folders that take each other's place, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repsimc.runtime import placing
from repsimc.runtime.placing import alive, put_in_place, sync, write_file


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    write_file(path / "file", content.encode())
    sync(path)
    return path


@pytest.mark.parametrize("swaps", [True, False])
def test_the_new_folder_takes_the_place_of_the_old(
    tmp_path: Path, swaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swaps:
        monkeypatch.setattr(placing, "exchange", lambda *_: False)
    target = tmp_path / "target"
    put_in_place(folder(tmp_path / "first", "1"), target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    partial = folder(tmp_path / "second", "2")
    put_in_place(partial, target)
    assert (target / "file").read_text() == "2"
    assert (partial / "file").read_text() == "1"
    assert len(list(tmp_path.iterdir())) == 2


def test_processes_that_run_are_alive() -> None:
    assert alive(os.getpid()) and alive(os.getppid())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not alive(ended.pid)
