"""The search: the integer program proposes, trials on few frames compare, full fits decide.

Every round the program is solved on what is predicted, what it chose is tried on few frames, and
the predictions are corrected by what came of it. Beside the choice of all kinds some are tried that
do without one of them, which tells the kinds' corrections apart. The best of the trials are fitted
on all frames, and compared on frames that no fit has seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ..actions.action import Action
from ..actions.kinds import Kind
from ..fitting.effort import PROPOSAL
from ..progress import Progress
from .chooser import Chooser, Outlook
from .damage import felt
from .forecast import Prediction
from .known import Known
from .limits import Excess, Limits, bill_of, fits
from .plan import Plan
from .trial import Trial
from .workbench import Workbench

# Choices tried on few frames at most, and full fits at most.
PROPOSALS, ROUNDS = 5, 3
# A choice that is predicted to lose less of any output is fitted on all frames at once.
_SMALL = 3e-3
# What leaves less of every output's variance unexplained is not put in question.
_CONTENT = 0.01
# A trial is carried out beside the best one if it did at most so much more damage.
_NEAR = 1.05
# How many trials look for the least that keeps the floors, before a full fit.
_TRIES = 6
# Fits on all frames win back so much of what a trial on few lost at most, but for a few frames.
_WON_BACK, _FEW = 4.0, 4.0
# Of what floors allow, what is counted on where a plan is promised that was not fitted.
_MARGIN = 0.5
# With no budget: by how much the allowed error is raised, or lowered, between two trials at most,
# and how near to each other two may be.
_STEP, _CLOSE = 2.0, 1.2

Planned = tuple[Plan, Trial]
"""A plan, and the program that came of it when it was fitted on all frames."""


class Search:
    """Plans for a workbench's program; what was looked at and measured is kept between budgets."""

    def __init__(self, bench: Workbench, kinds: Sequence[Kind], progress: Progress) -> None:
        self._bench = bench
        self._progress = progress
        self._chooser = Chooser(bench, kinds, progress, bench.compare(bench.program))
        self._tried: dict[frozenset[Action], tuple[Trial, int]] = {}
        self._carried_out: dict[frozenset[Action], Trial] = {}
        self._predicted: dict[frozenset[Action], Prediction] = {}
        self.cut_short = ""

    def prepare(self, known: Known | None = None) -> None:
        """Find what could be done and look at it; `known` was learned earlier, of the same."""
        self._chooser.prepare(known)

    def known(self) -> Known:
        """What was learned so far."""
        return self._chooser.known()

    @property
    def refused(self) -> Mapping[str, str]:
        """Why there is nothing to rewrite, by model or value."""
        return self._chooser.refused

    def why_alone(self) -> Mapping[str, str]:
        """By model why nothing was done to it, or no more."""
        return self._chooser.why_alone()

    def lost_by_rounding(self) -> Mapping[str, float]:
        """By node what storing its weight in few bits is predicted to lose, at least."""
        return self._chooser.lost_by_rounding()

    def outlook(self, limits: Limits) -> Outlook | None:
        """The least damage within the limits as it is predicted; None where nothing is within."""
        return self._chooser.within(limits)

    def smallest_outlook(self, look: bool = True) -> Outlook:
        """The least that is predicted to keep the floors, with a margin; unless `look`, as known.

        Where nothing was measured yet, one trial on few frames corrects the prediction.
        """
        outlook = self._chooser.smallest(_MARGIN, look)
        if self._tried or not outlook.actions or self._bench.deadline.over:
            return outlook
        self._try(outlook, lambda program: 0)
        return self._chooser.smallest(_MARGIN, look=False)

    def least_tried(self, outlook: Outlook) -> float:
        """The lowest fidelity of a choice as it was tried on few frames, or else as predicted."""
        tried = self._tried.get(frozenset(outlook.actions))
        return outlook.fidelity if tried is None else tried[0].least

    # -- the whole trade-off ---------------------------------------------------------------------

    def least_loss(self) -> float | None:
        """The least share of variance that any action is predicted to cost its worst output.

        Of those that cost something: what is free is in every plan. None without any action.
        """
        return self._chooser.least_loss()

    def sweep(self, losses: Iterable[float]) -> list[Outlook]:
        """The smallest that are predicted to lose at most these shares of any output's variance.

        Each is there once, and none without an action.
        """
        found: dict[frozenset[Action], Outlook] = {}
        for lost in losses:
            outlook = self._chooser.smallest_losing(lost)
            if outlook.actions:
                found.setdefault(frozenset(outlook.actions), outlook)
        return list(found.values())

    def fitted(self, outlook: Outlook) -> Trial:
        """A choice by a full fit, from which the predictions learn; the trial is not kept."""
        trial = self._bench.measure(outlook.actions)
        self._chooser.learn(outlook, trial)
        return trial

    def plan(self, outlook: Outlook, trial: Trial | None = None) -> Plan:
        """The plan of a choice, with what was measured of it."""
        least = None if trial is None else trial.least
        return self._chooser.plan(outlook.actions, outlook.predicted, least)

    # -- within limits ---------------------------------------------------------------------------

    def within(self, limits: Limits, excess: Excess) -> tuple[Planned | None, list[Trial]]:
        """The least damage within the limits and floors, and all that was fitted for it.

        What was fitted for other limits, and is within these, is as good as fitted for them.
        Nothing is fitted on all frames where a trial on few says that it would be in vain.
        """
        fitted: list[Trial] = []
        for _ in range(ROUNDS):
            done = [frozenset(trial.actions) for trial in fitted]
            missed = [frozenset(trial.actions) for trial in fitted if not trial.met]
            outlooks = self._proposals(limits, excess, missed)
            new = [one for one in outlooks if frozenset(one.actions) not in done]
            best = self._best(limits, excess)
            near = new[:1] if best is None else [one for one in new[:1] if self._near(one, best)]
            if not near or self._in_vain(near[0]) or self._over(len(fitted)):
                break
            trial = self._carry_out(near[0])
            fitted.append(trial)
            if not trial.met and self._chooser.doubt_free():
                continue
            over = excess(trial.program)
            if over > 0 and limits.weights_nbytes is not None:
                limits = _tightened(limits, trial, over)
            elif fits(trial.program, limits, excess):
                limits = _with_room(limits, trial, -over)
                if trial.met and max(trial.errors.values(), default=0.0) <= _CONTENT:
                    break
        best = self._best(limits, excess)
        return None if best is None else self._planned(best), fitted

    def _best(self, limits: Limits, excess: Excess) -> Trial | None:
        """The least damage of all that was fitted on all frames, within limits and floors."""
        known = self._carried_out.values()
        kept = [one for one in known if one.met and fits(one.program, limits, excess)]
        return min(kept, key=lambda trial: felt(trial.outputs), default=None)

    def _near(self, outlook: Outlook, best: Trial) -> bool:
        """Whether a choice did hardly more damage, on few frames, than the best did there."""
        mine = self._tried.get(frozenset(outlook.actions))
        other = self._tried.get(frozenset(best.actions))
        if mine is None or other is None:
            return outlook.error < max(best.errors.values(), default=0.0)
        return felt(mine[0].outputs) <= _NEAR * felt(other[0].outputs)

    def _in_vain(self, outlook: Outlook) -> bool:
        """Whether a choice, as tried on few frames, misses a floor by more than fits win back."""
        tried = self._tried.get(frozenset(outlook.actions))
        return tried is not None and any(
            1.0 - one.value - _FEW / max(one.frames, 1) > _WON_BACK * (1.0 - one.floor)
            for one in tried[0].outputs
        )

    def _proposals(
        self, limits: Limits, excess: Excess, barred: Sequence[frozenset[Action]]
    ) -> list[Outlook]:
        """Choices within the limits, that of the best trial first; one where little is at stake.

        Sets of actions that are `barred` missed a floor.
        """
        found: list[tuple[float, Outlook]] = []
        for outlook in self._choices(limits, barred):
            known = any(outlook.actions == other.actions for _, other in found)
            if known or len(found) == PROPOSALS:
                break
            if not found and (outlook.error <= _SMALL or self._bench.deadline.over):
                return [outlook]
            trial, over = self._try(outlook, excess)
            if over > 0 and limits.weights_nbytes is not None:
                return self._proposals(_tightened(limits, trial, over), excess, barred)
            found.append((felt(trial.outputs), outlook))
            if self._bench.deadline.over or self._in_vain(outlook):
                break
        return [outlook for _, outlook in sorted(found, key=lambda one: one[0])]

    def _choices(self, limits: Limits, barred: Sequence[frozenset[Action]]) -> Iterator[Outlook]:
        """The choice of all kinds; those without one of them; that with what was learned.

        Beside a single action, the next best: what it is predicted to do nothing else corrects.
        """
        first = self._chooser.within(limits, barred)
        if first is None:
            return
        yield first
        if len(first.actions) == 1:
            other = self._chooser.within(limits, [*barred, frozenset(first.actions)])
            if other is not None:
                yield other
        for kind in self._chooser.kinds_that_matter(first):
            other = self._chooser.within(limits, barred, {kind})
            if other is not None:
                yield other
        while (again := self._chooser.within(limits, barred)) is not None:
            yield again

    # -- without limits --------------------------------------------------------------------------

    def smallest(self, rounds: int = ROUNDS) -> Planned:
        """The least by bytes and MACs together that keeps the floors, by so many full fits.

        What is expected to keep them, as it was tried on few frames, is fitted on all. Where it
        does not, less is allowed from then on.
        """
        best = self._bench.measure(())
        factor, most = 1.0, math.inf
        for done in range(rounds):
            found = self._promising(factor, most, done)
            if found is None or self._over(done):
                break
            allowed, outlook = found
            trial = self._carry_out(outlook)
            if trial.met:
                best = min(best, trial, key=self._size)
                break
            if not self._chooser.doubt_free():
                factor, most = allowed / _STEP, allowed
        return self._planned(best)

    def _promising(self, factor: float, most: float, done: int) -> tuple[float, Outlook] | None:
        """The least choice that is expected to keep the floors after a trial on few frames.

        With the share of what the floors allow by which it was found, below `most`; `factor` is
        tried first. Predictions are corrected by every trial, so that the same share is asked for
        again until nothing changes by it. Where no choice is, the mildest one that was tried: few
        frames prove nothing.
        """
        low, high = 0.0, most
        kept: list[tuple[float, float, Outlook]] = []
        others: list[tuple[float, float, Outlook]] = []
        for _ in range(_TRIES):
            if self._over(done):
                break
            outlook = self._chooser.smallest(factor)
            met, known = self._kept(outlook)
            if outlook.actions and frozenset(outlook.actions) not in self._carried_out:
                if met:
                    kept.append((self._share(outlook), factor, outlook))
                else:
                    others.append((outlook.error, factor, outlook))
            if not met and not known:
                continue  # what the trial taught may be all that was wrong
            low, high = (factor, high) if met else (low, factor)
            factor = _between(factor, low, high)
            if low > 0 and high / low < _CLOSE:
                break
        found = kept or others
        if not found:
            return None
        _, factor, outlook = min(found, key=lambda one: one[:2])
        return factor, outlook

    def _kept(self, outlook: Outlook) -> tuple[bool, bool]:
        """Whether a choice keeps the floors, or is expected to when fitted on all frames.

        And whether that was known before.
        """
        key = frozenset(outlook.actions)
        if not key:
            return False, True
        if key in self._carried_out:
            return self._carried_out[key].met, True
        known = key in self._tried
        trial, _ = self._try(outlook, lambda program: 0)
        return self._chooser.may_meet(trial), known

    def _share(self, outlook: Outlook) -> float:
        whole = self._bench.bills.bill(())
        assert whole is not None
        return outlook.bill.share_of(whole)

    def _size(self, trial: Trial) -> float:
        whole, bill = self._bench.bills.bill(()), bill_of(trial.program)
        assert whole is not None
        return bill.share_of(whole)

    # -- measuring -------------------------------------------------------------------------------

    def _try(self, outlook: Outlook, excess: Excess) -> tuple[Trial, int]:
        """A choice on few frames, and by how many bytes it is over; its program is not kept."""
        key = frozenset(outlook.actions)
        if key not in self._tried:
            self._progress.stage("trying a plan on few frames", None)
            trial = self._bench.measure(outlook.actions, PROPOSAL)
            self._chooser.learn(outlook, trial)
            self._tried[key] = trial.remembered(), excess(trial.program)
        return self._tried[key]

    def _carry_out(self, outlook: Outlook) -> Trial:
        """A choice on all frames."""
        key = frozenset(outlook.actions)
        if key not in self._carried_out:
            # What was predicted before this fit: afterwards it would agree with itself.
            self._predicted[key] = outlook.predicted
            self._carried_out[key] = self._bench.measure(outlook.actions)
            self._chooser.learn(outlook, self._carried_out[key])
        return self._carried_out[key]

    def _over(self, done: int) -> bool:
        """Whether the time limit has passed; then it is noted that it cut the search short."""
        deadline = self._bench.deadline
        if deadline.over:
            self.cut_short = deadline.note(done, ROUNDS)
        return deadline.over

    def _planned(self, trial: Trial) -> Planned:
        predicted = self._predicted.get(frozenset(trial.actions), Prediction({}, {}))
        return self._chooser.plan(trial.actions, predicted, trial.least), trial


def _tightened(limits: Limits, trial: Trial, over: int) -> Limits:
    """The limits where a program that met them is over the budget after all.

    Live activations are not on the bill, nor are biases that fits make anew.
    """
    assert limits.weights_nbytes is not None and trial.bill is not None
    most = min(limits.weights_nbytes, trial.bill.weights_nbytes) - over
    return replace(limits, weights_nbytes=most)


def _with_room(limits: Limits, trial: Trial, left: int) -> Limits:
    """The limits with what a trial left of a memory budget: nodes and activations go along."""
    if limits.weights_nbytes is None or trial.bill is None:
        return limits
    most = trial.bill.weights_nbytes + left
    return replace(limits, weights_nbytes=max(most, limits.weights_nbytes))


def _between(factor: float, low: float, high: float) -> float:
    """The next factor to try between one that kept the floors and one that did not."""
    if math.isinf(high):
        return factor * _STEP
    return math.sqrt(low * high) if low > 0 else factor / _STEP
