"""Compute in 8 bits: values between operators are rounded, for which backends have kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...passes.base import Pass
from ...passes.compute_in_eight_bits import ComputeInEightBits
from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..fitting.ranges import Range, wrong_range
from ..fitting.reference import Reference
from ..graph.program import Program, own_name
from ..structure.integer_kernels import CPU, TENSORRT
from .action import Disturbed, Effect, OneModel, Reads, Stage, check_models
from .evidence import Evidence
from .site import Sites, owners_of


def _names(reader: Reader) -> tuple[str, ...]:
    names = reader.each(Reader.anything)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ModelError(f"{reader.document}: values must be names, one or more")
    return tuple(names)


def _ranges(reader: Reader) -> tuple[Range, ...]:
    found = reader.each(_range)
    if not found:
        raise ModelError(f"{reader.document}: ranges must be one for each value, [low, high]")
    return tuple(found)


def _range(reader: Reader) -> Range:
    ends = reader.each(Reader.anything)
    numbers = [
        float(one) for one in ends if isinstance(one, int | float) and not isinstance(one, bool)
    ]
    if len(ends) != 2 or len(numbers) != 2:
        raise ModelError(f"{reader.document}: a range is a list of two numbers, [low, high]")
    if problem := wrong_range(*numbers):
        raise ModelError(
            f"{reader.document}: a range of {problem}",
            "ranges are finite, from 0 or below to 0 or above",
        )
    return numbers[0], numbers[1]


def _target(reader: Reader) -> str:
    if reader.value not in (CPU, TENSORRT):
        raise ModelError(f"{reader.document}: target must be {CPU} or {TENSORRT}")
    return reader.text()


@dataclass(frozen=True)
class ComputeInEightBitsAction(OneModel):
    """Values of a model are rounded to 8 bits, each to the 256 numbers of its range.

    What reads and makes them is then computed by integer kernels of the `target`, where its
    weights are in 8 bits, too. It saves no bytes and no MACs, so no bill asks for it: the planner
    adds it to a plan last, as far as the floors allow.
    """

    kind: ClassVar[str] = "compute-in-eight-bits"
    stage: ClassVar[Stage] = Stage.ARITHMETIC
    counted: ClassVar[tuple[str, str]] = ("stretch in 8 bits", "stretches in 8 bits")
    read: ClassVar[Reads] = {"values": _names, "ranges": _ranges, "target": _target}

    values: tuple[str, ...]
    ranges: tuple[Range, ...]
    target: str

    @property
    def place(self) -> str:
        """The model and its values."""
        return f"{self.model}: {_listed(self.values)}"

    def to_json(self) -> dict[str, Any]:
        """The action as JSON types."""
        return {**super().to_json(), "ranges": [list(one) for one in self.ranges]}

    def __str__(self) -> str:
        return f"{self.model} computes with {_listed(self.values)} in 8 bits for {self.target}"

    def check(self, program: Program) -> None:
        """Refuse values that are not there, and ranges that are none of theirs. Raises ModelError.

        A range has to be finite, and to hold 0.
        """
        check_models(self.models, program)
        known = program.values()
        self.check_names("value", set(known), self.values)
        hint = "take the value out of the plan, or let repsimc plan by leaving out --plan"
        if len(self.ranges) != len(self.values):
            raise ModelError(
                f"the plan has {len(self.ranges)} ranges of {len(self.values)} values that "
                f"{self.model} is to compute with in 8 bits",
                "give one range, [low, high], for each value in order",
            )
        for name, given in zip(self.values, self.ranges):
            if problem := wrong_range(*given):
                raise ModelError(
                    f"the plan's range of '{own_name(name)}' is wrong: {problem}", hint
                )
            if known[name].dtype != np.float32:
                raise ModelError(
                    f"'{own_name(name)}' cannot be rounded to 8 bits: it is not float32", hint
                )

    def effect(self, program: Program) -> Effect | str:
        """Values are made anew, and nothing is saved."""
        known = program.values()
        for name in self.values:
            if name not in known:
                return f"there is no '{own_name(name)}'"
        return Effect(
            frozenset(self.values), owns=frozenset(f"rounding of {name}" for name in self.values)
        )

    def covers(self, other: object) -> bool:
        """Whether all that the other rounds is rounded alike."""
        if not isinstance(other, ComputeInEightBitsAction) or self.target != other.target:
            return False
        mine = dict(zip(self.values, self.ranges))
        return all(mine.get(name) == one for name, one in zip(other.values, other.ranges))

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The pairs that round; weights are fitted to them afterwards."""
        return [ComputeInEightBits(tuple(zip(self.values, self.ranges)), self.target == TENSORRT)]

    def disturbed(self, program: Program) -> Disturbed:
        """Nothing: the walk that rounds weights fits them to what they are fed."""
        return Disturbed()


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """None: nothing is saved that a budget counts, see `planning/arithmetic`."""
    return Sites()


def actions_of(
    program: Program, ranges: Mapping[str, Range], target: str
) -> list[ComputeInEightBitsAction]:
    """One action for each model that owns some of the values; `program` is the exact one."""
    owners, inputs = owners_of(program), _readers_of_inputs(program)
    by_model: dict[str, dict[str, Range]] = {}
    for name, given in ranges.items():
        owner = owners.get(name) or inputs[name]
        by_model.setdefault(owner, {})[name] = given
    return [
        ComputeInEightBitsAction(model, tuple(mine), tuple(mine.values()), target)
        for model, mine in by_model.items()
    ]


def _readers_of_inputs(program: Program) -> dict[str, str]:
    """The first model that is fed each graph input."""
    found: dict[str, str] = {}
    for name, model in program.models.items():
        for value in (*model.inputs.values(), *model.optional.values()):
            found.setdefault(value, name)
    return found


def _listed(values: Sequence[str]) -> str:
    if len(values) > 3:
        return f"{own_name(values[0])} and {len(values) - 1} others"
    return ", ".join(map(own_name, values))
