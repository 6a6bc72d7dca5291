"""Frames split by seed into those that fits may see and those that are held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .scenes import merged
from .sets import Rows

# Fewer frames than this leave even a 16-channel adapter underdetermined.
MIN_FIT_FRAMES = 16
# Frames are held out in so many runs of consecutive ones, at most: frames of a film, or of a burst,
# are alike, and some that lie between others of the other side are fitted with the rest.
RUNS = 40


class Split(NamedTuple):
    """Rows to fit on in random order, rows held out, and the scene of each row in use.

    `scenes` are pairs (row, scene) [n, 2]; none where all rows are held out.
    """

    fit: Rows
    held_out: Rows
    scenes: Rows


def split(
    count: int,
    unit: int,
    seed: int,
    share: float | None,
    limit: int | None,
    where: str,
    scenes_of: Callable[[Rows, int, int], Rows],
) -> Split:
    """`count` rows in two parts, both in whole batches of `unit` rows, alike ones in one of them.

    At most `limit` rows are drawn by `seed`; about `share` of them are held out, or all of them, in
    order, where it is None. Held out are runs of consecutive rows, and whole scenes: those that
    `scenes_of` says the rows are of (cut into runs where they are larger than so many). Raises
    DataError, naming `where`, when MIN_FIT_FRAMES (none where all are held out) and one batch held
    out do not fit in.
    """
    random = np.random.default_rng(seed)
    batches = random.permutation(count // unit).astype(np.int64)
    batches = np.sort(batches if limit is None else batches[: limit // unit])
    least = 0 if share is None else -(-MIN_FIT_FRAMES // unit)
    needed = (least + 1) * unit
    if len(batches) < least + 1:
        parts = f" ({least * unit} to fit on, {unit} held out)" if least else ""
        raise _too_few(count, limit, unit, f"{needed}{parts}", needed, where)
    if share is None:
        return Split(batches[:0], _rows(batches, unit), np.zeros((0, 2), dtype=np.int64))
    wanted = min(max(round(share * len(batches)), 1), len(batches) - least)
    run = max(1, len(batches) // RUNS)
    rows = _rows(batches, unit)
    scenes = scenes_of(rows, max(wanted * unit // 2, 1), run * unit)
    starts: Rows = random.permutation(-(-len(batches) // run)).astype(np.int64) * run
    order = (starts[:, None] + np.arange(run, dtype=np.int64)).reshape(-1)
    order = order[order < len(batches)]
    held = _held(merged(scenes, unit), order, wanted)
    fit, held_out = random.permutation(batches[~held]), random.permutation(batches[held])
    return Split(_rows(fit, unit), _rows(held_out, unit), np.stack([rows, scenes], axis=1))


def _held(scenes: Rows, order: Rows, wanted: int) -> NDArray[np.bool_]:
    """Which batches to hold out: whole scenes in that order, at most as many as are wanted."""
    each: list[int] = scenes.tolist()
    members = Counter(each)
    taken: dict[int, bool] = {}
    count = 0
    for batch in order:
        scene = each[int(batch)]
        if scene not in taken:
            taken[scene] = count + members[scene] <= wanted
            count += members[scene] if taken[scene] else 0
    if count < wanted / 2:  # hardly more scenes than parts: runs are all there is to go by
        return np.isin(np.arange(len(scenes)), order[:wanted])
    return np.array([taken[scene] for scene in each], dtype=bool)


def _rows(batches: Rows, unit: int) -> Rows:
    return (batches[:, None] * unit + np.arange(unit, dtype=np.int64)).reshape(-1)


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
