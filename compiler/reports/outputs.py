"""What a run computed, as values and as a table: shapes and the largest scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.json_values import json_number
from .table import Grid, figures, words

SCHEMA = "repsimc.outputs/1"
_TOP = 5
# Larger arrays belong into a file (-o), not on a terminal.
_LISTED = 1024

Outputs = Mapping[str, Mapping[str, NDArray[Any]]]


def outputs_grid(outputs: Outputs) -> Grid:
    """A row per output: shape, range, and for scores [N, C] the top classes of the first row."""
    return Grid(
        title="",
        columns=words("model", "output", "shape")
        + figures("from", "to")
        + words("top values of row 0 (index: value)"),
        rows=tuple(
            (
                model,
                name,
                f"{array.dtype} {list(array.shape)}",
                *_range(array),
                ", ".join(f"{index}: {value:.4g}" for index, value in _top(array)) or "-",
            )
            for model, named in outputs.items()
            for name, array in named.items()
        ),
    )


def outputs_json(outputs: Outputs) -> dict[str, Any]:
    """The outputs as JSON types: `values` is null where an array has more than 1024 elements."""
    return {
        "schema": SCHEMA,
        "outputs": [
            {
                "model": model,
                "output": name,
                "dtype": str(array.dtype),
                "shape": list(array.shape),
                "top": [{"index": i, "value": json_number(value)} for i, value in _top(array)],
                "values": _values(array) if array.size <= _LISTED else None,
            }
            for model, named in outputs.items()
            for name, array in named.items()
        ],
    }


def _numeric(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "iufb" and array.size > 0


def _range(array: NDArray[Any]) -> tuple[str, str]:
    if not _numeric(array):
        return "-", "-"
    return f"{float(array.min()):.4g}", f"{float(array.max()):.4g}"


def _top(array: NDArray[Any]) -> list[tuple[int, float]]:
    if not _numeric(array) or array.ndim != 2 or array.dtype.kind != "f":
        return []
    row = array[0].astype(np.float64)
    # Stable, so that equal scores are listed by index on every machine.
    order = np.argsort(-row, kind="stable")[:_TOP]
    return [(int(index), float(row[index])) for index in order]


def _values(array: NDArray[Any]) -> Any:
    if array.dtype.kind == "f":
        flat = [json_number(float(value)) for value in array.ravel()]
        return np.array(flat, object).reshape(array.shape).tolist()
    if array.dtype.kind in "iubO":
        return array.tolist()
    return array.astype(str).tolist()
