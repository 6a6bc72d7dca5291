"""The search: an integer program over all kinds of rewrite proposes, full fits decide.

Every round the program is solved on what is predicted, what it chose is fitted on all frames and
compared on frames that no fit has seen, and the predictions are corrected by what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..actions.action import Action
from ..actions.bill import NOTHING
from ..actions.carry_out import in_order
from ..actions.kinds import Kind
from ..progress import Progress
from .candidates import Candidate
from .catalogue import Catalogue
from .damage import cost_of, error_of
from .forecast import Forecast
from .integer_program import Choice, IntegerProgram
from .known import Known
from .limits import Excess, Limits, bill_of, fits
from .plan import Plan, PlannedAction, plan_of
from .trial import Trial
from .workbench import Workbench

# Full fits at most, of which the best is kept.
ROUNDS = 4
# Solutions of the program between which more is looked at.
_REFINEMENTS = 8
# A new choice is fitted only where it is predicted to do less damage than this share of the best.
_WORTH_A_FIT = 0.97
# With no budget: by how much the allowed error is raised, or lowered, between two fits at most.
_STEP = 3.0

# An action that loses at most this share of any output's variance is free.
_FREE = 1e-4

Planned = tuple[Plan, Trial]
"""A plan, and the program that came of it when it was fitted on all frames."""


@dataclass(frozen=True)
class Outlook:
    """What is predicted before any fit: a combination, and the fidelity of its worst output.

    `hopeless` says that no fit will win back what is missing to the floors.
    """

    choice: Choice
    fidelity: float
    hopeless: bool


class Search:
    """Plans for a workbench's program; what was looked at and measured is kept between budgets."""

    def __init__(self, bench: Workbench, kinds: Sequence[Kind], progress: Progress) -> None:
        self._bench = bench
        self._progress = progress
        self._catalogue = Catalogue(bench, kinds, progress)
        self._forecast = Forecast()
        self._trials: dict[frozenset[Action], Trial] = {}
        self._floors = bench.compare(bench.program)
        self._program: IntegerProgram | None = None
        self._held: tuple[Action, ...] = ()
        self.cut_short = ""

    def prepare(self, known: Known | None = None) -> None:
        """Find what could be done and look at it; `known` was learned earlier, of the same."""
        known = known or Known()
        self._forecast = Forecast(known.scales)
        self._catalogue.prepare(known.candidates)

    def known(self) -> Known:
        """What was learned so far."""
        return Known(self._catalogue.known(), dict(self._forecast.scales))

    @property
    def refused(self) -> Mapping[str, str]:
        """Why there is nothing to rewrite, by model or value."""
        return self._catalogue.refused

    # -- before any fit --------------------------------------------------------------------------

    def outlook(self, limits: Limits, barred: Sequence[frozenset[Action]] = ()) -> Outlook | None:
        """The least damage within the limits as it is predicted; None where nothing is within.

        `barred` are sets of actions that are not to be chosen together.
        """
        choice = self._chosen(
            lambda program: program.least_damage(limits, scale=self._scale, forbidden=barred)
        )
        return None if choice is None else self._told(choice)

    def smallest_outlook(self) -> Outlook:
        """The least that is predicted to keep the floors."""
        return self._told(self._smallest(1.0))

    # -- deciding by full fits -------------------------------------------------------------------

    def within(self, limits: Limits, excess: Excess) -> tuple[Planned | None, list[Trial]]:
        """The least damage within the limits and floors, and all that was fitted for it.

        What was fitted for other limits, and is within these, is as good as fitted for them.
        """
        best: Trial | None = None
        fitted: list[Trial] = []
        barred: list[frozenset[Action]] = []
        while len(fitted) < ROUNDS:
            if self._over(len(fitted)):
                break
            outlook = self.outlook(limits, barred)
            if outlook is None or (best is not None and not self._better(outlook, best)):
                break
            actions = self._needed(outlook.choice, limits)
            new = frozenset(actions) not in self._trials
            trial = self._measured(outlook.choice, actions)
            if new:
                fitted.append(trial)
            over = excess(trial.program)
            if over > 0 and limits.weights_nbytes is not None:
                # Live activations are not on the bill, nor biases that fits make anew.
                assert trial.bill is not None
                most = min(limits.weights_nbytes, trial.bill.weights_nbytes) - over
                limits = replace(limits, weights_nbytes=most)
                continue
            limits = _with_room(limits, trial, -over)
            kept = trial.met and fits(trial.program, limits, excess)
            if kept and (best is None or trial.worst < best.worst):
                best = trial
            barred.append(frozenset(outlook.choice.actions))
        known = [t for t in self._trials.values() if t.met and fits(t.program, limits, excess)]
        best = min(known, key=lambda trial: trial.worst, default=best)
        return None if best is None else self._planned(best), fitted

    def smallest(self, rounds: int = ROUNDS) -> Planned:
        """The least by bytes and MACs together that keeps the floors, by so many full fits."""
        factor, low, high = 1.0, 0.0, math.inf
        best = self._bench.measure(())
        for done in range(rounds):
            if self._over(done):
                break
            choice = self._smallest(factor)
            actions = self._needed(choice, Limits())
            if not actions or frozenset(actions) in self._trials:
                break
            trial = self._measured(choice, actions)
            if trial.met:
                best = min(best, trial, key=self._size)
                low = factor
            else:
                high = factor
            factor = _between(factor, low, high)
        return self._planned(best)

    def _over(self, done: int) -> bool:
        """Whether the time limit has passed; then it is noted that it cut the search short."""
        deadline = self._bench.deadline
        if deadline.over:
            self.cut_short = deadline.note(done, ROUNDS)
        return deadline.over

    # -- choosing --------------------------------------------------------------------------------

    def _chosen(self, solve: Callable[[IntegerProgram], Choice | None]) -> Choice | None:
        """What the program chooses once all of it was looked at."""
        for _ in range(_REFINEMENTS):
            choice = solve(self._solver())
            over = self._bench.deadline.over
            if choice is None or over or not self._catalogue.look(choice.candidates):
                return choice
            self._program = None
        return solve(self._solver())

    def _solver(self) -> IntegerProgram:
        if self._program is None:
            bills, candidates = self._bench.bills, self._catalogue.candidates()
            self._held = self._free(candidates)
            self._program = IntegerProgram(bills, candidates, self._held)
        return self._program

    def _free(self, candidates: Sequence[Candidate]) -> tuple[Action, ...]:
        """What was seen to cost nothing, as far as it saves beside the rest: in every plan."""
        none = [
            one
            for one in candidates
            if self._catalogue.is_known(one.site) and max(one.errors.values(), default=0) <= _FREE
        ]
        if not none:
            return ()
        allowed = dict.fromkeys(((one.model, one.output) for one in self._floors), _FREE)
        return IntegerProgram(self._bench.bills, none).smallest(allowed).actions

    def _smallest(self, factor: float) -> Choice:
        """The least whose predicted errors are so many times what the floors allow at most."""
        allowed = {
            (one.model, one.output): cost_of(factor * self._forecast.allowance(one))
            for one in self._floors
        }
        choice = self._chosen(lambda program: program.smallest(allowed, scale=self._scale))
        assert choice is not None
        return choice

    def _scale(self, candidate: Candidate) -> float:
        return self._forecast.scale(candidate.action.kind)

    def _told(self, choice: Choice) -> Outlook:
        kept, hopeless = [1.0], False
        for one in self._floors:
            error = error_of(choice.errors.get((one.model, one.output), 0.0))
            kept.append(self._forecast.fidelity(one, error))
            hopeless = hopeless or self._forecast.hopeless(one, error)
        return Outlook(choice, min(kept), hopeless)

    def _needed(self, choice: Choice, limits: Limits) -> tuple[Action, ...]:
        """The actions without those that change nothing, or too little, beside the others."""
        bills = self._bench.bills
        kept = list(bills.without_idle((*self._held, *choice.actions)))
        whole = bills.bill(())
        assert whole is not None
        for action in sorted(kept, key=lambda one: str(one)):
            others = [one for one in kept if one != action]
            bill, less = bills.bill(kept), bills.bill(others)
            if bill is None or less is None or (less - bill).matters(whole):
                continue
            if limits.excess(less) <= 0:
                kept = others
        return tuple(in_order(kept))

    def _better(self, outlook: Outlook, best: Trial) -> bool:
        """Whether a choice is predicted to do less damage than what was measured of the best."""
        worst = max(best.errors.values(), default=0.0)
        predicted = error_of(max(outlook.choice.errors.values(), default=0.0))
        return predicted < _WORTH_A_FIT * worst

    def _measured(self, choice: Choice, actions: tuple[Action, ...]) -> Trial:
        key = frozenset(actions)
        if key not in self._trials:
            self._trials[key] = self._bench.measure(actions)
            chosen = [(one.action.kind, one.errors) for one in choice.candidates]
            self._forecast.learn(chosen, self._trials[key].outputs)
        return self._trials[key]

    def _size(self, trial: Trial) -> float:
        whole, bill = self._bench.bills.bill(()), bill_of(trial.program)
        assert whole is not None
        return bill.weights_nbytes / max(whole.weights_nbytes, 1) + bill.macs / max(whole.macs, 1)

    # -- plans -----------------------------------------------------------------------------------

    def _planned(self, trial: Trial) -> Planned:
        sites = {site.action: site for site in self._catalogue.sites}
        planned: list[PlannedAction] = []
        for action in trial.actions:
            site = sites.get(action)
            saved = NOTHING if site is None else site.saved
            r2 = None if site is None else site.evidence.get("r2")
            planned.append(PlannedAction(action, saved.weights_nbytes, saved.macs, r2, trial.least))
        busy = {name for action in trial.actions for name in action.models}
        alone = {
            name: self.why_alone(name) for name in self._bench.program.models if name not in busy
        }
        return plan_of(self._bench.case, planned, alone), trial

    def why_alone(self, model: str) -> str:
        """Why nothing was done to a model, or no more."""
        if model in self.refused:
            return self.refused[model]
        mine = [one for one in self._catalogue.candidates() if one.site.receiver == model]
        kept = [self._margin(candidate) for candidate in mine]
        if kept and max(kept) < 0:
            return (
                f"each of {len(kept)} possible rewrites is predicted to miss the fidelity floor, "
                f"the mildest by {-max(kept):.4f}"
            )
        return "nothing of it had to go"

    def _margin(self, candidate: Candidate) -> float:
        """By how much the fidelity of the worst output is predicted to be above its floor."""
        margins = [1.0]
        for one in self._floors:
            cost = candidate.errors.get((one.model, one.output), 0.0)
            if cost > 0:
                error = error_of(self._scale(candidate) * cost)
                margins.append(self._forecast.fidelity(one, error) - one.floor)
        return min(margins)


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
