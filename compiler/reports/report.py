"""The report of a compilation as a value: what was saved, what is shared, what it cost.

The same value is printed as a table (`table.py`), written as report.json into the bundle and
printed by `--format json`. Schema "repsimc.report/1": the fields below under their own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, cast

from ..errors import ModelError

SCHEMA = "repsimc.report/1"
MAX_DIFFERENCE = "max abs difference"
WEIGHTS, MEMORY = "weights", "memory"  # what a budget counts

T = TypeVar("T")


@dataclass(frozen=True)
class OutputFidelity:
    """How close one output stays to the original's, on frames that no fit has seen.

    `metric` is "top-1 agreement", "explained variance" (both: 1 is perfect) or
    "max abs difference" (0 is perfect, `floor` is then the largest difference allowed).
    """

    output: str
    metric: str
    value: float
    floor: float
    frames: int

    @property
    def met(self) -> bool:
        """Whether the floor is kept; False for NaN."""
        if self.metric == MAX_DIFFERENCE:
            return self.value <= self.floor
        return self.value >= self.floor

    @property
    def margin(self) -> float:
        """Room above the floor (negative when it is missed): the output with the least is worst."""
        if math.isnan(self.value):
            return -math.inf
        room = self.value - self.floor
        return -room if self.metric == MAX_DIFFERENCE else room

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types; a non-finite number is written as 'nan', 'inf' or '-inf'."""
        return json_fields(self)

    @staticmethod
    def from_json(data: object) -> OutputFidelity:
        """The value `to_json` wrote. Raises ModelError."""
        fields = _Fields(data, "fidelity")
        return OutputFidelity(
            fields.text("output"),
            fields.text("metric"),
            fields.number("value"),
            fields.number("floor"),
            fields.count("frames"),
        )


@dataclass(frozen=True)
class Sharing:
    """One model (the receiver) reads values of another (the donor) instead of its own.

    Values go by their models' own names. `depth` is the share of the receiver's nodes that this
    replaced, 0..1. `exact` is False when an adapter stands between (sharing by representation).
    """

    donor: str
    donor_values: tuple[str, ...]
    receiver_values: tuple[str, ...]
    depth: float
    exact: bool

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types."""
        return json_fields(self)

    @staticmethod
    def from_json(data: object) -> Sharing:
        """The value `to_json` wrote. Raises ModelError."""
        fields = _Fields(data, "sharing")
        return Sharing(
            fields.text("donor"),
            fields.texts("donor_values"),
            fields.texts("receiver_values"),
            fields.number("depth"),
            fields.flag("exact"),
        )


@dataclass(frozen=True)
class ModelReport:
    """One model before and after: bytes of weights, MACs per frame, peak bytes of activations.

    `weights_after_nbytes` divides a weight that several models read evenly among them, so that
    the models add up to the total.
    """

    name: str
    weights_before_nbytes: int
    weights_after_nbytes: int
    macs_before: int
    macs_after: int
    activations_before_nbytes: int
    activations_after_nbytes: int
    sharing: tuple[Sharing, ...] = ()
    fidelity: tuple[OutputFidelity, ...] = ()

    @property
    def worst(self) -> OutputFidelity | None:
        """The output with the least room above its floor; None when nothing was measured."""
        return min(self.fidelity, key=lambda output: output.margin, default=None)

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types."""
        return json_fields(self)

    @staticmethod
    def from_json(data: object) -> ModelReport:
        """The value `to_json` wrote. Raises ModelError."""
        fields = _Fields(data, "models")
        return ModelReport(
            name=fields.text("name"),
            weights_before_nbytes=fields.count("weights_before_nbytes"),
            weights_after_nbytes=fields.count("weights_after_nbytes"),
            macs_before=fields.count("macs_before"),
            macs_after=fields.count("macs_after"),
            activations_before_nbytes=fields.count("activations_before_nbytes"),
            activations_after_nbytes=fields.count("activations_after_nbytes"),
            sharing=tuple(Sharing.from_json(item) for item in fields.items("sharing")),
            fidelity=tuple(OutputFidelity.from_json(item) for item in fields.items("fidelity")),
        )


