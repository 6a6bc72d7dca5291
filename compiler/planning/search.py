"""The search: an integer program over all kinds of rewrite proposes, full fits decide.

Every round the program is solved on what is predicted, what it chose is fitted on all frames and
compared on frames that no fit has seen, and the predictions are corrected by what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..actions.action import Action
from ..actions.bill import NOTHING, Bill
from ..actions.carry_out import in_order
from ..actions.kinds import Kind
from ..execution.outputs import OutputComparison
from ..progress import Progress
from .candidates import Candidate
from .catalogue import Catalogue
from .damage import Output, cost_of, error_of
from .deadline import Deadline
from .forecast import Forecast, Prediction
from .integer_program import Choice, IntegerProgram
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


@dataclass(frozen=True)
class Proposal:
    """Actions before any fit: what they are billed, and what is predicted of them."""

    actions: tuple[Action, ...]
    bill: Bill
    predicted: Prediction


class Search:
    """Plans for a workbench's program; what was looked at and measured is kept between budgets."""

    def __init__(
        self, bench: Workbench, kinds: Sequence[Kind], progress: Progress, deadline: Deadline
    ) -> None:
        self._bench = bench
        self._progress = progress
        self._deadline = deadline
        self._catalogue = Catalogue(bench, kinds, progress)
        self._forecast = Forecast()
        self._trials: dict[frozenset[Action], Trial] = {}
        self._predicted: dict[frozenset[Action], Prediction] = {}
        self._floors = bench.compare(bench.program)
        self._choosing = _Choosing(bench, self._catalogue, self._forecast)
        self._telling = _Telling(bench, self._catalogue, self._forecast, self._floors)
        self._catalogue.look_at_unknown()

    @property
    def refused(self) -> Mapping[str, str]:
        """Why there is nothing to rewrite, by model or value."""
        return self._catalogue.refused

    # -- before any fit --------------------------------------------------------------------------

    def outlook(self, limits: Limits, barred: Sequence[frozenset[Action]] = ()) -> Outlook | None:
        """The least damage within the limits as it is predicted; None where nothing is within.

        `barred` are sets of actions that are not to be chosen together.
        """
        choice = self._choosing.least_damage(limits, barred)
        return None if choice is None else self._told(choice)

    def smallest_outlook(self) -> Outlook:
        """The least that is predicted to keep the floors."""
        return self._told(self._smallest(1.0))

    def least_loss(self) -> float | None:
        """The least share of variance that any action is predicted to cost its worst output.

        Of those that cost something: what is free is in every plan. None without any action.
        """
        lost = [self._forecast.alone(one) for one in self._catalogue.candidates()]
        return min((one for one in lost if one > _FREE), default=_FREE) if lost else None

    def sweep(self, losses: Iterable[float]) -> list[Proposal]:
        """The smallest that are predicted to lose at most these shares of any output's variance.

        Each is there once, and none without an action.
        """
        found: dict[frozenset[Action], Proposal] = {}
        for lost in losses:
            actions = self._choosing.needed(self._choosing.smallest_losing(lost), Limits())
            if actions and frozenset(actions) not in found:
                found[frozenset(actions)] = self._choosing.proposal(actions)
        return list(found.values())

    def fitted(self, proposal: Proposal) -> Trial:
        """A proposal by a full fit, from which the predictions learn; the trial is not kept."""
        return self._fit(proposal.actions)

    def plan(self, proposal: Proposal, trial: Trial | None = None) -> Plan:
        """The plan of a proposal, with what was measured of it."""
        least = None if trial is None else trial.least
        return self._telling.plan(proposal.actions, proposal.predicted, least)

    # -- deciding by full fits -------------------------------------------------------------------

    def within(self, limits: Limits, excess: Excess) -> tuple[Planned | None, list[Trial]]:
        """The least damage within the limits and floors, and all that was fitted for it.

        What was fitted for other limits, and is within these, is as good as fitted for them.
        """
        best: Trial | None = None
        fitted: list[Trial] = []
        barred: list[frozenset[Action]] = []
        while len(fitted) < ROUNDS and not self._deadline.over:
            outlook = self.outlook(limits, barred)
            if outlook is None or (best is not None and not self._better(outlook, best)):
                break
            actions = self._choosing.needed(outlook.choice, limits)
            new = frozenset(actions) not in self._trials
            trial = self._measured(actions)
            if new:
                fitted.append(trial)
            over = excess(trial.program)
            if over > 0 and limits.weights_nbytes is not None:
                # Live activations are not on the bill, nor biases that fits make anew.
                assert trial.bill is not None
                most = min(limits.weights_nbytes, trial.bill.weights_nbytes) - over
                limits = replace(limits, weights_nbytes=most)
                continue
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
        for _ in range(rounds):
            if self._deadline.over:
                break
            choice = self._smallest(factor)
            actions = self._choosing.needed(choice, Limits())
            if not actions or frozenset(actions) in self._trials:
                break
            trial = self._measured(actions)
            if trial.met:
                best = min(best, trial, key=self._size)
                low = factor
            else:
                high = factor
            factor = _between(factor, low, high)
        return self._planned(best)

    # -- measuring -------------------------------------------------------------------------------

    def _told(self, choice: Choice) -> Outlook:
        kept, hopeless = [1.0], False
        for one in self._floors:
            error = error_of(choice.errors.get((one.model, one.output), 0.0))
            kept.append(self._forecast.fidelity(one, error))
            hopeless = hopeless or self._forecast.hopeless(one, error)
        return Outlook(choice, min(kept), hopeless)

    def _smallest(self, factor: float) -> Choice:
        """The least whose predicted errors are so many times what the floors allow at most."""
        return self._choosing.smallest(
            {
                (one.model, one.output): cost_of(factor * self._forecast.allowance(one))
                for one in self._floors
            }
        )

    def _better(self, outlook: Outlook, best: Trial) -> bool:
        """Whether a choice is predicted to do less damage than what was measured of the best."""
        worst = max(best.errors.values(), default=0.0)
        predicted = error_of(max(outlook.choice.errors.values(), default=0.0))
        return predicted < _WORTH_A_FIT * worst

    def _measured(self, actions: tuple[Action, ...]) -> Trial:
        key = frozenset(actions)
        if key not in self._trials:
            # What was predicted before this fit: afterwards it would agree with itself.
            self._predicted[key] = self._choosing.proposal(actions).predicted
            self._trials[key] = self._fit(actions)
        return self._trials[key]

    def _fit(self, actions: tuple[Action, ...]) -> Trial:
        trial = self._bench.measure(actions)
        chosen = [(one.action.kind, one.errors) for one in self._choosing.of(actions).candidates]
        self._forecast.learn(chosen, trial.outputs)
        return trial

    def _planned(self, trial: Trial) -> Planned:
        predicted = self._predicted.get(frozenset(trial.actions), Prediction({}, {}))
        return self._telling.plan(trial.actions, predicted, trial.least), trial

    def _size(self, trial: Trial) -> float:
        whole, bill = self._bench.bills.bill(()), bill_of(trial.program)
        assert whole is not None
        return bill.weights_nbytes / max(whole.weights_nbytes, 1) + bill.macs / max(whole.macs, 1)


