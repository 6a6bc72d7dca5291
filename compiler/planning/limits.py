"""What a compilation may need, as the user asked for it and as a search uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..actions.bill import Bill
from ..case import Case
from ..errors import BudgetError, UsageError
from ..execution.latency import latencies
from ..execution.measured_sizes import unknown_sizes
from ..graph.program import Program
from ..structure.cost import model_cost, program_cost, weights_and_macs
from ..units import format_bytes, format_count

Excess = Callable[[Program], int]
"""By how many bytes a program is over the memory budget after all."""


@dataclass(frozen=True)
class Limits:
    """What the program may need: weight bytes and multiply-accumulates per frame; None is any."""

    weights_nbytes: int | None = None
    macs: int | None = None

    def excess(self, bill: Bill) -> float:
        """By how much a bill is over, as shares of the limits added up; 0 within.

        A limit below zero is one that nothing meets: what is needed beside weights is over it.
        """
        over = 0.0
        for limit, used in ((self.weights_nbytes, bill.weights_nbytes), (self.macs, bill.macs)):
            if limit is not None:
                over += max(0.0, (used - limit) / max(limit, 1))
        return over

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.weights_nbytes is not None or self.macs is not None


def fits(program: Program, limits: Limits, excess: Excess) -> bool:
    """Whether a program is within the limits; `excess` is the last word on memory."""
    macs = limits.macs is None or program_cost(program).macs <= limits.macs
    return macs and excess(program) <= 0


def bill_of(program: Program) -> Bill:
    """What a program really costs."""
    return Bill(*weights_and_macs(program))


def too_slow(seconds: float, allowed: float) -> str:
    """The refusal of a program by its latency."""
    return (
        f"one frame takes {1e3 * seconds:.2f} ms on this machine, and {1e3 * allowed:.2f} ms are "
        "allowed"
    )


class Budgets:
    """What a compilation may need: memory, multiply-accumulates, latency; any of them, or none.

    `memory` is what `structure.cost.predicted_memory` says of the models and the exact program.
    """

    def __init__(self, case: Case, memory: Mapping[str, int]) -> None:
        self.options = case.options
        self.memory = memory
        self._frames = case.frames
        apart = sum(model_cost(case.original, name).macs for name in case.original.models)
        limit = case.options.max_macs
        budget = case.options.budget
        counts_sizes = limit is not None or (budget is not None and budget.nbytes is not None)
        if counts_sizes and (unknown := unknown_sizes(case.original)):
            raise UsageError(
                f"activations and MACs are not known, since {', '.join(unknown)} may have any "
                "size, so no budget of bytes or MACs can be kept",
                f"give frames (--calib PATH) or sizes (--size {unknown[0]}=SIZES), or a "
                "share of the weights such as --budget 60%",
            )
        self.macs = None if limit is None else limit.limit(apart)

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
            raise BudgetError(too_slow(seconds, self.options.max_latency or 0), hint)
