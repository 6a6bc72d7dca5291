"""Frames split by seed into those that fits may see and those that are held out."""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from .sets import Rows

# Fewer frames than this leave even a 16-channel adapter underdetermined.
MIN_FIT_FRAMES = 16


def split(
    count: int, unit: int, seed: int, share: float | None, limit: int | None, where: str
) -> tuple[Rows, Rows]:
    """Rows to fit on in random order, and rows held out, both in whole blocks of `unit` rows.

    Of `count` rows at most `limit` are drawn by `seed`; about `share` of them are held out, or all
    of them, in order, where it is None. Raises DataError, naming `where`, when MIN_FIT_FRAMES (none
    where all are held out) and one block held out do not fit in.
    """
    blocks = np.random.default_rng(seed).permutation(count // unit).astype(np.int64)
    blocks = blocks if limit is None else blocks[: limit // unit]
    least = 0 if share is None else -(-MIN_FIT_FRAMES // unit)
    needed = (least + 1) * unit
    if len(blocks) < least + 1:
        parts = f" ({least * unit} to fit on, {unit} held out)" if least else ""
        raise _too_few(count, limit, unit, f"{needed}{parts}", needed, where)
    if share is None:
        return _rows(blocks[:0], unit), _rows(np.sort(blocks), unit)
    held_out = min(max(round(share * len(blocks)), 1), len(blocks) - least)
    return _rows(blocks[held_out:], unit), _rows(blocks[:held_out], unit)


def _rows(blocks: Rows, unit: int) -> Rows:
    return (blocks[:, None] * unit + np.arange(unit, dtype=np.int64)).reshape(-1)


def _too_few(
    count: int, limit: int | None, unit: int, needed: str, least: int, where: str
) -> DataError:
    batches = f", in whole batches of {unit}" if unit > 1 else ""
    if limit is not None and limit < min(count, least):
        return DataError(
            f"a limit of {limit} frames is too low: at least {needed} are needed{batches}",
            f"raise the limit to {least} or more; a few hundred are usual",
        )
    return DataError(
        f"there are {count} frames in {where}, and at least {needed} are needed{batches}",
        "give more frames; a few hundred unlabelled ones are usual",
    )
