"""Folders that results are written to: nothing of the user's is mixed in or overwritten unasked."""

from __future__ import annotations

from pathlib import Path

from .errors import UsageError


def check_output_folder(folder: Path, marker: str, overwrite: bool) -> None:
    """Raise UsageError where results must not be written to `folder`.

    `marker` is the file that only a folder of such results has. A folder that is empty or not
    there is fine; one with the marker needs `overwrite`; any other is refused.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "name a folder with -o")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / marker).is_file():
            raise UsageError(
                f"{folder} holds other files", "name a new folder with -o, nothing is mixed in"
            )
        if not overwrite:
            raise UsageError(f"{folder} exists", "replace it with --overwrite, or name another")
