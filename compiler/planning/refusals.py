"""What is said where no plan keeps the budgets and the fidelity floors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..actions.bill import Bill
from ..errors import BudgetError
from ..execution.outputs import OutputComparison
from ..units import format_bytes, format_count
from .chooser import Outlook
from .damage import described
from .limits import Budgets, Limits, bill_of
from .trial import Trial


class Refusals:
    """Errors for a compilation's budgets, each with the best that could be had instead."""

    def __init__(self, budgets: Budgets, has_frames: bool) -> None:
        self._budgets = budgets
        self._options = budgets.options
        self._has_frames = has_frames

    @property
    def wanted(self) -> str:
        """The budgets that were asked for, in words."""
        options = self._options
        asked = [f"the budget of {options.budget}"] if options.budget is not None else []
        asked += [str(options.max_macs)] if options.max_macs is not None else []
        return " and ".join(asked) or "the latency asked for"

    def exact(self, limits: Limits, bill: Bill) -> BudgetError:
        """What is exact is not enough, and nothing else may be done."""
        what = f"within the fidelity floor the smallest plan found needs {{}} ({described(())})"
        return self._over(limits, bill, what)

    def out_of_reach(
        self, limits: Limits, least: Outlook, met: float | None, why: Mapping[str, str]
    ) -> BudgetError:
        """No plan meets the limits, or none without losing far more than floors allow.

        `met` is the fidelity at which they would be met, `least` the smallest plan that is
        predicted to keep the floors; `why` says by model what stands against more.
        """
        choice = least.choice
        what = (
            "within the fidelity floor the smallest plan found needs about "
            f"{{}} ({described(least.actions)}), predicted to keep {_shown(least.fidelity)}"
        )
        if met is not None:
            what += f"; the budget would be met at about {_shown(met)}"
        lines = [f"  {name}: {reason}" for name, reason in why.items()]
        return self._over(limits, choice.bill, what, lines)

    def missed(self, limits: Limits, fitted: Sequence[Trial], least: Trial) -> BudgetError:
        """Every plan that was fitted misses a floor; `least` is the smallest found to keep them."""
        outputs = [trial.outputs for trial in fitted if not trial.met]
        worst = [min(each, key=lambda one: one.judged - one.floor) for each in outputs if each]
        low = max(worst, key=lambda one: one.judged - one.floor, default=None)
        bill = bill_of(least.program)
        if limits.excess(bill) > 0:
            what = (
                f"within the fidelity floor the smallest plan found needs {{}} "
                f"({described(least.actions)})"
            )
            if low is not None:
                what += f"; the best within the budget keeps {low.judged:.4f} of {_name(low)}"
            return self._over(limits, bill, what)
        best = "" if low is None else f": the best keeps {low.judged:.4f} of {_name(low)}"
        return BudgetError(
            "every plan that meets the budget misses the fidelity floor once it is fitted on all "
            f"frames{best}",
            f"lower --min-fidelity below {self._options.min_fidelity:g}, raise the budget, or give "
            "more calibration frames",
        )

    def _over(
        self, limits: Limits, bill: Bill, what: str, lines: Sequence[str] = ()
    ) -> BudgetError:
        options, memory = self._options, self._budgets.memory
        limit = limits.weights_nbytes
        if limit is None or bill.weights_nbytes <= limit:
            told = what.format(f"{format_count(bill.macs)} MACs")
            return BudgetError(
                f"{format_count(limits.macs or 0)} MACs are allowed; {told}",
                self._hint(f"at least {format_count(bill.macs)} MACs"),
            )
        assert options.budget is not None
        smallest = bill.weights_nbytes
        if options.budget.share is not None:
            apart = memory["apart_weights_nbytes"]
            needed = f"{math.ceil(100 * smallest / max(apart, 1))}%"
            told = what.format(f"{format_bytes(smallest)} of weights")
        else:
            total = smallest + self._budgets.beside
            needed = format_bytes(total * 1.005)  # printed with three digits: not below the need
            told = what.format(f"{format_bytes(smallest)} of weights, {format_bytes(total)} in all")
        left = format_bytes(limit) if limit > 0 else "nothing"
        detail = "".join(f"\n{line}" for line in lines)
        return BudgetError(
            f"the budget of {options.budget} leaves {left} for weights; {told}{detail}",
            self._hint(needed),
        )

    def _hint(self, needed: str) -> str:
        options = self._options
        if not self._has_frames:
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


def _name(output: OutputComparison) -> str:
    return f"{output.model}/{output.output}, and {output.floor:g} is asked for"


def _shown(fidelity: float) -> str:
    """A predicted fidelity in two digits: it is no measurement."""
    return f"{fidelity:.2f}"
