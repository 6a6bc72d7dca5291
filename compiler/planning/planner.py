"""From budgets to a plan: exact means first, then all other kinds of rewrite in one program."""

from __future__ import annotations

from collections.abc import Mapping

from ..actions.action import Stage
from ..actions.kinds import chosen
from ..errors import BudgetError
from ..options import ANY_TARGET, FEW_BITS
from ..progress import Progress
from .arithmetic import Arithmetic
from .chooser import Outlook
from .evidence_store import EvidenceKey, EvidenceStore
from .limits import Budgets, Limits, bill_of, fits, too_slow
from .plan import plan_of
from .proof import tell_unproved
from .refusals import Refusals
from .search import Planned, Search
from .trial import Trial
from .workbench import Workbench

# Full fits that a refusal spends on the smallest plan that there is.
_LEAST_ROUNDS = 2
# How often a latency that was missed tightens the limit of multiply-accumulates.
_LATENCY_ROUNDS = 4


class Planner:
    """Finds the program within the budgets with the least damage, exact means first."""

    def __init__(
        self,
        bench: Workbench,
        budgets: Budgets,
        progress: Progress,
    ) -> None:
        self._bench = bench
        self._budgets = budgets
        self._progress = progress
        self._kinds = chosen(bench.case.options.only, bench.case.options.without)
        self._refusals = Refusals(budgets, bench.case.frames is not None)
        self._search: Search | None = None
        self._store: tuple[EvidenceStore, EvidenceKey] | None = None
        # By value what rounding it alone loses of the worst output, where that was looked at.
        self.lost_by_computing: Mapping[str, float] = {}

    def planned(self) -> Planned:
        """The plan, and the program that came of it. Raises BudgetError where none fits.

        What was learned on the way is kept for compilations that resume, whatever comes of this.
        """
        try:
            return self._planned()
        finally:
            if self._search is not None and self._store is not None:
                store, key = self._store
                store.write(key, self._search.known())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report says of how the plan came about."""
        cut_short = "" if self._search is None else self._search.cut_short
        return (cut_short,) if cut_short else ()

    @property
    def lost_by_rounding(self) -> Mapping[str, float]:
        """By node what storing its weight in few bits is predicted to lose, where that was asked.

        The share of the variance of the output that loses most, by that alone.
        """
        return {} if self._search is None else self._search.lost_by_rounding()

    def _planned(self) -> Planned:
        options = self._bench.case.options
        allowed = options.max_latency
        if allowed is None or self._bench.case.frames is None:
            if allowed is not None:
                raise BudgetError(
                    "a latency is measured on frames, and none were given", "give --calib PATH"
                )
            return self._within(self._budgets.limits)
        limits = self._budgets.limits
        found = self._exact()
        for _ in range(_LATENCY_ROUNDS + 1):
            program = found[1].program
            seconds = self._budgets.latency(program)
            assert seconds is not None
            within = fits(program, self._budgets.limits, self._budgets.excess_nbytes)
            if within and seconds <= allowed:
                return found
            if seconds > allowed:
                macs = int(0.97 * bill_of(program).macs * allowed / seconds)
                limits = Limits(limits.weights_nbytes, min(macs, limits.macs or macs))
            found = self._within(limits)
        raise BudgetError(
            too_slow(self._budgets.latency(found[1].program) or 0.0, allowed),
            "allow more time, or lower --min-fidelity",
        )

    def _exact(self) -> Planned:
        return plan_of(self._bench.case), self._bench.measure(())

    def _within(self, limits: Limits) -> Planned:
        """The plan within the limits, with arithmetic in 8 bits where a target asks for it."""
        plan, trial = self._chosen(limits)
        options = self._bench.case.options
        computes = any(kind.action.stage is Stage.ARITHMETIC for kind in self._kinds)
        if options.target == ANY_TARGET or options.precision not in FEW_BITS or not computes:
            return plan, trial
        if self._bench.case.frames is None or options.exact_only:
            return plan, trial
        arithmetic = Arithmetic(self._bench, options.target, self._progress)
        found = arithmetic.added_to(plan, trial)
        self.lost_by_computing = {name: look.loss for name, look in arithmetic.looks.items()}
        return found

    def _chosen(self, limits: Limits) -> Planned:
        case = self._bench.case
        bill = bill_of(case.program)
        enough = limits.any and limits.excess(bill) <= 0
        if enough or case.options.exact_only or case.frames is None:
            if limits.excess(bill) > 0:
                raise self._refusals.exact(limits, bill)
            return self._exact()
        tell_unproved(case)
        search = self._searching()
        if not limits.any:
            return search.smallest()
        excess = self._budgets.excess_nbytes
        outlook = search.outlook(limits)
        fitted: list[Trial] = []
        if outlook is not None and not outlook.hopeless:
            found, fitted = search.within(limits, excess)
            if found is not None:
                return found
            if search.cut_short:
                raise self._bench.deadline.refusal(self._refusals.wanted)
        if fitted:
            smallest = search.smallest(_LEAST_ROUNDS)
            if fits(smallest[1].program, limits, excess):
                return smallest
            raise self._refusals.missed(limits, fitted, smallest[1])
        # Looks were taken on the way to a plan within the limits, if there is one.
        least = search.smallest_outlook(look=outlook is None)
        if self._may_fit(least):
            smallest = search.smallest()
            if fits(smallest[1].program, limits, excess):
                return smallest
        met = None if outlook is None else search.least_tried(outlook)
        raise self._refusals.out_of_reach(limits, least, met, search.why_alone())

    def _may_fit(self, least: Outlook) -> bool:
        """Whether a budget of bytes may be met after all.

        It is of weights, live activations and nodes, and only the weights are on bills.
        """
        budget = self._budgets.options.budget
        if budget is None or budget.nbytes is None:
            return False
        return least.choice.bill.weights_nbytes <= budget.nbytes

    def _searching(self) -> Search:
        if self._search is None:
            case, progress = self._bench.case, self._progress
            self._search = Search(self._bench, self._kinds, progress)
            store, key = EvidenceStore(tell=progress.note), EvidenceKey.of(case)
            self._search.prepare(store.read(key, case) if case.options.resume else None)
            self._store = store, key
        return self._search
