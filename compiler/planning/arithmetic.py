"""Which values of a plan's program are rounded, so that its operators compute in 8 bits.

After the plan: weights that are stored in 8 bits stand, and what each model loses is measured
against its file. All values that integer kernels need are rounded; where a floor is missed those
that cost most stay in float. Groups of neighbours are tried, and halved where they cost much, since
a few values cost most of it; full comparisons then decide how many go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ...passes.compute_in_eight_bits import put_in, ranges_of
from ..actions.compute_in_eight_bits import (
    TENSORRT,
    ComputeInEightBitsAction,
    macs_in_eight_bits,
    values_in_eight_bits,
)
from ..execution.outputs import OutputComparison
from ..fitting.effort import FULL, LOOK
from ..fitting.value_ranges import EightBits
from ..graph.program import Program, own_name
from ..progress import Progress
from .damage import unexplained
from .plan import PlannedAction
from .search import Planned
from .trial import Trial
from .workbench import Workbench

# A group is not halved where it costs less than its part of this share of an output's variance.
_ALLOWED = 0.01
# Groups that are tried at most.
_MOST_TRIED = 96

Grids = Mapping[str, EightBits]


class _Group(NamedTuple):
    """Neighbouring values, and the share of the worst output's variance that rounding them costs.

    That is what is lost beside what the plan loses without.
    """

    values: tuple[str, ...]
    cost: float


def in_eight_bits(
    bench: Workbench, planned: Planned, target: str, progress: Progress
) -> tuple[Planned, tuple[str, ...]]:
    """The plan with as many values rounded as the floors allow, model by model; and notes.

    Nothing is rounded of a model without weights in 8 bits.
    """
    plan, trial = planned
    program, notes, actions = trial.program.copy(), list[str](), list[ComputeInEightBitsAction]()
    for model in program.models:
        values = _new(program, values_in_eight_bits(program, model, target))
        if not values:
            notes.append(f"{model}: nothing of it has weights in 8 bits that integer kernels take")
            continue
        progress.stage(f"rounding values of {model}", None)
        reference = bench.evidence.reference(model, FULL)
        grids = ranges_of(program, values, target == TENSORRT, reference)
        kept = _within_floors(bench, program, grids, progress)
        if kept:
            put_in(program, kept)
            actions.append(ComputeInEightBitsAction(model, tuple(kept), target))
        notes.append(_told(program, model, [name for name in values if name not in kept], target))
    if not actions:
        return planned, tuple(notes)
    every = (*trial.actions, *actions)
    progress.stage("comparing outputs on held-out frames", None)
    moved = {name for action in every for name in bench.bills.affected(action)}
    compared = [
        one if one.model in moved else replace(one, lower=None) for one in bench.compare(program)
    ]
    found = Trial(every, program, trial.bill, tuple(compared))
    more = tuple(PlannedAction(action, fidelity=found.least) for action in actions)
    return (replace(plan, actions=(*plan.actions, *more)), found), tuple(notes)


def _new(program: Program, values: Sequence[str]) -> list[str]:
    """The values that are not rounded yet, for another model."""
    there = program.values()
    return [
        name for name in values if all(node.op != "QuantizeLinear" for node in there[name].outputs)
    ]


def _within_floors(bench: Workbench, program: Program, grids: Grids, progress: Progress) -> Grids:
    """The grids of all values, or of as many as keep every floor; those that cost least first."""
    if not grids or _met(bench.compare(_rounded(program, grids))):
        return grids
    groups = sorted(_groups(bench, program, grids, progress), key=_price)
    # From the top: a few values cost most, and on few frames more of them may lose less by chance.
    left = 1
    while left < len(groups):
        kept = _of(groups[:-left], grids)
        if _met(bench.compare(_rounded(program, kept))):
            return kept
        left *= 2
        progress.advance()
    return {}


def _groups(bench: Workbench, program: Program, grids: Grids, progress: Progress) -> list[_Group]:
    """All values in groups of neighbours, small where they cost much."""
    before = _lost(bench.compare(program, LOOK))
    waiting = [tuple(grids)]
    found: list[_Group] = []
    tried = 0
    while waiting:
        values = waiting.pop(0)
        few = {name: grids[name] for name in values}
        cost = max(_lost(bench.compare(_rounded(program, few), LOOK)) - before, 0.0)
        tried += 1
        progress.advance()
        fair = _ALLOWED * len(values) / len(grids)
        if len(values) == 1 or cost <= fair or tried >= _MOST_TRIED:
            found.append(_Group(values, cost))
        else:
            middle = len(values) // 2
            waiting += [values[:middle], values[middle:]]
    return found


def _price(group: _Group) -> tuple[float, str]:
    return group.cost / len(group.values), group.values[0]


def _of(groups: Sequence[_Group], grids: Grids) -> Grids:
    """The grids of the groups' values, in their own order."""
    chosen = {name for group in groups for name in group.values}
    return {name: grid for name, grid in grids.items() if name in chosen}


def _rounded(program: Program, grids: Grids) -> Program:
    found = program.copy()
    put_in(found, grids)
    return found


def _met(compared: Sequence[OutputComparison]) -> bool:
    return all(output.met for output in compared)


def _lost(compared: Sequence[OutputComparison]) -> float:
    return max((unexplained(output) for output in compared), default=0.0)


def _told(program: Program, model: str, left: Sequence[str], target: str) -> str:
    """How much of a model computes in 8 bits, and what does not."""
    rounded, macs = macs_in_eight_bits(program, model)
    share = (
        f"{model}: {100 * rounded / max(macs, 1):.0f} % of its MACs compute in 8 bits ({target})"
    )
    if not left:
        return share
    named = ", ".join(map(own_name, left[:3])) + (f" and {len(left) - 3} more" if left[3:] else "")
    return f"{share}; in float, since the floors would be missed: {named}"
