"""The plan: which inexact rewrites to make, as a value that can be printed, edited and replayed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..actions.entries import items, number, optional, table, text
from ..actions.fold_actions import FoldAction, OneModel, fold_action_from_json
from ..actions.fold_effects import check_folds
from ..actions.links import fault_of
from ..errors import ModelError, UsageError
from ..graph.program import Program, own_name
from ..graph.regions import find_regions

SCHEMA = "repsimc.plan/1"
_MAX_PLAN_NBYTES = 16 << 20


@dataclass(frozen=True)
class Link:
    """One value of the receiver and the donor's values that replace it (program names)."""

    receiver_value: str
    donor_values: tuple[str, ...]


@dataclass(frozen=True)
class SharePrefixAction:
    """Feed a receiver's suffix from a donor (RepSim): one link per value of the receiver's cut.

    `kernel` is the adapter's window: 1 or 3 (an affine map per pixel or per 3x3 neighbourhood;
    tokens and features only have 1), or 0 for the donor's value as it is.
    """

    donor: str
    receiver: str
    links: tuple[Link, ...]
    kernel: int

    def __str__(self) -> str:
        ends = ", ".join(
            f"{own_name(link.receiver_value)} <- "
            + " + ".join(own_name(value) for value in link.donor_values)
            for link in self.links
        )
        adapter = f"{self.kernel}x{self.kernel} adapter" if self.kernel else "as it is"
        return f"{self.receiver} takes from {self.donor}: {ends} ({adapter})"

    def to_json(self) -> dict[str, Any]:
        """The action as JSON types; values go by their program names, 'model/value'."""
        return {
            "kind": "share-prefix",
            "donor": self.donor,
            "receiver": self.receiver,
            "kernel": self.kernel,
            "links": [
                {
                    "receiver_value": link.receiver_value,
                    "donor_values": list(link.donor_values),
                }
                for link in self.links
            ],
        }


@dataclass(frozen=True)
class CollapseAction(OneModel):
    """Take a region out of a model: `exit` is made from `entry` instead (program value names).

    A share action whose donor is the model itself: `kernel` is 0 for the entry as it is, or the
    window of an affine map as in SharePrefixAction. What is before and after is refitted.
    """

    kind: ClassVar[str] = "collapse"

    entry: str
    exit: str
    kernel: int = 0

    @property
    def links(self) -> tuple[Link, ...]:
        """The one value that is replaced, and by what."""
        return (Link(self.exit, (self.entry,)),)

    def __str__(self) -> str:
        instead = f", a {self.kernel}x{self.kernel} map instead" if self.kernel else ""
        return f"{self.model} goes without {own_name(self.entry)} .. {own_name(self.exit)}{instead}"


Action = SharePrefixAction | CollapseAction | FoldAction
"""What a plan may hold: every inexact rewrite has one of these."""


@dataclass(frozen=True)
class PlannedAction:
    """An action with what the planner expected of it.

    Bytes and MACs (per frame) saved by this action alone, on top of the exact passes; fidelity
    is the lowest of the affected outputs as measured in the search, None when not measured.
    """

    action: Action
    weights_saved_nbytes: int = 0
    macs_saved: int = 0
    similarity: float | None = None
    fidelity: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The action with an `expected` entry, which a replay carries along and does not need."""
        expected = {
            "weights_saved_nbytes": self.weights_saved_nbytes,
            "macs_saved": self.macs_saved,
            "similarity": _rounded(self.similarity),
            "fidelity": _rounded(self.fidelity),
        }
        return {**self.action.to_json(), "expected": expected}


@dataclass(frozen=True)
class Plan:
    """The inexact actions in the order they are made, and what they were planned for.

    `models` maps model names to the sha256 of their files. Exact passes need no plan: they
    always run. `left_alone` says for each model without an action why.
    """

    models: Mapping[str, str]
    actions: tuple[PlannedAction, ...] = ()
    seed: int = 0
    left_alone: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON types, schema 'repsimc.plan/1'."""
        return {
            "schema": SCHEMA,
            "seed": self.seed,
            "models": dict(self.models),
            "actions": [planned.to_json() for planned in self.actions],
            "left_alone": dict(self.left_alone),
        }

    def __str__(self) -> str:
        lines = [str(planned.action) for planned in self.actions]
        lines += [f"{name} is left alone: {why}" for name, why in self.left_alone.items()]
        return "\n".join(lines) or "nothing inexact"


def read_plan(path: Path) -> Plan:
    """The plan in a JSON file, perhaps edited by hand. Raises UsageError, ModelError."""
    try:
        if path.stat().st_size > _MAX_PLAN_NBYTES:
            raise UsageError(f"{path} is too large for a plan")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} is not a plan: {error}", "give the plan.json of a bundle"
        ) from error
    return plan_from_json(data, str(path))


