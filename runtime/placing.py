"""Files and folders written beside their place and moved into it in one step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Where repsimc keeps what it could make again: in $XDG_CACHE_HOME, by default ~/.cache."""
    # The base directory specification says that a relative path is to be ignored.
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "repsimc"


def write_file(path: Path, content: bytes) -> None:
    """Write the file, and do not return before it is on disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Writes the file, or the folder's list of names, to disk before what follows."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def put_in_place(partial: Path, target: Path) -> None:
    """Lets the new folder take the old one's place; the old one is then called `partial`."""
    if not target.exists() or not any(target.iterdir()):
        partial.replace(target)
    elif not exchange(partial, target):
        # Two steps, with a moment in between that has no bundle: the next write mends that.
        aside = partial.with_name(f"{partial.name}-old")
        target.rename(aside)
        try:
            partial.rename(target)
        except OSError:
            aside.rename(target)
            raise
        aside.rename(partial)


def exchange(first: Path, second: Path) -> bool:
    """True if the two folders swapped names in one step; Linux can, other systems do not."""
    if sys.platform != "linux":
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    with contextlib.suppress(OSError, AttributeError):
        call = ctypes.CDLL(None, use_errno=True).renameat2
        return call(here, os.fsencode(first), here, os.fsencode(second), swap) == 0
    return False


def alive(pid: int) -> bool:
    """True if a process of that number runs, or nobody can tell."""
    if pid == os.getpid():
        return True
    if os.name == "nt":  # there, signal 0 is not a question: leave the folder alone
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
