"""From budgets to a plan: exact means first, then sharing, then depth beside it."""

from __future__ import annotations

import math
from dataclasses import replace

from ..actions.bill import Bill
from ..actions.kinds import chosen, sharing
from ..errors import BudgetError
from ..progress import Progress
from ..units import format_bytes, format_count
from .damage import described
from .free import Folds
from .joint import Found, JointPlanner
from .limits import Budgets, Limits, bill_of, fits, too_slow
from .plan import plan_of
from .proof import tell_unproved
from .sharing import Planned, SharingPlanner
from .ways import Continuing
from .workbench import Workbench

# How often a latency that was missed tightens the limit of multiply-accumulates.
_LATENCY_ROUNDS = 4

Least = tuple[Bill, str]


class Planner:
    """Finds the program within the budgets with the least damage, exact means first."""

    def __init__(self, bench: Workbench, budgets: Budgets, progress: Progress) -> None:
        self._bench = bench
        self._budgets = budgets
        self._progress = progress
        options = bench.case.options
        self._kinds = chosen(options.only, options.without)
        self._may_share = bool(sharing(self._kinds)) and len(bench.program.models) > 1
        self._may_remove = len(sharing(self._kinds)) < len(self._kinds)
        self._folds = Folds(bench, self._kinds, progress)
        self._ways = Continuing(bench, self._folds, self._kinds, progress)
        self._shares: SharingPlanner | None = None
        self._found = Found()

    def planned(self) -> Planned:
        """The plan, and the program that came of it. Raises BudgetError where none fits."""
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
        case = self._bench.case
        over = limits.excess(bill_of(case.program))
        enough = limits.any and over <= 0
        if enough or case.options.exact_only or case.frames is None:
            if over > 0:
                raise self._error(limits, (bill_of(case.program), described(())))
            return self._exact()
        tell_unproved(case)
        excess = self._budgets.excess_nbytes
        free = self._folds.free if self._may_remove else None
        if free and limits.any and fits(free[1].program, limits, excess):
            return free
        shares = self._sharing(free)
        if not limits.any and self._may_share:
            return shares.smallest()
        joint = JointPlanner(self._bench, shares, self._ways, self._kinds, free)
        if not limits.any:
            if not sharing(self._kinds):
                found = joint.most().best
                assert found is not None
                return found
            return free or self._exact()
        shared: Planned | None = None
        if self._may_share:
            weights = limits.weights_nbytes
            shared = shares.smallest() if weights is None else shares.plan(weights, excess)
        found = joint.within(limits, excess, shared)
        self._found = _with(self._found, found)
        if found.best is None:
            raise self._error(limits, self._least(free))
        return found.best

    def _sharing(self, free: Planned | None) -> SharingPlanner:
        if self._shares is None:
            actions = () if free is None else free[0].actions
            self._shares = SharingPlanner(self._bench, self._kinds, actions, self._progress)
        return self._shares

    def _least(self, free: Planned | None) -> Least:
        """The least that anything tried needs within the floors, and what it consists of."""
        known: list[Least] = []
        if self._may_share:
            _, trial = self._sharing(free).smallest()
            known.append((bill_of(trial.program), described(trial.actions)))
        if self._found.smallest is not None:
            way = self._found.smallest
            known.append((way.bill, described(way.actions)))
        if free is not None:
            known.append((bill_of(free[1].program), described(free[1].actions)))
        elif not known:
            known.append((bill_of(self._bench.program), described(())))
        return min(known, key=lambda least: (least[0].weights_nbytes, least[0].macs))

    def _error(self, limits: Limits, known: Least) -> BudgetError:
        options, memory = self._bench.case.options, self._budgets.memory
        least, what = known
        weights_met = limits.weights_nbytes is None or least.weights_nbytes <= limits.weights_nbytes
        if weights_met and (limits.macs is None or least.macs <= limits.macs):
            missed = self._found.missed
            low = min(missed, key=lambda one: one.judged - one.floor, default=None)
            best = (
                f": the best keeps {low.judged:.4f} of {low.model}/{low.output}, and "
                f"{low.floor:g} is asked for"
                if low is not None
                else ""
            )
            return BudgetError(
                "every plan that meets the budget misses the fidelity floor once it is fitted on "
                f"all frames{best}",
                f"lower --min-fidelity below {options.min_fidelity:g}, raise the budget, or give "
                "more calibration frames",
            )
        if weights_met:
            limit = limits.macs or 0
            return BudgetError(
                f"{format_count(limit)} MACs are allowed; within the fidelity floor the smallest "
                f"plan found needs {format_count(least.macs)} ({what})",
                self._hint(f"at least {format_count(least.macs)} MACs"),
            )
        assert options.budget is not None
        smallest = least.weights_nbytes
        if options.budget.share is not None:
            apart = memory["apart_weights_nbytes"]
            needed = f"{math.ceil(100 * smallest / max(apart, 1))}%"
            found = f"the smallest plan found needs {format_bytes(smallest)} of weights ({what})"
        else:
            total = smallest + self._budgets.beside
            needed = format_bytes(total * 1.005)  # printed with three digits: not below the need
            found = (
                f"the smallest plan found needs {format_bytes(smallest)} of weights, "
                f"{format_bytes(total)} in all ({what})"
            )
        detail = "" if self._shares is None else self._shares.explanation()
        limit = limits.weights_nbytes or 0
        left = format_bytes(limit) if limit > 0 else "nothing"
        return BudgetError(
            f"the budget of {options.budget} leaves {left} for weights; within the fidelity floor "
            f"{found}" + (f"\n{detail}" if detail else ""),
            self._hint(needed),
        )

    def _hint(self, needed: str) -> str:
        options = self._bench.case.options
        if self._bench.case.frames is None:
            return (
                "approximate sharing needs frames to measure on: give --calib PATH (an .npz keyed "
                "by input name, a folder of them, or a folder of images), or raise the budget "
                f"to {needed}"
            )
        if options.exact_only:
            return f"leave out --exact-only to share approximately, or raise the budget to {needed}"
        return (
            f"raise the budget to {needed}, lower --min-fidelity below "
            f"{options.min_fidelity:g}, or give more calibration frames"
        )


def _with(known: Found, found: Found) -> Found:
    """What was tried in both: the smaller of the smallest, the last that missed."""
    one, other = known.smallest, found.smallest
    if one is None or (other is not None and other.bill.weights_nbytes < one.bill.weights_nbytes):
        one = other
    return replace(found, smallest=one, missed=found.missed or known.missed)
