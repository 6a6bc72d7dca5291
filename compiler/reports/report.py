"""The report of a compilation as a value: what was saved, what is shared, what it cost.

The same value is printed as a table (`table.py`), written as report.json into the bundle and
printed by `--format json`. Schema "repsimc.report/1": the fields below under their own names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ...runtime.json_reader import Reader
from ...runtime.json_values import JsonValue
from ..errors import ModelError

if TYPE_CHECKING:  # a device reads reports, and has nothing that compares
    from ..execution.outputs import OutputComparison

SCHEMA = "repsimc.report/1"
MAX_DIFFERENCE = "max abs difference"
WEIGHTS, MEMORY = "weights", "memory"  # what a budget counts


# -- reading -----------------------------------------------------------------------------------


def _names(reader: Reader) -> list[str]:
    return ["report", *(step for step in reader.path if isinstance(step, str))]


def _fault(reader: Reader, problem: str) -> ModelError:
    owner, key = _names(reader)[-2:]
    return ModelError(
        f"the report is damaged: field '{key}' of '{owner}' {problem}",
        "compile the bundle again",
    )


def _text(reader: Reader) -> str:
    if not isinstance(reader.value, str):
        raise reader.wrong("a text")
    return reader.value


def _texts(reader: Reader) -> tuple[str, ...]:
    found = reader.each(Reader.anything)
    if not all(isinstance(item, str) for item in found):
        raise reader.wrong("a list of texts")
    return tuple(found)


def _optional_number(reader: Reader) -> float | None:
    return None if reader.value is None else reader.real()


def _counted(reader: Reader) -> str:
    word = _text(reader)
    if word not in (MEMORY, WEIGHTS):
        raise _fault(reader, f"is none of {MEMORY}, {WEIGHTS}")
    return word


def _optional_integer(reader: Reader) -> int | None:
    return None if reader.value is None else reader.integer()


# Fields that reports of earlier versions do not have, and what they mean by it.
_LATER: Mapping[str, Any] = {
    "actions": [],
    "predicted_loss": None,
    "unverified": "",
    "weights_by_bits": {},
    "sizes": {},
    "sizes_unknown": [],
    "ties": [],
    "lower": None,
    "confidence": 0.95,
    "stressed": None,
    "stressed_floor": None,
    "max_difference": None,
    "score_change": None,
    "explained": None,
    "strict": False,
    "in_float": [],
    "macs_in_eight_bits": 0,
    "computed_in_float": [],
    "target": "any",
    "series": "",
}


class _ReportReader(Reader):
    """Reads a report; an error names the field and the object that it is of."""

    OBJECT = "a JSON object"
    KINDS: ClassVar[Mapping[Any, Callable[[Any], Any]]] = {
        str: _text,
        int: Reader.integer,
        float: Reader.real,
        bool: Reader.flag,
        tuple[str, ...]: _texts,
    }

    def wrong(self, wanted: str) -> ModelError:
        if wanted == self.OBJECT:
            return ModelError(f"the report is damaged: '{_names(self)[-1]}' is not {wanted}")
        return _fault(self, f"is not {wanted}")

    def missing(self, key: str) -> Reader:
        if key in _LATER:
            return self.at(key, _LATER[key])
        raise _fault(self.at(key, None), "is missing")


# -- the report --------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputFidelity(JsonValue):
    """How close one output stays to the original's, on frames that no fit has seen.

    `metric` is "top-1 agreement", "explained variance" (both: 1 is perfect) or
    "max abs difference" (0 is perfect, `floor` is then the largest difference allowed). `lower` is
    what the frames prove of the value at that `confidence`; None: it rests on no sample. `stressed`
    is what blends of frames prove at it, None where there are none. `max_difference` is the largest
    change of a value, `score_change` that of a class's probability. `explained` is the explained
    variance, whatever the metric is. `strict`: the floor is of what is proved.
    """

    output: str
    metric: str
    value: float
    floor: float
    frames: int
    lower: Annotated[float | None, _optional_number] = None
    confidence: float = 0.95
    stressed: Annotated[float | None, _optional_number] = None
    stressed_floor: Annotated[float | None, _optional_number] = None
    max_difference: Annotated[float | None, _optional_number] = None
    score_change: Annotated[float | None, _optional_number] = None
    explained: Annotated[float | None, _optional_number] = None
    strict: bool = False

    @staticmethod
    def of(compared: OutputComparison) -> OutputFidelity:
        """The fidelity that a comparison found."""
        names = [each.name for each in fields(OutputFidelity)]
        return OutputFidelity(**{name: getattr(compared, name) for name in names})

    @property
    def judged(self) -> float:
        """What is held against the floor: the value, or what is proved of it."""
        return self.lower if self.strict and self.lower is not None else self.value

    @property
    def met(self) -> bool:
        """Whether the floor is kept, and that on blends if there is one; False for NaN."""
        if self.metric == MAX_DIFFERENCE:
            return self.value <= self.floor
        return self.judged >= self.floor and (
            self.stressed is None
            or self.stressed_floor is None
            or self.stressed >= self.stressed_floor
        )

    @property
    def margin(self) -> float:
        """Room above the floor (negative when it is missed): the output with the least is worst."""
        if math.isnan(self.value):
            return -math.inf
        room = self.judged - self.floor
        return -room if self.metric == MAX_DIFFERENCE else room

    @staticmethod
    def from_json(data: object) -> OutputFidelity:
        """The value `to_json` wrote. Raises ModelError."""
        return _ReportReader("the report", "", data, ("fidelity",)).record(OutputFidelity)


@dataclass(frozen=True)
class Sharing(JsonValue):
    """One model (the receiver) reads values of another (the donor) instead of its own.

    Values go by their models' own names. `depth` is the share of the receiver's nodes that this
    replaced, 0..1. `exact` is False when an adapter stands between (sharing by representation).
    """

    donor: str
    donor_values: tuple[str, ...]
    receiver_values: tuple[str, ...]
    depth: float
    exact: bool


@dataclass(frozen=True)
class FloatWeight(JsonValue):
    """Weights of one operator that stay in float where few bits were asked for, and why.

    `operator` goes by its own name. `predicted_loss` is the share of the worst output's variance
    that storing them in as few bits was predicted to lose by itself; None: nothing was.
    """

    operator: str
    nbytes: int
    why: str
    predicted_loss: Annotated[float | None, _optional_number] = None


@dataclass(frozen=True)
class FloatOperator(JsonValue):
    """A convolution or product that computes in float where a target's kernels were asked for.

    `operator` goes by its own name; `macs` are per frame. `predicted_loss` is the share of the
    worst output's variance that rounding what it needs was seen to lose by itself; None: nothing
    was seen.
    """

    operator: str
    macs: int
    why: str
    predicted_loss: Annotated[float | None, _optional_number] = None


@dataclass(frozen=True)
class ModelReport(JsonValue):
    """One model before and after: bytes of weights, MACs per frame, peak bytes of activations.

    `weights_after_nbytes` divides a weight that several models read evenly among them, so that
    the models add up to the total; `weights_by_bits` are the same bytes by the bits that an element
    takes ("32", "8"), scales with what they scale. `unverified` says why the model could not be
    compared with its file, '' where it was. `in_float` is empty where nobody asked for few bits.
    `macs_in_eight_bits` of `macs_after` are made by integer kernels, and `computed_in_float` are
    the operators with the others, where a target was given.
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
    unverified: str = ""
    weights_by_bits: Mapping[str, int] = field(default_factory=dict[str, int])
    in_float: tuple[FloatWeight, ...] = ()
    macs_in_eight_bits: int = 0
    computed_in_float: tuple[FloatOperator, ...] = ()

    @property
    def worst(self) -> OutputFidelity | None:
        """The output with the least room above its floor; None when nothing was measured."""
        return min(self.fidelity, key=lambda output: output.margin, default=None)


