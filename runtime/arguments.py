"""What Python callers pass, as the type that is wanted: NumPy's numbers and paths as text too.

Whatever is of another type raises UsageError that names the argument: nobody's traceback is to end
in a comparison of a text with a number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, cast

from .errors import UsageError

Item = TypeVar("Item")
_SHOWN = 80  # characters of a value that is wrong


def wrong(name: str, value: object, wanted: str) -> UsageError:
    """The error that says that this argument is not what was `wanted`."""
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return UsageError(f"{name}={shown} is not {wanted}", f"give {name} as {wanted}")


def flag(name: str, value: object) -> bool:
    """The truth value. Raises UsageError."""
    kind = type(value)
    if kind is not bool and (kind.__module__, kind.__name__.rstrip("_")) != ("numpy", "bool"):
        raise wrong(name, value, "True or False")
    return bool(value)


def whole(name: str, value: object) -> int:
    """The whole number, of 64 bits. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, Integral):  # NumPy's are Integral
        raise wrong(name, value, "a whole number")
    found = int(value)
    if not -(1 << 63) <= found < 1 << 63:
        raise wrong(name, value, "a whole number of 64 bits")
    return found


def number(name: str, value: object) -> float:
    """The finite number. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise wrong(name, value, "a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise wrong(name, value, "a finite number")
    return found


def text(name: str, value: object) -> str:
    """The text. Raises UsageError."""
    if not isinstance(value, str):
        raise wrong(name, value, "a text")
    return str(value)


def path(name: str, value: object) -> Path:
    """The path of a text or of anything that is a path. Raises UsageError."""
    if isinstance(value, os.PathLike):
        value = os.fsdecode(cast("os.PathLike[str]", value))
    if not isinstance(value, str) or not value or "\0" in value:
        raise wrong(name, value, "a path")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise wrong(name, value, "a path that this system can write") from None
    return Path(value)


def several(name: str, value: object, read: Callable[[str, object], Item]) -> tuple[Item, ...]:
    """What `read` makes of each of several values; a text or path alone is several of one.

    Raises UsageError.
    """
    given: Any = value
    if isinstance(given, (str, os.PathLike)):
        given = [given]
    if isinstance(given, (Mapping, bytes)):
        raise wrong(name, value, "a list")
    try:
        items = list(cast("Iterable[object]", given))
    except TypeError:  # NumPy's array of no axes says that it can be iterated
        raise wrong(name, value, "a list") from None
    return tuple(read(name, item) for item in items)


def table(name: str, value: object, read: Callable[[str, object], Item]) -> dict[str, Item]:
    """What `read` makes of each value of a mapping from texts. Raises UsageError."""
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a mapping")
    found: dict[str, Item] = {}
    for key, item in cast("Mapping[object, object]", value).items():
        found[text(f"{name} key", key)] = read(f"{name}[{key!r}]", item)
    return found
