"""When a search has to come to an end, and what is said where it did."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ..errors import BudgetError
from ..units import format_duration


class Deadline:
    """The end of a time limit that runs from when this was made; None: there is none.

    Nothing is interrupted: a search asks between its measurements.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._began = clock()

    def left(self) -> float:
        """Seconds that are left, 0 when it is over; infinite without a limit."""
        if self._seconds is None:
            return math.inf
        return max(0.0, self._seconds - (self._clock() - self._began))

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return self.left() <= 0

    @property
    def told(self) -> str:
        """'the time limit of 10m'."""
        return f"the time limit of {format_duration(self._seconds or 0.0)}"

    def note(self, done: int, rounds: int) -> str:
        """What a report says of a plan that was the best after so many of the search's rounds."""
        return (
            f"{self.told} ended the search after {done} of {rounds} rounds; this is the best plan "
            "it had"
        )

    def refusal(self, wanted: str) -> BudgetError:
        """The error where no plan met what was `wanted` ('the budget of 60%') by then."""
        return BudgetError(
            f"{self.told} ended the search before any plan met {wanted}",
            "allow more time, or raise the budget; --resume starts from what was learned by now",
        )