@dataclass(frozen=True)
class Report:
    """A whole compilation: every model, and the merged program beside the models apart.

    `memory_*` is predicted: unique weights + peak of live activations + what the backend needs.
    `budget_nbytes` counts what `budget_counts` says: 'memory', predicted (a budget in bytes), or
    'weights' (a share of the models' weights apart). MACs are per frame of each model.
    `frames_*` count the calibration frames used.
    """

    models: tuple[ModelReport, ...]
    weights_before_nbytes: int
    weights_after_nbytes: int
    memory_before_nbytes: int
    memory_after_nbytes: int
    macs_before: int
    macs_after: int
    budget_nbytes: int | None = None
    budget_counts: str = MEMORY
    frames_fit: int = 0
    frames_held_out: int = 0
    inputs_tied: bool = False
    notes: tuple[str, ...] = ()

    @property
    def budget_met(self) -> bool | None:
        """Whether what the budget counts is within it; None without a budget."""
        return None if self.budget_spare_nbytes is None else self.budget_spare_nbytes >= 0

    @property
    def budget_spare_nbytes(self) -> int | None:
        """Bytes left of the budget, negative when it is not met; None without a budget."""
        if self.budget_nbytes is None:
            return None
        weights = self.budget_counts == WEIGHTS
        return self.budget_nbytes - (
            self.weights_after_nbytes if weights else self.memory_after_nbytes
        )

    def model(self, name: str) -> ModelReport:
        """The report of that model. Raises KeyError."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types, with its schema."""
        return {"schema": SCHEMA, **json_fields(self)}

    @staticmethod
    def from_json(data: object) -> Report:
        """The value `to_json` wrote; fields this version does not know are passed over.

        Raises ModelError when the schema is another one or a field is missing or mistyped.
        """
        fields = _Fields(data, "report")
        schema = fields.text("schema")
        if schema != SCHEMA:
            raise ModelError(
                f"the report has schema '{schema}', this repsimc reads '{SCHEMA}'",
                "compile the bundle again with this version",
            )
        return Report(
            models=tuple(ModelReport.from_json(item) for item in fields.items("models")),
            weights_before_nbytes=fields.count("weights_before_nbytes"),
            weights_after_nbytes=fields.count("weights_after_nbytes"),
            memory_before_nbytes=fields.count("memory_before_nbytes"),
            memory_after_nbytes=fields.count("memory_after_nbytes"),
            macs_before=fields.count("macs_before"),
            macs_after=fields.count("macs_after"),
            budget_nbytes=(
                None if fields.value("budget_nbytes") is None else fields.count("budget_nbytes")
            ),
            budget_counts=fields.one_of("budget_counts", (MEMORY, WEIGHTS)),
            frames_fit=fields.count("frames_fit"),
            frames_held_out=fields.count("frames_held_out"),
            inputs_tied=fields.flag("inputs_tied"),
            notes=fields.texts("notes"),
        )


def json_number(value: float) -> float | str:
    """The number, or 'nan', 'inf', '-inf': JSON has no words for those and its readers stop."""
    return float(value) if math.isfinite(value) else str(float(value))


def json_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON types under their own names, in their order."""
    return {field.name: _json(getattr(value, field.name)) for field in fields(value)}


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return json_number(value)
    if isinstance(value, tuple):
        return [_json(item) for item in cast("tuple[Any, ...]", value)]
    return json_fields(value) if is_dataclass(value) else value


class _Fields:
    """The fields of a JSON object, each read with its type checked."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise ModelError(f"the report is damaged: '{where}' is not a JSON object")
        self.data = cast("Mapping[str, object]", data)
        self.where = where

    def value(self, key: str) -> object:
        if key not in self.data:
            raise self.fault(key, "is missing")
        return self.data[key]

    def text(self, key: str) -> str:
        return self._typed(key, str, "a text")

    def one_of(self, key: str, words: tuple[str, ...]) -> str:
        word = self.text(key)
        if word not in words:
            raise self.fault(key, f"is none of {', '.join(words)}")
        return word

    def flag(self, key: str) -> bool:
        return self._typed(key, bool, "true or false")

    def count(self, key: str) -> int:
        value = self._typed(key, int, "a whole number")
        if isinstance(value, bool):
            raise self.fault(key, "is not a whole number")
        return value

    def number(self, key: str) -> float:
        value = self.value(key)
        if value in ("nan", "inf", "-inf"):
            return float(cast("str", value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(key, "is not a number")
        return float(value)

    def items(self, key: str) -> list[object]:
        return cast("list[object]", self._typed(key, list, "a list"))

    def texts(self, key: str) -> tuple[str, ...]:
        items = self.items(key)
        if not all(isinstance(item, str) for item in items):
            raise self.fault(key, "is not a list of texts")
        return tuple(cast("list[str]", items))

    def _typed(self, key: str, kind: type[T], what: str) -> T:
        value = self.value(key)
        if not isinstance(value, kind):
            raise self.fault(key, f"is not {what}")
        return value

    def fault(self, key: str, problem: str) -> ModelError:
        return ModelError(
            f"the report is damaged: field '{key}' of '{self.where}' {problem}",
            "compile the bundle again",
        )
