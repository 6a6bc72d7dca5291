"""Damage to outputs as numbers: of one, of several, and as removals apart predict it together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..actions.action import Action
from ..execution.outputs import OutputComparison

# What an output's unexplained variance adds to its expected loss of accuracy. Points lost by 23
# outputs, swapped and with blocks out, go with loss + 0.25 unexplained at r = 0.96 (rank 0.96);
# with the loss alone at 0.94 (0.90), with the unexplained variance alone at 0.85 (0.89). Frames
# that the nets were trained on hide what a swap costs: resnet20 for resnet44 is expected to lose
# 0.4 points and loses 2.1, and only the variance tells.
_UNEXPLAINED = 0.25

# Frames that may change sides without counting.
_FEW = 2.0
# An output that has lost so much of its variance is lost.
_SATURATED = 0.95

Output = tuple[str, str]  # model, and its own name of the output


def unexplained(output: OutputComparison) -> float:
    """The share of an output's variance that was lost, 0 to 1; 1 where it is undefined."""
    return 1.0 if math.isnan(output.explained) else min(1.0, max(0.0, 1.0 - output.explained))


def cost_of(error: float) -> float:
    """An output's lost share of variance as a number that adds up over actions.

    What is left of the variance multiplies: two actions that lose half each leave a quarter. For
    small shares the number is the share; beyond 95 % it does not grow.
    """
    return -math.log1p(-min(max(error, 0.0), _SATURATED))


def error_of(cost: float) -> float:
    """The lost share of variance of which `cost_of` makes that number."""
    return -math.expm1(-cost)


def worst(compared: Sequence[OutputComparison]) -> float:
    """The damage to the output that suffers most: what combinations are compared by."""
    damages = [max(0.0, output.loss) + _UNEXPLAINED * unexplained(output) for output in compared]
    return max(damages, default=0.0)


def felt(compared: Sequence[OutputComparison]) -> float:
    """The damage to the output that suffers most, without what one or two frames decide.

    Plans that are nearly as good as each other differ by frames that would change sides again.
    """
    damages = [
        max(0.0, output.loss - _FEW / max(output.frames, 1)) + _UNEXPLAINED * unexplained(output)
        for output in compared
    ]
    return max(damages, default=0.0)


def errors_of(compared: Sequence[OutputComparison]) -> dict[Output, float]:
    """The unexplained variance of each output."""
    return {(output.model, output.output): unexplained(output) for output in compared}


def spread(errors: Mapping[Output, float], outputs: int) -> float:
    """The root of the mean square over so many outputs: one that suffers much counts for more."""
    return math.sqrt(sum(error * error for error in errors.values()) / max(outputs, 1))


def described(actions: Sequence[Action]) -> str:
    """What a plan consists of, in words: '2 prefixes shared, 1 region out'."""
    counts: dict[tuple[str, str], int] = {}
    for action in sorted(actions, key=lambda action: (-len(action.models), action.stage)):
        counts[action.counted] = counts.get(action.counted, 0) + 1
    parts = [f"{n} {one if n == 1 else several}" for (one, several), n in counts.items()]
    return ", ".join(parts) or "nothing inexact"
