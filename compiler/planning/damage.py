"""Combinations of sharing and depth as values: what they do, what they cost, which is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..actions.bill import Bill
from ..actions.fold_actions import FoldAction
from ..execution.outputs import OutputComparison
from ..graph.program import Program
from ..structure.cost import program_cost
from .plan import Action, CollapseAction, PlannedAction, SharePrefixAction

# What an output's unexplained variance adds to its expected loss of accuracy. Points lost by 23
# outputs, swapped and with blocks out, go with loss + 0.25 unexplained at r = 0.96 (rank 0.96);
# with the loss alone at 0.94 (0.90), with the unexplained variance alone at 0.85 (0.89). Frames
# that the nets were trained on hide what a swap costs: resnet20 for resnet44 is expected to lose
# 0.4 points and loses 2.1, and only the variance tells.
_UNEXPLAINED = 0.25
# Biases that folds move about are not on the bill; what is over it by more than this share was in
# vain.
_TOLERANCE = 0.01

Output = tuple[str, str]  # model, and its own name of the output


@dataclass(frozen=True)
class Limits:
    """What the program may need: weight bytes and multiply-accumulates per frame; None is any."""

    weights_nbytes: int | None = None
    macs: int | None = None

    def excess(self, bill: Bill) -> float:
        """By how much a bill is over, as shares of the limits added up; 0 within."""
        over = 0.0
        for limit, used in ((self.weights_nbytes, bill.weights_nbytes), (self.macs, bill.macs)):
            if limit is not None:
                over += max(0.0, used / max(limit, 1) - 1.0)
        return over

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.weights_nbytes is not None or self.macs is not None


def fits(program: Program, limits: Limits, excess: Callable[[Program], int]) -> bool:
    """Whether a program is within the limits; `excess` is the last word on memory."""
    macs = limits.macs is None or program_cost(program).macs <= limits.macs
    return macs and excess(program) <= 0


def as_promised(program: Program, bill: Bill) -> bool:
    """Whether a program costs what its actions were billed: a fold may have been in vain."""
    cost = program_cost(program)
    more = cost.weights_nbytes - bill.weights_nbytes, cost.macs - bill.macs
    return more[0] <= _TOLERANCE * bill.weights_nbytes and more[1] <= _TOLERANCE * bill.macs


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


@dataclass(frozen=True)
class Way:
    """A combination as tried: what is shared, what is out, what that did, and what it costs.

    `damage` is that of `worst`, `error` that of `spread`.
    """

    shared: tuple[PlannedAction, ...]
    gone: tuple[PlannedAction, ...]
    damage: float
    error: float
    bill: Bill

    @property
    def planned(self) -> tuple[PlannedAction, ...]:
        """Everything that it does."""
        return (*self.gone, *self.shared)

    @property
    def actions(self) -> tuple[Action, ...]:
        """Everything that it does, without what was expected of it."""
        return tuple(planned.action for planned in self.planned)

    @property
    def folded(self) -> bool:
        """Whether folds are among what is out."""
        return any(isinstance(planned.action, FoldAction) for planned in self.gone)


def described(actions: Sequence[Action]) -> str:
    """What a plan consists of, in words: '2 prefixes shared, 1 region out'."""
    counts = {"prefix shared": 0, "region out": 0, "fold": 0}
    plurals = {"prefix shared": "prefixes shared", "region out": "regions out", "fold": "folds"}
    for action in actions:
        kind = "fold"
        if isinstance(action, SharePrefixAction):
            kind = "prefix shared"
        elif isinstance(action, CollapseAction):
            kind = "region out"
        counts[kind] += 1
    parts = [f"{n} {what if n == 1 else plurals[what]}" for what, n in counts.items() if n]
    return ", ".join(parts) or "nothing inexact"


def fed_by(actions: Sequence[Action]) -> dict[str, set[str]]:
    """The models that take from each model, through others too: what its trunk moves."""
    fed: dict[str, set[str]] = {}
    for action in actions:
        if action.donor != action.receiver:
            fed.setdefault(action.donor, set()).add(action.receiver)
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
