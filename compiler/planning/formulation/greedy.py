"""A combination without a solver: one move after another, that which costs least for its saving."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Mapping

# What a move without any damage is taken to do: of two such the one that saves more comes first.
_LEAST = 1e-9

Price = Callable[[frozenset[int]], float | None]
"""What there is still to save under some moves; 0: nothing, None: they cannot stand together."""


def greedily(
    first: Mapping[int, float], price: Price, damage: Callable[[Collection[int]], float]
) -> frozenset[int]:
    """Moves until nothing is left to save, or none saves any more; none of them in vain.

    `first` are the moves there are, with what each is expected to save by itself.
    """
    chosen: frozenset[int] = frozenset()
    left = price(chosen)
    queue = [(_ratio(damage([move]), saving), move) for move, saving in first.items() if saving > 0]
    heapq.heapify(queue)
    in_vain: list[int] = []
    while queue and left is not None and left > 0:
        _, move = heapq.heappop(queue)
        after = price(chosen | {move})
        if after is None:
            continue
        if after >= left:
            in_vain.append(move)
            continue
        ratio = _ratio(damage(chosen | {move}) - damage(chosen), left - after)
        # Others may have become better since this one was looked at.
        if queue and ratio > queue[0][0]:
            heapq.heappush(queue, (ratio, move))
            continue
        chosen, left = chosen | {move}, after
        # What saved nothing before may save something now: the other half of a prefix.
        queue += [(math.inf, one) for one in in_vain]
        in_vain = []
    for move in sorted(chosen, key=lambda one: (-damage([one]), one)):
        without = price(chosen - {move})
        if left is not None and without is not None and without <= left:
            chosen, left = chosen - {move}, without
    return chosen


def _ratio(damage: float, saving: float) -> float:
    return max(damage, _LEAST) / saving