def plan_from_json(data: object, where: str = "plan") -> Plan:
    """The plan `to_json` wrote. Raises ModelError naming the entry that is wrong."""
    top = table(data, where)
    if top.get("schema") != SCHEMA:
        raise ModelError(
            f"{where} has schema {top.get('schema')!r}, not {SCHEMA!r}",
            "give a plan.json that this version of repsimc wrote",
        )
    models = {str(key): str(value) for key, value in table(top.get("models"), "models").items()}
    actions = tuple(
        _action(table(entry, f"{where}: action {index}"), f"{where}: action {index}")
        for index, entry in enumerate(items(top.get("actions"), f"{where}: actions"))
    )
    seed = top.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ModelError(f"{where}: seed is {seed!r}, not a whole number")
    alone = {str(key): str(why) for key, why in optional(top.get("left_alone")).items()}
    return Plan(models, actions, seed, alone)


def check_plan(plan: Plan, program: Program) -> None:
    """Refuse a plan that does not fit the program. Raises ModelError."""
    values = program.values()
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
    _check_regions(plan, program)
    check_folds([planned.action for planned in plan.actions], program)
    for planned in plan.actions:
        for role in (planned.action.donor, planned.action.receiver):
            if role not in program.models:
                raise ModelError(f"the plan names model {role!r}, which was not given")
        for link in planned.action.links:
            for value in (link.receiver_value, *link.donor_values):
                if value not in values:
                    raise ModelError(
                        f"the plan names value {value!r}, which is not in the program",
                        "`repsimc inspect MODEL` lists the values where a model can be cut",
                    )
            fault = fault_of(program, link.receiver_value, link.donor_values, planned.action.kernel)
            if fault is not None:
                raise ModelError(
                    f"the plan links what cannot be linked: {fault}",
                    "`repsimc inspect MODEL` lists the values where a model can be cut",
                )


def _check_regions(plan: Plan, program: Program) -> None:
    """Refuse a collapse of what is no region, and links to values that a collapse removes."""
    actions = [planned.action for planned in plan.actions]
    collapses = [action for action in actions if isinstance(action, CollapseAction)]
    if not collapses:
        return
    known = {(region.entry, region.exit): region for region in find_regions(program).found}
    made: dict[str, str] = {}  # a value inside a region that goes: the region's exit
    for action in collapses:
        region = known.get((action.entry, action.exit))
        if region is None:
            raise ModelError(
                f"the plan takes out {action.entry} .. {action.exit}, which is no region",
                "`repsimc depth MODEL` lists the regions of a model",
            )
        for name in region.nodes:
            made |= {tensor.name: action.exit for tensor in program.node(name).outputs}
        made.pop(action.exit, None)
    exits = {action.exit for action in collapses}
    for action in actions:
        for link in action.links:
            if link.receiver_value in exits and not isinstance(action, CollapseAction):
                raise ModelError(
                    f"the plan replaces {link.receiver_value} twice: {action}, and the region that "
                    "ends there goes",
                    "take one of the two actions out of the plan",
                )
            for value in (link.receiver_value, *link.donor_values):
                if value in made:
                    raise ModelError(
                        f"the plan uses {value} and takes it out with the region that ends in "
                        f"{made[value]}",
                        "take one of the two actions out of the plan",
                    )


def _action(entry: Mapping[str, Any], where: str) -> PlannedAction:
    kinds: dict[str, Callable[[Mapping[str, Any], str], Action | None]] = {
        "share-prefix": _share_prefix,
        "collapse": _collapse,
    }
    read = kinds.get(str(entry.get("kind")), fold_action_from_json)
    action = read(entry, where)
    if action is None:
        raise ModelError(f"{where} is of unknown kind {entry.get('kind')!r}")
    expected = optional(entry.get("expected"))
    return PlannedAction(
        action,
        int(number(expected, "weights_saved_nbytes") or 0),
        int(number(expected, "macs_saved") or 0),
        number(expected, "similarity"),
        number(expected, "fidelity"),
    )


def _kernel(entry: Mapping[str, Any], where: str) -> int:
    kernel = entry.get("kernel")
    if isinstance(kernel, bool) or kernel not in (0, 1, 3):
        raise ModelError(f"{where}: kernel is {kernel!r}, not 0, 1 or 3")
    return int(kernel)


def _collapse(entry: Mapping[str, Any], where: str) -> CollapseAction:
    model, start, end = (text(entry, key, where) for key in ("model", "entry", "exit"))
    return CollapseAction(model, start, end, _kernel(entry, where))


def _share_prefix(entry: Mapping[str, Any], where: str) -> SharePrefixAction:
    donor, receiver = text(entry, "donor", where), text(entry, "receiver", where)
    kernel = _kernel(entry, where)
    links: list[Link] = []
    for item in items(entry.get("links"), f"{where}: links"):
        link = table(item, f"{where}: links")
        donors = items(link.get("donor_values"), f"{where}: donor_values")
        if not donors or not all(isinstance(value, str) for value in donors):
            raise ModelError(f"{where}: donor_values must be a list of names, not empty")
        links.append(
            Link(text(link, "receiver_value", where), tuple(str(value) for value in donors))
        )
    if not links:
        raise ModelError(f"{where} links nothing")
    return SharePrefixAction(donor, receiver, tuple(links), kernel)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