class _Choosing:
    """What the integer program chooses by predictions, once all that it chose was looked at."""

    def __init__(self, bench: Workbench, catalogue: Catalogue, forecast: Forecast) -> None:
        self._bills = bench.bills
        self._outputs = [
            (name, own) for name, model in bench.program.models.items() for own in model.outputs
        ]
        self._catalogue = catalogue
        self._forecast = forecast
        self._program: IntegerProgram | None = None

    def _chosen(self, solve: Callable[[IntegerProgram], Choice | None]) -> Choice | None:
        """What the program chooses once all of it was looked at."""
        for _ in range(_REFINEMENTS):
            choice = solve(self._solver())
            if choice is None or not self._catalogue.look(choice.candidates):
                return choice
            self._program = None
        return solve(self._solver())

    def least_damage(self, limits: Limits, barred: Sequence[frozenset[Action]]) -> Choice | None:
        """The least damage within the limits; None where nothing is within."""
        return self._chosen(
            lambda program: program.least_damage(limits, scale=self._scale, forbidden=barred)
        )

    def smallest(self, allowed: Mapping[Output, float]) -> Choice:
        """The least by whose predicted costs no output exceeds what it is allowed."""
        choice = self._chosen(lambda program: program.smallest(allowed, scale=self._scale))
        assert choice is not None
        return choice

    def smallest_losing(self, share: float) -> Choice:
        """The least that is predicted to lose at most that share of any output's variance."""
        return self.smallest(dict.fromkeys(self._outputs, cost_of(share)))

    def needed(self, choice: Choice, limits: Limits) -> tuple[Action, ...]:
        """The actions without those that change nothing, or too little, beside the others."""
        bills = self._bills
        kept = list(bills.without_idle([*self._solver().held, *choice.actions]))
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

    def of(self, actions: Sequence[Action]) -> Choice:
        """Actions that were chosen together, with what is predicted of them now."""
        choice = self._solver().choice_of(actions, self._scale)
        assert choice is not None, "the program chose them together"
        return choice

    def proposal(self, actions: tuple[Action, ...]) -> Proposal:
        """The same, each of them and all together."""
        alone = {
            one.action: self._forecast.alone(one)
            for one in self._catalogue.candidates()
            if one.action in actions
        }
        together = {output: error_of(cost) for output, cost in self.of(actions).errors.items()}
        bill = self._bills.bill(actions)
        assert bill is not None
        return Proposal(actions, bill, Prediction(alone, together))

    def _solver(self) -> IntegerProgram:
        if self._program is None:
            candidates = self._catalogue.candidates()
            self._program = IntegerProgram(self._bills, candidates, self._free(candidates))
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
        allowed = dict.fromkeys(self._outputs, _FREE)
        return IntegerProgram(self._bills, none).smallest(allowed).actions

    def _scale(self, candidate: Candidate) -> float:
        return self._forecast.scale(candidate.action.kind)


