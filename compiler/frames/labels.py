"""Labels beside frames, where accuracy is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .array_files import Allowance
from .sets import NAMELESS, ImageFiles, Rows, read_set


def load_labels(path: Path, name: str, rows: Rows | None = None) -> NDArray[np.int64]:
    """Labels [frames] from array `name` of an .npz, or of a folder of them in the frames' order.

    Class indices: integers, shape [n] or [n, 1]. Raises DataError saying what the file holds, or
    that it has too few labels for the `rows` in use.
    """
    given = read_set(path, Allowance())
    if isinstance(given, ImageFiles) or NAMELESS in given.columns:
        raise DataError(f"{path} has no named arrays to take labels from", "give an .npz")
    pieces = given.columns.get(name)
    if pieces is None:
        raise DataError(
            f"{path} has no array '{name}' for labels; it holds {given.listing()}",
            "name the array that holds one class index per frame",
        )
    if name in given.missing:
        raise DataError(f"{given.missing[name]} has no array '{name}' for labels", "add it there")
    for piece in pieces:
        flat = len(piece.shape) == 1 or (len(piece.shape) == 2 and piece.shape[1] == 1)
        if not flat or piece.dtype.kind not in "iu":
            raise DataError(
                f"{piece.where} is {piece.dtype} {list(piece.shape)}, and labels are one integer "
                "per frame",
                "save class indices: np.savez(path, labels=scores.argmax(-1))",
            )
    labels = np.concatenate([piece.array.reshape(-1).astype(np.int64) for piece in pieces])
    if rows is not None and len(labels) <= (last := int(rows.max(initial=-1))):
        raise DataError(
            f"{path} has {len(labels)} labels '{name}' for {last + 1} frames",
            "give one label per frame, in the frames' order",
        )
    return labels


def require_classes(labels: NDArray[np.int64], classes: int, model: str, output: str) -> None:
    """Raise DataError for a label that is no index of an output's so many classes."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"a label is {int(wrong[0])}, and output '{output}' of model '{model}' has {classes} "
            "classes",
            f"give this model its own labels: --labels {model}=NAME",
        )