@dataclass(frozen=True)
class ActionReport(JsonValue):
    """One inexact rewrite of the plan, by the name of its kind, and where it is made.

    `place` is in the names of the models' files. Weight bytes and MACs per frame are saved by it
    alone, after what is exact. `predicted_loss` is the share of the worst output's variance that it
    alone was predicted to lose, before the plan was fitted; None: nothing was. Many of one `series`
    are one line of a table; '' is none.
    """

    kind: str
    place: str
    weights_saved_nbytes: int
    macs_saved: int
    predicted_loss: Annotated[float | None, _optional_number] = None
    series: str = ""


@dataclass(frozen=True)
class Report(JsonValue):
    """A whole compilation: every model, and the merged program beside the models apart.

    `memory_*` is predicted: unique weights + peak of live activations + what the backend needs.
    `budget_nbytes` counts what `budget_counts` says: 'memory', predicted (a budget in bytes), or
    'weights' (a share of the models' weights apart). MACs are per frame of each model.
    `frames_*` count the calibration frames used. `ties` say which inputs are one, and why. `sizes`
    are what one frame of each input of free size ('model.input') is, for which activations and MACs
    count; of models with an input among `sizes_unknown` neither is known, and they count as
    nothing. `weights_by_bits` are the merged program's weights by the bits that an element takes.
    `target` says whose integer kernels were asked for ('any': nobody's).
    `actions` are the plan's, in the order they are made; `predicted_loss` is what all of
    them were predicted to lose together.
    """

    models: tuple[ModelReport, ...]
    weights_before_nbytes: int
    weights_after_nbytes: int
    memory_before_nbytes: int
    memory_after_nbytes: int
    macs_before: int
    macs_after: int
    budget_nbytes: Annotated[int | None, _optional_integer] = None
    budget_counts: Annotated[str, _counted] = MEMORY
    frames_fit: int = 0
    frames_held_out: int = 0
    inputs_tied: bool = False
    ties: tuple[str, ...] = ()
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    sizes_unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    actions: tuple[ActionReport, ...] = ()
    predicted_loss: Annotated[float | None, _optional_number] = None
    weights_by_bits: Mapping[str, int] = field(default_factory=dict[str, int])
    target: str = "any"

    @property
    def measured_loss(self) -> float | None:
        """The share of its variance that the worst output lost, 0..1; None: not measured."""
        kept = [output.explained for model in self.models for output in model.fidelity]
        lost = [1.0 if math.isnan(one) else 1.0 - one for one in kept if one is not None]
        return min(1.0, max(0.0, *lost)) if lost else None

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

    def has_known_sizes(self, model: str) -> bool:
        """Whether activations and MACs of that model are known."""
        return not any(name.startswith(f"{model}.") for name in self.sizes_unknown)

    def model(self, name: str) -> ModelReport:
        """The report of that model. Raises KeyError."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types, with its schema."""
        return {"schema": SCHEMA, **super().to_json()}

    @staticmethod
    def from_json(data: object) -> Report:
        """The value `to_json` wrote; fields this version does not know are passed over.

        Raises ModelError when the schema is another one or a field is missing or mistyped.
        """
        top = _ReportReader("the report", "", data)
        schema = top.get("schema", _text)
        if schema != SCHEMA:
            raise ModelError(
                f"the report has schema '{schema}', this repsimc reads '{SCHEMA}'",
                "compile the bundle again with this version",
            )
        return top.record(Report)
