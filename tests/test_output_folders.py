"""Folders that results go to: what is refused, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.output_folders import check_output_folder

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
