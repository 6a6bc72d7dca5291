"""The errors a user can meet, each with its documented exit code.

A message says what is wrong, where (model, node, tensor, file) and what to do next.
"""

from __future__ import annotations

from ..runtime.errors import (
    BackendError,
    DataError,
    FidelityError,
    ModelError,
    RepsimcError,
    UsageError,
)


class InternalFault(RepsimcError):
    """A fault of repsimc itself, with how to report it."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            "this is a fault of repsimc: please report it with what the same call prints when "
            "REPSIMC_DEBUG=1 is set",
        )


class BudgetError(RepsimcError):
    """No plan within the fidelity floor meets the budget; nothing was written."""

    exit_code = 5


class RegressionError(RepsimcError):
    """A figure of a bundle that is worse than its baseline allows."""

    exit_code = 7


class UndecidedError(RepsimcError):
    """Figures that scatter too much, or are too few, to be judged: no regression was seen."""

    exit_code = 8


__all__ = [
    "BackendError",
    "BudgetError",
    "DataError",
    "FidelityError",
    "InternalFault",
    "ModelError",
    "RegressionError",
    "RepsimcError",
    "UndecidedError",
    "UsageError",
]
