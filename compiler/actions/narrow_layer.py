"""Narrow a hidden layer: units that the others can replace go when it is fitted again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from ...passes.base import Pass
from ...passes.refit import refit_operators
from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..fitting.effort import SURVEY
from ..fitting.hidden_layers import layer_behind
from ..fitting.pooling import MAX_COLUMNS
from ..fitting.reference import Reference
from ..fitting.unit_curves import NarrowableLayer, UnitCurves, parts_of
from ..graph.program import Program, own_name
from ..structure.channel_removal import in_multiples
from .action import Disturbed, Effect, OneModel, Reads, Stage
from .evidence import Evidence
from .site import MULTIPLE, Site, Sites, owners_of

# Shares of a layer's units that may be left: the curve of all is one elimination.
_LEFT = tuple(Fraction(left, 8) for left in (7, 6, 5, 4, 3, 2))
# A layer that loses more than this share of the variance of what it helps to make is not tried.
_MOST_LOST = 0.1


def _units(reader: Reader) -> int:
    units = reader.value
    if isinstance(units, bool) or not isinstance(units, int) or units < 1:
        raise ModelError(f"{reader.document}: units must be a whole number from 1")
    return units


@dataclass(frozen=True)
class NarrowLayerAction(OneModel):
    """A hidden layer keeps only so many units, chosen by what they contribute to what reads them.

    `value` is what the operator behind the layer reads. Which units stay is decided when the layer
    is fitted again, beside all else that the plan does.
    """

    kind: ClassVar[str] = "narrow-layer"
    stage: ClassVar[Stage] = Stage.WIDTHS
    takes_channels: ClassVar[bool] = True
    read: ClassVar[Reads] = {"units": _units}

    value: str
    units: int

    def __str__(self) -> str:
        count = f"{self.units} unit{'s' if self.units > 1 else ''}"
        return f"{self.model} keeps {count} of {own_name(self.value)}"

    def effect(self, program: Program) -> Effect | str:
        """The layer and what reads it shrink."""
        if self.value not in program.values():
            return f"'{own_name(self.value)}' is gone"
        layer = layer_behind(program, self.value)
        if isinstance(layer, str):
            return layer
        if self.units >= layer.width:
            return f"'{own_name(self.value)}' has {layer.width} units"
        left = self.units / layer.width
        shrunk: dict[str, dict[int, float]] = {layer.maker.node.name: {1: left}}
        if layer.maker.bias is not None:
            adds = layer.maker.bias_node or layer.maker.node
            index = next(i for i, t in enumerate(adds.inputs) if t is layer.maker.bias)
            shrunk.setdefault(adds.name, {})[index] = left
        shrunk[layer.reader.node.name] = {1: left}
        values = {layer.maker.node.outputs[0].name, layer.maker.result.name, self.value}
        values |= {node.outputs[0].name for node in layer.between}
        # Its operators keep their other channels: it could not tell which of those are left.
        return Effect(
            frozenset(values), shrunk=shrunk, chooses=True, owns=frozenset({*values, *shrunk})
        )

    def covers(self, other: object) -> bool:
        """Whether it leaves the same layer as few units as the other."""
        if not isinstance(other, NarrowLayerAction):
            return False
        same = (self.model, self.value) == (other.model, other.value)
        return same and self.units <= other.units

    def rewrites(self, reference: Reference) -> list[Pass]:
        """None: the refit chooses the units."""
        return []

    def disturbed(self, program: Program) -> Disturbed:
        """The layer, and how many units it is to have."""
        return Disturbed(widths=((self.value, self.units),))


def request(evidence: Evidence, group: tuple[str, ...]) -> None:
    """Have the hidden layers' curves measured, those of the first pass."""
    evidence.request(group, f"{NarrowLayerAction.kind} 0", lambda: _curves(evidence, group, 0))


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """Narrower hidden layers of a group's models, by expected damage per layer."""
    bills, sites = evidence.bills, Sites()
    whole = bills.bill(())
    assert whole is not None
    owners = owners_of(evidence.program, group)
    curves: dict[str, list[tuple[int, float]]] = {}
    for number in range(max(1, len(parts_of(_layers(evidence, group))))):
        name = f"{NarrowLayerAction.kind} {number}"
        curves |= evidence.seen(group, name, lambda n=number: _curves(evidence, group, n)).curves
    for value, curve in curves.items():
        for units, lost in curve:
            action = NarrowLayerAction(owners[value], value, units)
            if lost > _MOST_LOST:
                break  # fewer units lose more
            bill = bills.bill((action,))
            if bill is None:
                continue
            saved = whole - bill
            if max(saved.weights_nbytes, saved.macs) > 0:
                sites.found.append(Site(action, saved, lost, look=(owners[value], value)))
    return sites


def _curves(evidence: Evidence, group: tuple[str, ...], number: int) -> UnitCurves:
    """The curves of a part of the group's hidden layers."""
    parts = parts_of(_layers(evidence, group)) or [[]]
    assert SURVEY.frames is not None
    return UnitCurves(parts[number], SURVEY.frames, SURVEY.size, evidence.seed)


def _layers(evidence: Evidence, models: Sequence[str]) -> list[NarrowableLayer]:
    """The hidden layers of some models that could be narrower."""
    program = evidence.program
    owners = owners_of(program, models)
    inputs = [value.name for value in program.graph.inputs]
    found: list[NarrowableLayer] = []
    for operator, target in refit_operators(program, program, inputs):
        value = operator.source.name
        layer = layer_behind(program, value) if value in owners else ""
        if isinstance(layer, str) or layer.reader.fan_in > MAX_COLUMNS:
            continue
        if keeps := _keeps(layer.width):
            found.append(NarrowableLayer(operator, target.value, layer.width, tuple(keeps)))
    return found


def _keeps(width: int) -> list[int]:
    """Units that may be left of so many, most first, in multiples that run fast."""
    sizes = {
        width - len(in_multiples(np.arange(width - max(1, int(width * left))), width, MULTIPLE))
        for left in _LEFT
    }
    return sorted(sizes - {width}, reverse=True)
