"""From budgets to a plan: exact means first, then sharing, then depth beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..actions.bill import Bill
from ..errors import BudgetError
from ..execution.latency import latencies
from ..frames.calibration import Frames
from ..graph.program import Program
from ..options import CompileOptions
from ..progress import Progress
from ..structure.cost import model_cost, program_cost
from ..units import format_bytes, format_count
from .damage import Limits, described, fits
from .free import FoldPlanner
from .joint import JointPlanner
from .trials import Trials
from .workbench import Planned, Workbench

# How often a latency that was missed tightens the limit of multiply-accumulates.
_LATENCY_ROUNDS = 4

Least = tuple[Bill, str]


class Budgets:
    """What a compilation may need: memory, multiply-accumulates, latency; any of them, or none."""

    def __init__(
        self,
        options: CompileOptions,
        original: Program,
        memory: Mapping[str, int],
        frames: Frames | None,
    ) -> None:
        self.options = options
        self.memory = memory
        self._frames = frames
        apart = sum(model_cost(original, name).macs for name in original.models)
        self.macs = None if options.max_macs is None else options.max_macs.limit(apart)

    @property
    def limits(self) -> Limits:
        """The weight bytes and multiply-accumulates that the budgets leave.

        A share is one of the models' weights apart. Bytes are of all that is predicted to be
        needed, so live activations and the backend come off first.
        """
        budget = self.options.budget
        weights = None
        if budget is not None and budget.nbytes is None:
            weights = budget.limit(self.memory["apart_weights_nbytes"])
        elif budget is not None and budget.nbytes is not None:
            weights = budget.nbytes - self.beside
        return Limits(weights, self.macs)

    @property
    def beside(self) -> int:
        """Predicted bytes of the merged program that are not weights."""
        return self.memory["merged_nbytes"] - self.memory["merged_weights_nbytes"]

    def excess_nbytes(self, program: Program) -> int:
        """Bytes by which a program exceeds the memory budget: of weights or predicted memory."""
        budget = self.options.budget
        if budget is None:
            return 0
        cost = program_cost(program)
        used = cost.weights_nbytes if budget.nbytes is None else cost.predicted_nbytes
        return used - budget.limit(self.memory["apart_weights_nbytes"])

    def latency(self, program: Program) -> float | None:
        """Measured seconds where a latency is asked for, else None."""
        if self.options.max_latency is None or self._frames is None:
            return None
        return latencies([program], self._frames)[0]

    def enforce(self, program: Program) -> None:
        """Raise BudgetError for a replayed plan that is over a budget."""
        hint = "raise the budget, edit the plan, or let repsimc plan by leaving out --plan"
        excess = self.excess_nbytes(program)
        if excess > 0:
            raise BudgetError(f"the plan needs {format_bytes(excess)} more than the budget", hint)
        macs = program_cost(program).macs
        if self.macs is not None and macs > self.macs:
            raise BudgetError(
                f"the plan needs {format_count(macs)} MACs, and {format_count(self.macs)} are "
                "allowed",
                hint,
            )
        seconds = self.latency(program)
        if seconds is not None and seconds > (self.options.max_latency or 0):
            raise BudgetError(_too_slow(seconds, self.options.max_latency or 0), hint)


class Planner:
    """Finds the program within the budgets with the least damage, exact means first."""

    def __init__(
        self,
        options: CompileOptions,
        original: Program,
        bench: Workbench,
        budgets: Budgets,
        frames: Frames | None,
        progress: Progress,
    ) -> None:
        self._options = options
        self._original = original
        self._bench = bench
        self._budgets = budgets
        self._frames = frames
        self._progress = progress
        self._joint: JointPlanner | None = None
        self._folding: FoldPlanner | None = None

    def planned(self) -> Planned:
        """The program, its plan and its comparison. Raises BudgetError where none fits."""
        allowed = self._options.max_latency
        if allowed is None or self._frames is None:
            if allowed is not None:
                raise BudgetError(
                    "a latency is measured on frames, and none were given", "give --calib PATH"
                )
            return self._within(self._budgets.limits)
        limits = self._budgets.limits
        found = self._exact()
        for _ in range(_LATENCY_ROUNDS + 1):
            cost = program_cost(found[0])
            seconds = self._budgets.latency(found[0])
            assert seconds is not None
            within = fits(found[0], self._budgets.limits, self._budgets.excess_nbytes)
            if within and seconds <= allowed:
                return found
            if seconds > allowed:
                macs = int(0.97 * cost.macs * allowed / seconds)
                limits = Limits(limits.weights_nbytes, min(macs, limits.macs or macs))
            found = self._within(limits)
        raise BudgetError(
            _too_slow(self._budgets.latency(found[0]) or 0.0, allowed),
            "allow more time, or lower --min-fidelity",
        )

    def _exact(self) -> Planned:
        bench = self._bench
        return bench.program, bench.plan_with(), bench.compare(bench.program)

    def _within(self, limits: Limits) -> Planned:
        options, bench = self._options, self._bench
        over = limits.excess(_bill(bench.program))
        enough = limits.any and over <= 0
        if enough or options.exact_only or self._frames is None:
            if over > 0:
                raise self._error(limits, (_bill(bench.program), described(())))
            return self._exact()
        several = len(bench.program.models) > 1
        if options.only != "share":
            bench.free = free = self._folds().free
            if free and limits.any and fits(free[0], limits, self._budgets.excess_nbytes):
                return free
        if not limits.any:
            if options.only == "depth":
                return self._planner().most()
            return bench.smallest() if several else bench.least()
        shared: Planned | None = None
        if several and options.only != "depth":
            weights = limits.weights_nbytes
            shared = (
                bench.smallest()
                if weights is None
                else bench.plan(weights, self._budgets.excess_nbytes)
            )
        found = self._planner().within(limits, self._budgets.excess_nbytes, shared)
        if found is None:
            raise self._error(limits, self._least())
        return found

    def _planner(self) -> JointPlanner:
        if self._joint is None:
            folds, progress = self._folds(), self._progress
            self._joint = JointPlanner(self._bench, folds.trials, folds, self._options, progress)
        return self._joint

    def _folds(self) -> FoldPlanner:
        if self._folding is None:
            assert self._frames is not None
            options, progress = self._options, self._progress
            trials = Trials(
                self._original,
                self._bench.program,
                self._frames,
                options.floor,
                options.metric,
                options.seed,
                progress,
            )
            self._folding = FoldPlanner(self._bench, trials, self._frames, options.seed, progress)
        return self._folding

    def _least(self) -> Least:
        """The least that anything tried needs within the floors, and what it consists of."""
        known: list[Least] = []
        if len(self._bench.program.models) > 1 and self._options.only != "depth":
            program, plan, _ = self._bench.smallest()
            known.append((_bill(program), described([one.action for one in plan.actions])))
        if self._joint is not None and self._joint.smallest is not None:
            way = self._joint.smallest
            known.append((way.bill, described(way.actions)))
        free = self._bench.free
        if free is not None:
            known.append((_bill(free[0]), described([one.action for one in free[1].actions])))
        elif not known:
            known.append((_bill(self._bench.program), described(())))
        return min(known, key=lambda least: (least[0].weights_nbytes, least[0].macs))

    def _error(self, limits: Limits, known: Least) -> BudgetError:
        options, memory = self._options, self._budgets.memory
        least, what = known
        weights_met = limits.weights_nbytes is None or least.weights_nbytes <= limits.weights_nbytes
        if weights_met and (limits.macs is None or least.macs <= limits.macs):
            missed = [] if self._joint is None else self._joint.missed
            low = min(missed, key=lambda one: one.value - one.floor, default=None)
            best = (
                f": the best keeps {low.value:.4f} of {low.model}/{low.output}, and "
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
        detail = self._bench.explanation()
        limit = limits.weights_nbytes or 0
        left = format_bytes(limit) if limit > 0 else "nothing"
        return BudgetError(
            f"the budget of {options.budget} leaves {left} for weights; within the fidelity floor "
            f"{found}" + (f"\n{detail}" if detail else ""),
            self._hint(needed),
        )

    def _hint(self, needed: str) -> str:
        if self._frames is None:
            return (
                "approximate sharing needs frames to measure on: give --calib PATH (an .npz keyed "
                "by input name, a folder of them, or a folder of images), or raise the budget "
                f"to {needed}"
            )
        if self._options.exact_only:
            return f"leave out --exact-only to share approximately, or raise the budget to {needed}"
        return (
            f"raise the budget to {needed}, lower --min-fidelity below "
            f"{self._options.min_fidelity:g}, or give more calibration frames"
        )


def _bill(program: Program) -> Bill:
    cost = program_cost(program)
    return Bill(cost.weights_nbytes, cost.macs)


def _too_slow(seconds: float, allowed: float) -> str:
    return (
        f"one frame takes {1e3 * seconds:.2f} ms on this machine, and {1e3 * allowed:.2f} ms are "
        "allowed"
    )
