"""The plan: which inexact rewrites to make, as a value that can be printed, edited and replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ...runtime.json_reader import Reader, read_json
from ..actions.action import Action
from ..actions.combining import check_together
from ..actions.kinds import action_from_json
from ..actions.plan_reader import PlanReader
from ..case import Case
from ..errors import ModelError, UsageError
from ..graph.program import Program

SCHEMA = "repsimc.plan/1"
_MAX_PLAN_NBYTES = 16 << 20
_PLAN_HINT = "give the plan.json of a bundle, a table with 'models' and 'actions'"


@dataclass(frozen=True)
class PlannedAction:
    """An action with what the planner expected of it.

    Bytes and MACs (per frame) saved by this action alone, on top of the exact passes; fidelity
    is the lowest of the affected outputs as measured in the search, None when not measured.
    `predicted` is the share of the worst output's variance that this action alone was predicted to
    lose before the plan was fitted; None when nothing was.
    """

    action: Action
    weights_saved_nbytes: int = 0
    macs_saved: int = 0
    similarity: float | None = None
    fidelity: float | None = None
    predicted: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The action with an `expected` entry, which a replay carries along and does not need."""
        expected = {
            "weights_saved_nbytes": self.weights_saved_nbytes,
            "macs_saved": self.macs_saved,
            "similarity": _rounded(self.similarity),
            "fidelity": _rounded(self.fidelity),
            "predicted": _rounded(self.predicted),
        }
        return {**self.action.to_json(), "expected": expected}


@dataclass(frozen=True)
class Plan:
    """The inexact actions in the order they are made, and what they were planned for.

    `models` maps model names to the sha256 of their files. Exact passes need no plan: they
    always run. `left_alone` says for each model without an action why. `predicted` is the share of
    the worst output's variance that all actions were predicted to lose together; None: not known.
    """

    models: Mapping[str, str]
    actions: tuple[PlannedAction, ...] = ()
    seed: int = 0
    left_alone: Mapping[str, str] = field(default_factory=dict[str, str])
    predicted: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON types, schema 'repsimc.plan/1'."""
        return {
            "schema": SCHEMA,
            "seed": self.seed,
            "models": dict(self.models),
            "actions": [planned.to_json() for planned in self.actions],
            "left_alone": dict(self.left_alone),
            "expected": {"actions": len(self.actions), "predicted": _rounded(self.predicted)},
        }

    def __str__(self) -> str:
        lines = [str(planned.action) for planned in self.actions]
        lines += [f"{name} is left alone: {why}" for name, why in self.left_alone.items()]
        return "\n".join(lines) or "nothing inexact"


def plan_of(
    case: Case,
    actions: Sequence[PlannedAction] = (),
    left_alone: Mapping[str, str] | None = None,
    predicted: float | None = None,
) -> Plan:
    """The plan of these actions for a case's models."""
    models = {name: model.source.sha256 for name, model in case.program.models.items()}
    return Plan(models, tuple(actions), case.options.seed, left_alone or {}, predicted)


def read_plan(path: Path) -> Plan:
    """The plan in a JSON file, perhaps edited by hand. Raises UsageError, ModelError."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_PLAN_NBYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror}") from error
    if len(content) > _MAX_PLAN_NBYTES:
        raise UsageError(f"{path} is too large for a plan", _PLAN_HINT)
    return plan_from_json(read_json(content, str(path), _PLAN_HINT), str(path))


def plan_from_json(data: object, where: str = "plan") -> Plan:
    """The plan `to_json` wrote. Raises ModelError naming the entry that is wrong."""
    top = PlanReader(where, _PLAN_HINT, data)
    schema = top.get("schema", Reader.anything)
    if schema != SCHEMA:
        raise ModelError(
            f"{where} has schema {schema!r}, not {SCHEMA!r}",
            "give a plan.json that this version of repsimc wrote",
        )
    models = top.get("models", lambda reader: reader.entries(Reader.anything))
    entries = top.get("actions", lambda reader: reader.each(Reader.anything))
    actions = tuple(
        _action(PlanReader(f"{where}: action {index}", _PLAN_HINT, entry))
        for index, entry in enumerate(entries)
    )
    seed = top.get("seed", lambda reader: 0 if reader.value is None else reader.integer())
    alone = top.find("left_alone", lambda reader: reader.entries(Reader.anything)) or {}
    return Plan(
        {key: str(value) for key, value in models.items()},
        actions,
        seed,
        {key: str(why) for key, why in alone.items()},
        _predicted(top, len(actions)),
    )


def check_plan(plan: Plan, program: Program) -> None:
    """Refuse a plan that does not fit the program. Raises ModelError."""
    missing = sorted(set(plan.models) ^ set(program.models))
    if missing:
        raise ModelError(
            f"the plan and the models given disagree on {', '.join(missing)}",
            "give the models the plan was made for, with the same --name",
        )
    for name, sha256 in plan.models.items():
        if sha256 and sha256 != program.models[name].source.sha256:
            raise ModelError(
                f"model {name} is not the file the plan was made for",
                "plan again, or empty its sha256 in the plan to insist",
            )
    check_together([planned.action for planned in plan.actions], program)


def _expected(entry: PlanReader, key: str) -> float | None:
    """What was expected; None where an edited plan has none, or no number."""
    return entry.find("expected", lambda reader: reader.get(key, Reader.number))


def _predicted(top: PlanReader, actions: int) -> float | None:
    """What all were predicted to lose together; None where actions were taken out or added."""
    return _expected(top, "predicted") if _expected(top, "actions") == actions else None


def _action(entry: PlanReader) -> PlannedAction:
    action = action_from_json(entry)
    number = partial(_expected, entry)

    return PlannedAction(
        action,
        int(number("weights_saved_nbytes") or 0),
        int(number("macs_saved") or 0),
        number("similarity"),
        number("fidelity"),
        number("predicted"),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
