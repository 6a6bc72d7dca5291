"""Errors of the runtime; the compiler's errors derive from the same root."""

from __future__ import annotations


class RepsimcError(Exception):
    """A fault the user can act on: one message, one optional hint, one exit code.

    `str(error)` is the message followed by the hint; the CLI prints it and exits with
    `exit_code` (1 internal error, 2 usage, 3 bad model or data, 4 fidelity floor not met,
    5 budget not met, 6 backend missing, 7 regressed, 8 can't be judged).
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(RepsimcError):
    """A call or command line that does not make sense."""

    exit_code = 2


class ModelError(RepsimcError):
    """A model file, graph or bundle that cannot be used."""

    exit_code = 3


class DataError(RepsimcError):
    """Frames (calibration, verification or runtime input) that cannot be used."""

    exit_code = 3


class FidelityError(RepsimcError):
    """An output that is further from its reference than it may be."""

    exit_code = 4


class BackendError(RepsimcError):
    """A backend that is missing or refuses the model."""

    exit_code = 6
