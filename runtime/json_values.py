"""Dataclasses as JSON: what is written is their fields, under their own names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast


class JsonValue:
    """A dataclass whose fields are its JSON."""

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types; a non-finite number is written as 'nan', 'inf' or '-inf'."""
        return json_fields(self)


def json_number(value: float) -> float | str:
    """The number, or 'nan', 'inf', '-inf': JSON has no words for those and its readers stop."""
    return float(value) if math.isfinite(value) else str(float(value))


def json_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON types under their own names, in their order."""
    return {field.name: _json(getattr(value, field.name)) for field in fields(value)}


def _json(value: Any) -> Any:
    if isinstance(value, JsonValue):  # it may say more than its fields
        return value.to_json()
    if is_dataclass(value):
        return json_fields(value)
    if isinstance(value, float):
        return json_number(value)
    if isinstance(value, (tuple, list)):
        return [_json(item) for item in cast("tuple[Any, ...]", value)]
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return value
