"""A folder of what was computed from content: shared by processes, bounded, an entry whole or none.

An entry is a file named by a sha256 of all that decides it (`content_key`). What is in it was
written by anybody who can write there: whoever reads one checks it, and takes a wrong one for none.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

# What a killed process left of a write is as old as this before it goes: no write takes so long.
_LEFT_SECONDS = 24 * 3600


def content_key(**parts: object) -> str:
    """The sha256 (hex) of JSON types by name."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ContentCache:
    """Files of one suffix in a folder, which is made when something is first written.

    Together they take at most `most_nbytes`: the least recently used go, never one that was written
    or used since this was made.
    """

    def __init__(self, folder: Path, suffix: str, most_nbytes: int) -> None:
        self.folder = folder
        self._suffix = suffix
        self._most_nbytes = most_nbytes
        # File systems may round times down.
        self._began = time.time() - 2

    def path(self, key: str) -> Path:
        """Where the entry of that key is, if there is one."""
        return self.folder / f"{key}{self._suffix}"

    def touch(self, key: str) -> None:
        """The entry was used just now."""
        with suppress(OSError):
            os.utime(self.path(key))

    def write(self, key: str, write: Callable[[IO[bytes]], object]) -> None:
        """Put what `write` writes to a file in the entry's place, in one step. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
            Path(partial).replace(self.path(key))
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        self._trim()

    def _trim(self) -> None:
        for left in self._files(".part"):
            if left[0] < self._began - _LEFT_SECONDS:
                left[2].unlink(missing_ok=True)
        entries = self._files(self._suffix)
        held = sum(nbytes for _, nbytes, _ in entries)
        for used, nbytes, path in sorted(entries):
            if held <= self._most_nbytes or used >= self._began:
                return
            path.unlink(missing_ok=True)
            held -= nbytes

    def _files(self, suffix: str) -> list[tuple[float, int, Path]]:
        """When each file of that suffix was last used (seconds), its bytes, and where it is."""
        found: list[tuple[float, int, Path]] = []
        for path in self.folder.glob(f"*{suffix}"):
            with suppress(OSError):  # another process was quicker
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found
