"""Reading what a plan file holds: each reader gives the entry or says where it is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from ..errors import ModelError


def table(data: object, where: str) -> Mapping[str, Any]:
    """A JSON object. Raises ModelError for anything else."""
    if not isinstance(data, dict):
        raise ModelError(f"{where} is not a table")
    return cast("dict[str, Any]", data)


def items(data: object, where: str) -> list[Any]:
    """A JSON list. Raises ModelError for anything else."""
    if not isinstance(data, list):
        raise ModelError(f"{where} is not a list")
    return cast("list[Any]", data)


def text(entry: Mapping[str, Any], key: str, where: str) -> str:
    """A name under `key`, not empty. Raises ModelError for anything else."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ModelError(f"{where}: {key} is {value!r}, not a name")
    return value


def optional(data: object) -> Mapping[str, Any]:
    """Entries that a plan edited by hand may lack, or hold in any form."""
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def number(entry: Mapping[str, Any], key: str) -> float | None:
    """A finite number under `key`; None for anything else."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def kernel(entry: Mapping[str, Any], where: str) -> int:
    """An adapter's window under `kernel`: 0, 1 or 3. Raises ModelError for anything else."""
    window = entry.get("kernel")
    if isinstance(window, bool) or window not in (0, 1, 3):
        raise ModelError(f"{where}: kernel is {window!r}, not 0, 1 or 3")
    return int(window)
