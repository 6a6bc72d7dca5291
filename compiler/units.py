"""Byte counts and shares as people write them, parsed and printed; text that may be printed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime.tensorrt.shapes import parse_shape
from .errors import UsageError

_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
}
# So many digits that no number is infinite.
_NUMBER = r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*"
_BYTES = re.compile(_NUMBER + r"([a-z]*)\s*", re.IGNORECASE)
_COUNT = re.compile(_NUMBER + r"([kmgt]?)\s*", re.IGNORECASE)
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s)\s*", re.IGNORECASE)
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_DURATION = re.compile(_NUMBER + r"(s|m|h|)\s*", re.IGNORECASE)
_DURATIONS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_BARE = re.compile(_NUMBER)
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True)
class Budget:
    """A memory budget: absolute bytes, or a share of what the models need apart.

    Exactly one of `nbytes` and `share` (0 < share <= 1) is set.
    """

    nbytes: int | None = None
    share: float | None = None

    def limit(self, apart_nbytes: int) -> int:
        """The budget in bytes, given what the models need apart (bytes)."""
        if self.nbytes is not None:
            return self.nbytes
        assert self.share is not None
        return int(self.share * apart_nbytes)

    def __str__(self) -> str:
        if self.nbytes is not None:
            return format_bytes(self.nbytes)
        assert self.share is not None
        return f"{100 * self.share:.4g}%"


def parse_bytes(text: str) -> int:
    """Bytes from '2GB' (10^9), '512MiB' (2^20) or a plain number. Raises UsageError."""
    match = _BYTES.fullmatch(text)
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise UsageError(
            f"'{text}' is not an amount of memory", "write it as 2GB, 512MiB or a share such as 60%"
        )
    return int(float(match.group(1)) * factor)


def parse_budget(text: str) -> Budget:
    """A budget from '2GB', '512MiB' or '60%' of the models apart. Raises UsageError."""
    match = _SHARE.fullmatch(text)
    if match is None:
        _ask_for_share(text, "a budget", "bytes", "B")
        nbytes = parse_bytes(text)
        if nbytes <= 0:
            raise UsageError(f"a budget of {text} is nothing", "give at least one byte")
        return Budget(nbytes=nbytes)
    share = float(match.group(1)) / 100
    if not 0 < share <= 1:
        raise UsageError(f"a budget of {text} is not a share between 0 and 100 %", "write e.g. 60%")
    return Budget(share=share)


def _ask_for_share(text: str, what: str, unit: str, suffix: str) -> None:
    """Raises UsageError for a bare number that is more likely a share: 60, or 0.6."""
    if _BARE.fullmatch(text) is None or float(text) > 100:
        return
    share = float(text) * (1 if float(text) > 1 else 100)
    told = text.strip()
    meant = f"; write {told}{suffix} if {unit} are meant" if suffix and float(text) >= 1 else ""
    raise UsageError(
        f"{what} of {told} is of {told} {unit}: was {share:g}% meant?", f"write {share:g}%{meant}"
    )


@dataclass(frozen=True)
class MacsLimit:
    """A limit of multiply-accumulates per frame: a count, or a share of the models apart.

    Exactly one of `count` and `share` (0 < share <= 1) is set.
    """

    count: int | None = None
    share: float | None = None

    def limit(self, apart: int) -> int:
        """The limit as a count, given the multiply-accumulates of the models apart."""
        if self.count is not None:
            return self.count
        assert self.share is not None
        return int(self.share * apart)

    def __str__(self) -> str:
        if self.count is not None:
            return f"{format_count(self.count)} MACs"
        assert self.share is not None
        return f"{100 * self.share:.4g}% of the MACs"


def parse_macs(text: str) -> MacsLimit:
    """A limit from '60%', '120M' or a plain count of multiply-accumulates. Raises UsageError."""
    if match := _SHARE.fullmatch(text):
        share = float(match.group(1)) / 100
        if not 0 < share <= 1:
            raise UsageError(f"{text} is not a share between 0 and 100 %", "write e.g. 60%")
        return MacsLimit(share=share)
    _ask_for_share(text, "a limit", "multiply-accumulates", "")
    match = _COUNT.fullmatch(text)
    count = 0 if match is None else int(float(match.group(1)) * _COUNTS[match.group(2).lower()])
    if count <= 0:
        raise UsageError(
            f"'{text}' is not a number of multiply-accumulates",
            "write it as 120M, 1.5G or a share such as 60%",
        )
    return MacsLimit(count=count)


def parse_share(text: str, option: str) -> float:
    """A share from '5%' or '0.05', above 0 and at most 1. Raises UsageError."""
    match = _SHARE.fullmatch(text)
    if match is not None:
        share = float(match.group(1)) / 100
    else:
        share = float(text) if _BARE.fullmatch(text) else 0.0
    if not 0 < share <= 1:
        raise UsageError(
            f"{option} {text} is not a share above 0 and up to 1", "write it as 5% or 0.05"
        )
    return share


def parse_seconds(text: str) -> float:
    """Seconds from '8ms', '500us' or '0.1s'. Raises UsageError."""
    match = _TIME.fullmatch(text)
    seconds = 0.0 if match is None else float(match.group(1)) * _TIMES[match.group(2).lower()]
    if seconds <= 0:
        raise UsageError(f"'{text}' is not a time", "write it as 8ms, 500us or 0.1s")
    return seconds


def parse_duration(text: str) -> float:
    """Seconds from '90', '90s', '10m' or '1.5h'. Raises UsageError."""
    match = _DURATION.fullmatch(text)
    seconds = 0.0 if match is None else float(match.group(1)) * _DURATIONS[match.group(2).lower()]
    if seconds <= 0:
        raise UsageError(f"'{text}' is not a time to wait", "write it as 90s, 10m or 1h")
    return seconds


def format_duration(seconds: float) -> str:
    """'10m', '1h', '90s': the time as `parse_duration` takes it, in the largest whole unit."""
    for unit in ("h", "m"):
        if seconds and seconds % _DURATIONS[unit] == 0:
            return f"{seconds / _DURATIONS[unit]:g}{unit}"
    return f"{seconds:.3g}s" if seconds < 100 else f"{seconds:.0f}s"


def parse_sizes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by input from words such as 'input=1x3x224x224'. Raises UsageError."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, sizes = parse_shape(text)
        if found.setdefault(name, sizes) != sizes:
            raise UsageError(f"two sizes are given for '{name}'", "give one")
    return found


def format_sizes(sizes: Sequence[int]) -> str:
    """'1x3x224x224': a shape as users say it."""
    return "x".join(map(str, sizes))


def format_bytes(nbytes: float) -> str:
    """'1.50 MiB', '612 KiB', '87 B': binary units, three significant digits."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            if unit == "B":
                return f"{int(value)} B"
            return f"{value:.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def format_count(count: float) -> str:
    """'41.2 M', '1.5 G': decimal units for MACs and parameters."""
    value = float(count)
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 1000 or unit == "T":
            return f"{value:.3g} {unit}".rstrip()
        value /= 1000
    raise AssertionError("unreachable")


def printable(text: str) -> str:
    """The text with escapes for what is no plain character: no name may steer the terminal.

    Control characters, those that turn the direction of writing, separators of lines, and halves
    of characters become \\x1b, \\u202e and so on; only a tab and '\\n' stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\t\n" else _escape(c) for c in text)


def printable_line(text: str) -> str:
    """The text as `printable` gives it, on one line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
