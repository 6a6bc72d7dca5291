"""Reading a plan file with errors that name the entry and show what it holds."""

from __future__ import annotations

from ...runtime.json_reader import Reader
from ..errors import ModelError

_SHOWN = 80  # characters of what an entry holds


class PlanReader(Reader):
    """Reads a plan, or one action of it: `document` says which, 'plan.json: action 0'.

    An entry that is not there reads as null.
    """

    OBJECT = "a table"
    TEXT = "a name"

    @property
    def where(self) -> str:
        """The document and the nearest key: 'plan.json: action 0: donor'."""
        keys = [step for step in self.path if isinstance(step, str)]
        return f"{self.document}: {keys[-1]}" if keys else self.document

    def wrong(self, wanted: str) -> ModelError:
        """The error that says this value is not what was `wanted`."""
        shown = "" if wanted in (self.OBJECT, self.LIST) else f" {repr(self.value)[:_SHOWN]},"
        return ModelError(f"{self.where} is{shown} not {wanted}", self.hint)

    def missing(self, key: str) -> Reader:
        """Null, which whoever reads the entry refuses or takes for nothing."""
        return self.at(key, None)
