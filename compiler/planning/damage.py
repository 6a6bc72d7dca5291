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

Output = tuple[str, str]  # model, and its own name of the output


def unexplained(output: OutputComparison) -> float:
    """The share of an output's variance that was lost, 0 to 1; 1 where it is undefined."""
    return 1.0 if math.isnan(output.explained) else min(1.0, max(0.0, 1.0 - output.explained))


def worst(compared: Sequence[OutputComparison]) -> float:
    """The damage to the output that suffers most: what combinations are compared by."""
    damages = [max(0.0, output.loss) + _UNEXPLAINED * unexplained(output) for output in compared]
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


def fed_by(actions: Sequence[Action]) -> dict[str, set[str]]:
    """The models that take from each model, through others too: what its trunk moves."""
    fed: dict[str, set[str]] = {}
    for action in actions:
        *donors, receiver = action.models
        for donor in donors:
            if donor != receiver:
                fed.setdefault(donor, set()).add(receiver)
    for donor in sorted(fed):
        left = sorted(fed[donor])
        while left:
            further = fed.get(left.pop(), set()) - fed[donor] - {donor}
            fed[donor] |= further
            left += sorted(further)
    return fed


def predicted(
    base: Mapping[Output, float],
    alone: Sequence[Mapping[Output, float]],
    actions: Sequence[Action],
) -> dict[Output, float]:
    """Errors of a sharing plan with removals on top, each measured without it: they add up.

    `base` are the plan's errors, `alone` those of each removal, `actions` the plan. What moves a
    model moves those that take from it.
    """
    fed = fed_by(actions)
    errors = dict(base)
    for removal in alone:
        moved: dict[str, float] = {}
        for (model, _), error in removal.items():
            for name in (model, *sorted(fed.get(model, ()))):
                moved[name] = max(moved.get(name, 0.0), error)
        for output in errors:
            errors[output] += removal.get(output, moved.get(output[0], 0.0))
    return errors
