"""How much memory this process holds, as Linux accounts for it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import BackendError
from .json_values import JsonValue

_SMAPS = Path("/proc/self/smaps")
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)")
_LIBRARY = re.compile(r"\.so(\.[0-9.]+)?( \(deleted\))?$")


@dataclass(frozen=True)
class Usage(JsonValue):
    """Memory of a process, in bytes.

    `uss_nbytes` are pages that only this process has; `pss_nbytes` adds its share of pages that
    it shares; `anonymous_nbytes` are pages that no file backs (a memory-mapped weight file is
    not in it). Shared libraries are left out of the first two: whether their pages are private
    depends on which other programs run at that moment.
    """

    uss_nbytes: int
    pss_nbytes: int
    anonymous_nbytes: int

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.uss_nbytes - other.uss_nbytes,
            self.pss_nbytes - other.pss_nbytes,
            self.anonymous_nbytes - other.anonymous_nbytes,
        )


def can_measure() -> bool:
    """True where `usage` works: on Linux."""
    return sys.platform == "linux" and _SMAPS.is_file()


def usage() -> Usage:
    """The memory of this process now, after what is free went back to the system.

    Without the latter the same run reads up to 3.7 times too much. Raises BackendError off Linux.
    """
    if not can_measure():
        raise BackendError("memory can be measured on Linux only", "run this on the device")
    release_memory()
    return usage_of(_SMAPS.read_text().splitlines())


def usage_of(lines: Iterable[str]) -> Usage:
    """The usage that the lines of an `smaps` file add up to."""
    uss = pss = anonymous = 0
    for path, key, nbytes in _entries(lines):
        if key == "Anonymous":
            anonymous += nbytes
        if _LIBRARY.search(path):
            continue
        if key in ("Private_Clean", "Private_Dirty"):
            uss += nbytes
        elif key == "Pss":
            pss += nbytes
    return Usage(uss, pss, anonymous)


def _entries(lines: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """(path of the mapping, key, bytes) for every size in an `smaps` file."""
    path = ""
    for line in lines:
        if match := _MAPPING.fullmatch(line):
            path = match.group(1)
            continue
        key, _, value = line.partition(":")
        if value.endswith(" kB"):
            yield path, key, int(value[:-3]) * 1024


def release_memory() -> None:
    """Gives memory that is free back to the system, where it can be asked to (glibc)."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)
