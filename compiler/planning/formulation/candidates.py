"""Candidates: sites with the damage that each is predicted to do alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...actions.action import Action
from ...actions.site import Site
from ...errors import InternalFault
from ..damage import Output


@dataclass(frozen=True, eq=False)
class Candidate:
    """A site, and the share of each output's variance that it is predicted to lose alone.

    An output that is missing loses nothing; an infinite share says that the action is not to be
    chosen. Raises InternalFault for shares that are negative, or no numbers.
    """

    site: Site
    errors: Mapping[Output, float]

    def __post_init__(self) -> None:
        for (model, output), error in self.errors.items():
            if math.isnan(error) or error < 0:
                raise InternalFault(
                    f"{self.site.action} is predicted to lose {error} of the variance of "
                    f"'{output}' of {model}"
                )

    @property
    def action(self) -> Action:
        """The action of the site."""
        return self.site.action

    @property
    def usable(self) -> bool:
        """Whether all that it is predicted to lose is finite."""
        return all(map(math.isfinite, self.errors.values()))
