"""The front: plans for a set of models of which none is better than another in every way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..actions.action import Action
from ..actions.bill import Bill
from ..actions.kinds import chosen
from ..progress import Progress
from .damage import Output
from .limits import bill_of
from .plan import Plan, plan_of
from .search import Search
from .trial import Trial
from .workbench import Workbench

# Losses at which the program is solved, for each point that is asked for: several of them may have
# one answer, and answers do not lie evenly by size. More than so many hardly differ.
_SOLUTIONS, _MOST_SOLUTIONS = 2, 96
# The share of its variance that the worst output loses at the small end of the front.
_MOST_LOST = 0.7


@dataclass(frozen=True)
class FrontPoint:
    """A plan with what it costs and what it does to the outputs.

    `bill` is weight bytes and MACs per frame, those of the fitted program where there is a trial.
    `predicted` is the share of each output's variance that is predicted to be lost, 0 where an
    output is missing. `trial` is what was measured: fitted on all frames, compared on held-out
    ones; None where the point is a prediction only.
    """

    plan: Plan
    bill: Bill
    predicted: Mapping[Output, float]
    trial: Trial | None = None

    @property
    def lost(self) -> float:
        """The share of its variance that the worst output loses: as measured, else as predicted."""
        errors = self.predicted if self.trial is None else self.trial.errors
        return max(errors.values(), default=0.0)

    def dominates(self, other: FrontPoint) -> bool:
        """Whether it is no worse than the other in bytes, MACs and loss, and better in one."""
        mine = (self.bill.weights_nbytes, self.bill.macs, self.lost)
        theirs = (other.bill.weights_nbytes, other.bill.macs, other.lost)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs))


@dataclass(frozen=True)
class Front:
    """The points: first the exact program, then by falling size, none of those dominated.

    `notes` say what the front does not show: models without sites, points left out.
    """

    points: tuple[FrontPoint, ...]
    notes: tuple[str, ...] = ()


def front_of(exact: FrontPoint, others: Iterable[FrontPoint]) -> tuple[FrontPoint, ...]:
    """The exact program and those of the others that no other dominates, by falling size.

    Of points that are equal in all three the first stays.
    """
    kept: list[FrontPoint] = []
    for point in others:
        known = any(_figures(point) == _figures(one) for one in kept)
        if known or any(one.dominates(point) for one in kept):
            continue
        kept = [one for one in kept if not point.dominates(one)] + [point]
    return exact, *sorted(kept, key=lambda one: (-one.bill.weights_nbytes, -one.bill.macs))


def _figures(point: FrontPoint) -> tuple[Bill, float]:
    return point.bill, point.lost


def _nothing_found(refused: Mapping[str, str]) -> str:
    reasons = [f"{name}: {why}" for name, why in list(refused.items())[:3]]
    told = f" ({'; '.join(reasons)})" if reasons else ""
    return f"nothing was found that could be rewritten inexactly{told}: one point is all"


def _unseen(trial: Trial) -> None:
    """What nobody looks at."""


class Explorer:
    """Finds the front of a case's models.

    `seen` is called with every trial that a point may keep, while the trial has its program: the
    points themselves keep none, since a program is as large as the models.
    """

    def __init__(
        self,
        bench: Workbench,
        progress: Progress,
        seen: Callable[[Trial], None] = _unseen,
    ) -> None:
        self._bench = bench
        self._progress = progress
        self._seen = seen

    def front(self, points: int, measured: int) -> Front:
        """At most `points` points, of which `measured` beside the exact program are measured."""
        bench = self._bench
        self._progress.stage("measuring the exact program", None)
        start = bench.measure(())
        self._seen(start)
        exact = FrontPoint(plan_of(bench.case), bill_of(start.program), {}, start.remembered())
        if points == 1:
            return Front((exact,))
        kinds = chosen(bench.case.options.only, bench.case.options.without)
        search = Search(bench, kinds, self._progress)
        search.prepare()
        least = search.least_loss()
        solved = min(_SOLUTIONS * points, _MOST_SOLUTIONS)
        losses = [] if least is None else _geometric(least, _MOST_LOST, solved)
        proposals = sorted(search.sweep(losses), key=lambda one: -self._size(one.bill))
        if not proposals:
            return Front((exact,), (_nothing_found(search.refused),))
        picked = _thinned([self._size(one.bill) for one in proposals], points - 1)
        levels = [proposals[index].predicted.worst for index in picked]
        fitted = self._fitted(search, levels, measured)
        predicted = self._predicted(search, losses, [exact, *fitted])
        _, *kept = front_of(exact, [*fitted, *predicted])
        fixed = {index for index, point in enumerate(kept) if point.trial is not None}
        picked = _thinned([self._size(point.bill) for point in kept], points - 1, fixed)
        beaten = len(fitted) - len(fixed)
        notes = (f"points that were measured, and that others beat: {beaten}",) if beaten else ()
        return Front((exact, *(kept[index] for index in picked)), notes)

    def _predicted(
        self, search: Search, losses: Sequence[float], measured: Sequence[FrontPoint]
    ) -> list[FrontPoint]:
        """Points at these losses by what fits have taught, but for those that were measured.

        A prediction that beats what was measured is left out: the fits did not bear it out.
        """
        known = {point.trial.actions for point in measured if point.trial is not None}
        points = [
            FrontPoint(search.plan(one), one.bill, one.predicted.together)
            for one in search.sweep(losses)
            if one.actions not in known
        ]
        return [one for one in points if not any(map(one.dominates, measured))]

    def _fitted(self, search: Search, losses: Sequence[float], count: int) -> list[FrontPoint]:
        """So many points by full fits, each the smallest at one of the losses as then predicted.

        Those spread over the losses come first; where one was measured already, others follow.
        """
        found: dict[tuple[Action, ...], FrontPoint] = {}
        spread = _spread(len(losses), min(count, len(losses)))
        if count:
            self._progress.stage("measuring points of the front", count)
        for index in dict.fromkeys([*spread, *range(len(losses))]):
            if len(found) == count:
                break
            for proposal in search.sweep([losses[index]]):
                if proposal.actions not in found:
                    trial = search.fitted(proposal)
                    self._seen(trial)
                    plan, bill = search.plan(proposal, trial), bill_of(trial.program)
                    predicted = proposal.predicted.together
                    point = FrontPoint(plan, bill, predicted, trial.remembered())
                    found[proposal.actions] = point
        return list(found.values())

    def _size(self, bill: Bill) -> float:
        """Weight bytes and MACs together, as shares of those of the whole program."""
        whole = self._bench.bills.bill(())
        assert whole is not None
        return bill.share_of(whole)


def _thinned(sizes: Sequence[float], count: int, fixed: Collection[int] = frozenset()) -> list[int]:
    """The indices of so many of falling sizes, evenly spread: both ends, and what is `fixed`."""
    kept = list(range(len(sizes)))
    while len(kept) > count:
        gaps = [
            (abs(sizes[before] - sizes[after]), one)
            for before, one, after in zip(kept, kept[1:], kept[2:])
            if one not in fixed
        ]
        kept.remove(min(gaps)[1] if gaps else next(one for one in kept if one not in fixed))
    return kept


def _geometric(first: float, last: float, count: int) -> list[float]:
    """So many numbers from the first to the last, each the same multiple of the one before."""
    first = min(first, last)
    return [first * (last / first) ** (part / max(count - 1, 1)) for part in range(count)]


def _spread(length: int, count: int) -> list[int]:
    """So many of the indices of a list, from its first to its last."""
    return [round((length - 1) * part / max(count - 1, 1)) for part in range(count)]
