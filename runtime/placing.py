"""Files and folders written beside their place and moved into it in one step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import sys
from collections.abc import Generator
from pathlib import Path

from .errors import UsageError

_ELSEWHERE = "free space there, or name another place"


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


@contextlib.contextmanager
def replacing(folder: Path, hint: str = _ELSEWHERE) -> Generator[Path]:
    """A new folder to fill, which takes the place of `folder` when the block ends well.

    Whatever happens, there is either what was there or the new. Raises UsageError, with the hint,
    if the disk is full or cannot be written.
    """
    parent = folder.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        start = f".{folder.name}.partial-"
        for old in parent.iterdir():
            pid = old.name.removeprefix(start).split("-")[0]
            if old.name.startswith(start) and pid.isdigit() and not alive(int(pid)):
                shutil.rmtree(old, ignore_errors=True)
        partial = parent / f"{start}{os.getpid()}-{secrets.token_hex(4)}"
        partial.mkdir()
        try:
            yield partial
            for path in sorted(partial.iterdir()):
                sync(path)
            sync(partial)
            put_in_place(partial, folder)
            sync(parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise unwritten(folder, error, hint) from error


@contextlib.contextmanager
def replacing_file(path: Path) -> Generator[Path]:
    """The name of a file to write, which takes the place of `path` when the block ends well.

    Raises UsageError if the disk is full or cannot be written; what was there is as before.
    """
    partial = path.parent / f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            sync(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: OSError, hint: str = _ELSEWHERE) -> UsageError:
    """The error for a place that cannot be written; nothing there was changed."""
    return UsageError(
        f"{path} cannot be written: {error.strerror or error}", f"nothing was changed; {hint}"
    )


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
