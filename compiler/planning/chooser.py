"""What the integer program chooses, on what is known and predicted of single rewrites."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ..actions.action import Action, Stage
from ..actions.bill import NOTHING, Bill
from ..actions.carry_out import in_order
from ..actions.kinds import Kind
from ..execution.outputs import OutputComparison
from ..progress import Progress
from .catalogue import Catalogue
from .damage import Output, cost_of, error_of, unexplained
from .forecast import Forecast, Prediction
from .formulation.candidates import Candidate
from .integer_program import Choice, IntegerProgram
from .known import Known
from .limits import Limits
from .plan import Plan, PlannedAction, plan_of
from .trial import Trial
from .workbench import Workbench

# Solutions of the program between which more is looked at.
_REFINEMENTS = 8
# An action that loses at most this share of any output's variance is free.
_FREE = 1e-4
# No output counts for more than a thousand times another.
_LEAST_ALLOWANCE = 1e-3
# What costs are multiplied by of kinds that are to be done without, if it can be.
_SHUNNED = 1e3
# A kind with less than this share of a choice's predicted costs is not worth a trial without it.
_MATTERS = 0.1


@dataclass(frozen=True)
class Outlook:
    """What is predicted before any fit: a combination, and the fidelity of its worst output.

    `actions` are those of the choice and those that every plan has, without idle ones. `hopeless`
    says that no fit will win back what is missing to the floors.
    """

    choice: Choice
    actions: tuple[Action, ...]
    bill: Bill
    predicted: Prediction
    fidelity: float
    hopeless: bool

    @property
    def error(self) -> float:
        """The share of its variance that the worst output is predicted to lose."""
        return self.predicted.worst


class Chooser:
    """Combinations of a workbench's sites by what they are predicted to do."""

    def __init__(
        self,
        bench: Workbench,
        kinds: Sequence[Kind],
        progress: Progress,
        floors: Sequence[OutputComparison],
    ) -> None:
        self._bench = bench
        self._floors = floors
        self._catalogue = Catalogue(bench, kinds, progress)
        self._forecast = Forecast()
        self._program: IntegerProgram | None = None
        self._free_in_all = True

    def prepare(self, known: Known | None = None) -> None:
        """Find what could be done and look at it; `known` was learned earlier, of the same."""
        known = known or Known()
        self._forecast = Forecast(known.scales)
        self._catalogue.prepare(known.candidates)

    def known(self) -> Known:
        """What was learned so far."""
        return Known(self._catalogue.known(), dict(self._forecast.scales))

    def learn(self, outlook: Outlook, trial: Trial) -> None:
        """Take in what came of a choice."""
        costs = [(one.action.kind, one.errors) for one in outlook.choice.candidates]
        self._forecast.learn(costs, trial.outputs)

    def may_meet(self, trial: Trial) -> bool:
        """Whether outputs that lose as much as in a trial are expected to keep their floors.

        By all that was measured: which side few frames are on says little by itself. A fit on all
        frames leaves about three quarters of those errors, which is the margin.
        """
        return all(
            self._forecast.fidelity(one, unexplained(one)) >= one.floor for one in trial.outputs
        )

    def doubt_free(self) -> bool:
        """Put what was seen to cost nothing on a level with the rest; whether there was any.

        Frames that no look saw may deny it, and then every plan with it misses its floors.
        """
        if not self._free_in_all or not self._solver().held:
            return False
        self._free_in_all, self._program = False, None
        return True

    # -- choosing --------------------------------------------------------------------------------

    def within(
        self,
        limits: Limits,
        barred: Sequence[frozenset[Action]] = (),
        shunned: Collection[str] = (),
    ) -> Outlook | None:
        """The least damage within the limits as it is predicted; None where nothing is within.

        `barred` are sets of actions that are not to be chosen together, `shunned` kinds that are
        chosen only where nothing else is within.
        """

        def scale(candidate: Candidate) -> float:
            return self._scale(candidate) * (_SHUNNED if candidate.action.kind in shunned else 1.0)

        choice = self._chosen(
            lambda program: program.least_damage(
                limits, scale=scale, importance=self._importance(), forbidden=barred
            )
        )
        if choice is None or (shunned and shunned & self._kinds_of(choice).keys()):
            return None
        return self._told(choice, limits)

    def smallest(self, factor: float = 1.0, look: bool = True) -> Outlook:
        """The least whose predicted errors are so many times what the floors allow at most.

        Unless `look`, of what was not looked at only its like tells what it does.
        """
        allowed = {
            (one.model, one.output): cost_of(self._forecast.allowance(one, factor))
            for one in self._floors
        }

        def solve(program: IntegerProgram) -> Choice | None:
            return program.smallest(allowed, scale=self._scale)

        choice = self._chosen(solve) if look else solve(self._solver())
        assert choice is not None
        return self._told(choice, Limits())

    def smallest_losing(self, share: float) -> Outlook:
        """The least that is predicted to lose at most that share of any output's variance."""
        allowed = dict.fromkeys(((one.model, one.output) for one in self._floors), cost_of(share))
        choice = self._chosen(lambda program: program.smallest(allowed, scale=self._scale))
        assert choice is not None
        return self._told(choice, Limits())

    def least_loss(self) -> float | None:
        """The least that any action that is not free is predicted to cost its worst output."""
        lost = [self._forecast.alone(one) for one in self._catalogue.candidates()]
        return min((one for one in lost if one > _FREE), default=_FREE) if lost else None

    @property
    def refused(self) -> Mapping[str, str]:
        """Why there is nothing to rewrite, by model or value."""
        return self._catalogue.refused

    def kinds_that_matter(self, outlook: Outlook) -> list[str]:
        """The kinds that a choice owes a good part of its damage to, if there are several."""
        costs = self._kinds_of(outlook.choice)
        total = sum(costs.values())
        found = sorted(kind for kind, cost in costs.items() if cost > _MATTERS * total)
        return found if len(found) > 1 else []

    def _kinds_of(self, choice: Choice) -> dict[str, float]:
        costs: dict[str, float] = {}
        for one in choice.candidates:
            kind = one.action.kind
            scale = self._forecast.scale(kind)
            costs[kind] = costs.get(kind, 0.0) + scale * sum(one.errors.values())
        return costs

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
            self._program = IntegerProgram(bills, candidates, self._free(candidates))
        return self._program

    def _free(self, candidates: Sequence[Candidate]) -> tuple[Action, ...]:
        """What was seen to cost nothing, as far as it saves beside the rest: in every plan."""
        none = [
            one
            for one in candidates
            if self._catalogue.is_known(one.site) and max(one.errors.values(), default=0) <= _FREE
        ]
        if not none or not self._free_in_all:
            return ()
        allowed = dict.fromkeys(((one.model, one.output) for one in self._floors), _FREE)
        return IntegerProgram(self._bench.bills, none).smallest(allowed).actions

    def _importance(self) -> dict[Output, float]:
        """Of each output by how much less its floor allows it to lose than that of any other."""
        allowed = {
            (one.model, one.output): max(self._forecast.allowance(one), _LEAST_ALLOWANCE)
            for one in self._floors
        }
        most = max(allowed.values(), default=1.0)
        return {output: most / allowance for output, allowance in allowed.items()}

    def _scale(self, candidate: Candidate) -> float:
        """What a candidate's errors are multiplied by: infinite where an output may lose nothing.

        That is one whose floor is 1.
        """
        for one in self._floors:
            if one.floor >= 1 and candidate.errors.get((one.model, one.output), 0.0) > _FREE:
                return math.inf
        return self._forecast.scale(candidate.action.kind)

    # -- what a choice comes to ------------------------------------------------------------------

    def _told(self, choice: Choice, limits: Limits) -> Outlook:
        kept, hopeless = [1.0], False
        for one in self._floors:
            error = error_of(choice.errors.get((one.model, one.output), 0.0))
            kept.append(self._forecast.fidelity(one, error))
            hopeless = hopeless or self._forecast.hopeless(one, error)
        actions = self._needed(choice, limits)
        bill = self._bench.bills.bill(actions)
        assert bill is not None
        return Outlook(choice, actions, bill, self._predicted(actions), min(kept), hopeless)

    def _predicted(self, actions: Sequence[Action]) -> Prediction:
        """What each of the actions, and all together, are predicted to lose."""
        alone = {
            one.action: self._forecast.alone(one)
            for one in self._catalogue.candidates()
            if one.action in actions
        }
        choice = self._solver().choice_of(actions, self._scale)
        assert choice is not None, "the program chose them together"
        return Prediction(alone, {output: error_of(x) for output, x in choice.errors.items()})

    def _needed(self, choice: Choice, limits: Limits) -> tuple[Action, ...]:
        """The actions without those that change nothing, or too little, beside the others."""
        bills = self._bench.bills
        kept = list(bills.without_idle((*self._solver().held, *choice.actions)))
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
                    _rounded(predicted.alone.get(action)),
                )
            )
        busy = {name for action in actions for name in action.models}
        alone = {name: why for name, why in self.why_alone().items() if name not in busy}
        together = _rounded(predicted.worst) if actions and predicted.together else None
        return plan_of(self._bench.case, planned, alone, together)

    def lost_by_rounding(self) -> Mapping[str, float]:
        """By node what storing its weight in few bits is predicted to lose, at least.

        The share of the variance of the output that loses most, by that alone.
        """
        found: dict[str, float] = {}
        for one in self._catalogue.candidates():
            if one.action.stage is Stage.PRECISION:
                for node, _ in one.action.disturbed(self._bench.program).stored:
                    lost = self._forecast.alone(one)
                    found[node] = min(lost, found.get(node, lost))
        return found

    def why_alone(self) -> Mapping[str, str]:
        """By model why nothing was done to it, or no more."""
        candidates = self._catalogue.candidates()
        found: dict[str, str] = {}
        for model in self._bench.program.models:
            mine = [one for one in candidates if one.site.receiver == model]
            best = max((self._margin(candidate) for candidate in mine), default=0.0)
            if model in self._catalogue.refused:
                found[model] = self._catalogue.refused[model]
            elif best < 0:
                found[model] = (
                    f"each of {len(mine)} possible rewrites is predicted to miss the fidelity "
                    f"floor, the mildest by {-best:.4f}"
                )
            else:
                found[model] = "nothing of it had to go"
        return found

    def _margin(self, candidate: Candidate) -> float:
        """By how much the fidelity of the worst output is predicted to be above its floor."""
        margins = [1.0]
        for one in self._floors:
            cost = candidate.errors.get((one.model, one.output), 0.0)
            if cost > 0:
                error = error_of(self._forecast.scale(candidate.action.kind) * cost)
                margins.append(self._forecast.fidelity(one, error) - one.floor)
        return min(margins)


def _rounded(share: float | None) -> float | None:
    """A predicted share in the digits that a plan keeps of it: a plan read back is the same."""
    return None if share is None else round(share, 6)