class _Telling:
    """Plans with what each action saves and was predicted to lose, and why models are let alone."""

    def __init__(
        self,
        bench: Workbench,
        catalogue: Catalogue,
        forecast: Forecast,
        floors: Sequence[OutputComparison],
    ) -> None:
        self._bench = bench
        self._catalogue = catalogue
        self._forecast = forecast
        self._floors = floors

    def plan(
        self, actions: Sequence[Action], predicted: Prediction, fidelity: float | None = None
    ) -> Plan:
        """The plan of these actions, whose lowest fidelity was measured as this one."""
        sites = {site.action: site for site in self._catalogue.sites}
        planned: list[PlannedAction] = []
        for action in actions:
            site = sites.get(action)
            saved = NOTHING if site is None else site.saved
            planned.append(
                PlannedAction(
                    action,
                    saved.weights_nbytes,
                    saved.macs,
                    None if site is None else site.evidence.get("r2"),
                    fidelity,
                    predicted.alone.get(action),
                )
            )
        busy = {name for action in actions for name in action.models}
        alone = {
            name: self._why_alone(name) for name in self._bench.program.models if name not in busy
        }
        together = predicted.worst if actions and predicted.together else None
        return plan_of(self._bench.case, planned, alone, together)

    def _why_alone(self, model: str) -> str:
        """Why nothing was done to a model."""
        if model in self._catalogue.refused:
            return self._catalogue.refused[model]
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
                error = error_of(self._forecast.scale(candidate.action.kind) * cost)
                margins.append(self._forecast.fidelity(one, error) - one.floor)
        return min(margins)


def _between(factor: float, low: float, high: float) -> float:
    """The next factor to try between one that kept the floors and one that did not."""
    if math.isinf(high):
        return factor * _STEP
    return math.sqrt(low * high) if low > 0 else factor / _STEP
