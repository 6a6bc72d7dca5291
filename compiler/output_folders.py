"""Folders that results are written to: nothing of the user's is mixed in or overwritten unasked.

Results are written beside their folder first: a full disk, or a signal, leaves what was there.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path

from ..runtime.json_reader import Reader, read_json
from ..runtime.placing import alive, sync, unwritten
from .errors import ModelError, UsageError


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


@contextlib.contextmanager
def together(folder: Path, last: str) -> Generator[Path]:
    """An empty folder to fill, whose files go into `folder` when the block ends well.

    Other files there stay. The file `last` goes last: where it is, all are. Raises UsageError if
    the disk is full or cannot be written; `folder` is as before then.
    """
    place = folder.resolve()
    start = f".{place.name}.partial-"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        mounted = place.is_dir() and place.stat().st_dev != place.parent.stat().st_dev
        beside = place if mounted else place.parent  # files move within one file system only
        for old in beside.glob(f"{glob.escape(start)}*"):
            pid = old.name.removeprefix(start).split("-")[0]
            if pid.isdigit() and not alive(int(pid)):
                shutil.rmtree(old, ignore_errors=True)
        partial = beside / f"{start}{os.getpid()}-{secrets.token_hex(4)}"
        partial.mkdir()
        try:
            yield partial
            made = sorted(path for path in partial.rglob("*") if path.is_file())
            for path in made:
                sync(path)
            place.mkdir(exist_ok=True)
            for path in sorted(made, key=lambda path: path.name == last):
                target = place / path.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
            sync(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise unwritten(folder, error) from error


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files, by name, into a folder: all of them or none; the last one goes last.

    What earlier results of the same kind left there goes (see `clear_earlier`). Raises UsageError
    if the disk is full or cannot be written.
    """
    last = list(files)[-1]
    with together(folder, last) as partial:
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        clear_earlier(folder, last)


def clear_earlier(folder: Path, marker: str) -> None:
    """Remove the files that the JSON `marker` of earlier results lists under 'files', and it.

    Nothing else, and nothing outside of the folder; a marker that cannot be read lists nothing.
    """
    try:
        known = read_json((folder / marker).read_bytes(), marker, "")
        files = Reader(marker, "", known).items("files", Reader.text)
    except (OSError, ModelError):
        return
    (folder / marker).unlink()
    for name in files:
        place = folder / name
        if place.resolve().is_relative_to(folder.resolve()) and place.is_file():
            place.unlink()
