"""What a compilation learned of its models and frames, as a value and as JSON that is checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from ...runtime.json_reader import Reader
from ...runtime.json_values import json_fields, json_number
from ..actions.action import Action
from ..actions.bill import Bill
from ..actions.kinds import action_from_json
from ..actions.plan_reader import PlanReader
from ..actions.site import Site
from ..case import Case
from ..execution.outputs import OutputComparison
from ..fitting.effort import FULL, Effort
from .damage import Output

# What blends prove is asked of a plan, not of what a search tries.
_OF_PLANS = ("stressed", "stressed_floor")


@dataclass(frozen=True)
class KnownCandidate:
    """A site, and the share of each output's variance that it was predicted to lose.

    What stands for its `look` is a text, equal where the looks were.
    """

    site: Site
    errors: Mapping[Output, float]


class Measured(NamedTuple):
    """What was measured: actions in any order, the size of the fit, and whose outputs (all)."""

    actions: frozenset[Action]
    effort: Effort = FULL
    models: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Known:
    """What was learned: candidates, by what factor each kind's prediction was off, and trials."""

    candidates: tuple[KnownCandidate, ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict[str, float])
    trials: Mapping[Measured, tuple[OutputComparison, ...]] = field(
        default_factory=dict[Measured, tuple[OutputComparison, ...]]
    )

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {
            "candidates": [_candidate_json(one) for one in self.candidates],
            "scales": {name: json_number(scale) for name, scale in self.scales.items()},
            "trials": [_trial_json(*entry) for entry in self.trials.items()],
        }


def known_from_json(data: object, document: str, case: Case) -> Known:
    """What `to_json` wrote, of a case's program and under its floors.

    Raises ModelError for anything else, what names other nodes, values or outputs included.
    """
    top, check = _KnownReader(document, "", data), _Check(case)
    return Known(
        tuple(top.items("candidates", check.candidate)),
        top.get("scales", lambda entry: entry.entries(Reader.real)),
        dict(top.items("trials", check.trial)),
    )


class _KnownReader(PlanReader):
    """Reads numbers that JSON has only a word for, and whole ones below zero."""

    KINDS: ClassVar[Mapping[Any, Callable[[Any], Any]]] = {
        **PlanReader.KINDS,
        int: Reader.integer,
        float: Reader.real,
    }


class _Check:
    """Reads entries that are of a case's program; all others raise ModelError."""

    def __init__(self, case: Case) -> None:
        self._program = case.program
        self._floor = case.options.floor
        self._nodes = {node.name for node in case.program.graph.nodes}
        self._outputs = {
            (name, own) for name, model in case.program.models.items() for own in model.outputs
        }
        self._actions: dict[Action, Action] = {}

    def candidate(self, reader: Reader) -> KnownCandidate:
        """A site with its errors."""
        errors = dict(reader.items("errors", self._error))
        return KnownCandidate(reader.get("site", self._site), errors)

    def trial(self, reader: Reader) -> tuple[Measured, tuple[OutputComparison, ...]]:
        """What was measured, and the outputs."""
        models = reader.get("models", lambda entry: entry.read_as(tuple[str, ...] | None))
        measured = Measured(
            frozenset(reader.items("actions", self._action)),
            reader.get("effort", lambda entry: entry.record(Effort)),
            models,
        )
        return measured, tuple(reader.items("outputs", self._comparison))

    def _site(self, reader: Reader) -> Site:
        return self._bare_site(reader, tuple(reader.items("alternatives", self._bare_site)))

    def _bare_site(self, reader: Reader, alternatives: tuple[Site, ...] = ()) -> Site:
        nodes = reader.get("nodes", lambda entry: entry.read_as(tuple[str, ...]))
        if not self._nodes.issuperset(nodes):
            raise reader.wrong("of nodes of the program")
        return Site(
            reader.get("action", self._action),
            reader.get("saved", lambda entry: entry.record(Bill)),
            reader.get("damage", Reader.real),
            reader.get("evidence", lambda entry: entry.entries(Reader.real)),
            nodes,
            reader.get("look", lambda entry: entry.read_as(str | None)),
            reader.get("probed", Reader.flag),
            alternatives,
        )

    def _action(self, reader: Reader) -> Action:
        action = action_from_json(reader)
        if action not in self._actions:
            action.check(self._program)
            self._actions[action] = action
        return self._actions[action]

    def _error(self, reader: Reader) -> tuple[Output, float]:
        return self._output(reader), reader.get("error", Reader.real)

    def _comparison(self, reader: Reader) -> OutputComparison:
        found = reader.record(OutputComparison, _OF_PLANS)
        # Floors are the wish of each compilation.
        return replace(found, floor=self._floor(*self._output(reader)))

    def _output(self, reader: Reader) -> Output:
        output = reader.get("model", Reader.text), reader.get("output", Reader.text)
        if output not in self._outputs:
            raise reader.wrong("of an output of the program")
        return output


def _candidate_json(candidate: KnownCandidate) -> dict[str, Any]:
    site = candidate.site
    alternatives = [_site_json(other) for other in site.alternatives]
    errors = [
        {"model": model, "output": output, "error": json_number(error)}
        for (model, output), error in candidate.errors.items()
    ]
    return {"site": {**_site_json(site), "alternatives": alternatives}, "errors": errors}


def _site_json(site: Site) -> dict[str, Any]:
    return {
        "action": site.action.to_json(),
        "saved": json_fields(site.saved),
        "damage": json_number(site.damage),
        "evidence": {name: json_number(figure) for name, figure in site.evidence.items()},
        "nodes": list(site.nodes),
        "look": None if site.look is None else str(site.look),
        "probed": site.probed,
    }


def _trial_json(measured: Measured, outputs: tuple[OutputComparison, ...]) -> dict[str, Any]:
    actions = [action.to_json() for action in measured.actions]
    return {
        # A set has no order of its own, and equal knowledge is to be of equal bytes.
        "actions": sorted(actions, key=lambda entry: json.dumps(entry, sort_keys=True)),
        "effort": json_fields(measured.effort),
        "models": None if measured.models is None else list(measured.models),
        "outputs": [
            {name: value for name, value in json_fields(one).items() if name not in _OF_PLANS}
            for one in outputs
        ],
    }
