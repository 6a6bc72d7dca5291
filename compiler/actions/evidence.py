"""What the frames say about a program's values: measured once, and only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from ..case import Case
from ..execution.feeds import fit_feeds, run_groups
from ..execution.observing import Observer, observe
from ..execution.statistics import ConstantMeasure, StatisticsObserver, smallest_constant
from ..fitting.effort import SURVEY, Effort
from ..fitting.landmarks import Landmarks
from ..fitting.reference import FitSize, Reference
from ..fitting.regression import products_in_threads
from ..structure.activation_functions import addends
from .bill import Bills

# Frames that statistics are taken over: "never on" is as good as the frames that say so.
STATISTICS_FRAMES = 1024
_O = TypeVar("_O", bound=Observer)


class Evidence:
    """What observers saw of the exact program's values, by group of models, and rows for fits.

    A group is the models that run on one batch of frames. All that was requested for it before
    one is asked for is observed in one pass. Whatever is measured is kept by all that
    decides it; `bills` prices what is found. Frames say nothing of inputs that were given one array
    for all of them (`constant_inputs`, of the program), nor of models with a state among those
    (`still`).
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.program = case.program
        self.groups = () if case.frames is None else run_groups(case.frames)
        self.constant_inputs, self.still = _one_array(case)
        self.bills = Bills(case.program, self.constant_nbytes)
        self._observed: dict[tuple[tuple[str, ...], str], Observer] = {}
        self._requested: dict[tuple[tuple[str, ...], str], Observer] = {}
        self._references: dict[tuple[str, int | None, FitSize], Reference] = {}

    def group_of(self, model: str) -> tuple[str, ...]:
        """The group that a model is in."""
        return next(group for group in self.groups if model in group)

    def reference(self, model: str, effort: Effort = SURVEY) -> Reference:
        """The exact program on the frames that a fit of that size may see, for a model's group."""
        assert self.case.frames is not None
        key = self.group_of(model)[0], effort.frames, effort.size
        if key not in self._references:
            feeds = fit_feeds(self.program, self.case.frames, key[0], effort.frames)
            seed = self.case.options.seed
            near = effort.size.reach is not None
            marks = Landmarks(self.program, feeds, self.group_of(model)) if near else None
            self._references[key] = Reference(self.program, feeds, seed, effort.size, marks)
        return self._references[key]

    def request(self, group: tuple[str, ...], name: str, make: Callable[[], Observer]) -> None:
        """Have an observer of the group's fit frames look on in its next pass, once by name."""
        key = group, name
        if key not in self._observed and key not in self._requested:
            self._requested[key] = make()

    def seen(self, group: tuple[str, ...], name: str, make: Callable[[], _O]) -> _O:
        """The observer of that name, after its pass, in which all that was requested looks on."""
        self.request(group, name, make)
        key = group, name
        if key in self._requested:
            mine = {
                one: self._requested.pop(one) for one in list(self._requested) if one[0] == group
            }
            frames = self.case.frames
            assert frames is not None
            with products_in_threads():
                observe(
                    self.program,
                    lambda limit: fit_feeds(self.program, frames, group[0], limit),
                    list(mine.values()),
                )
            self._observed |= mine
        return cast(_O, self._observed[key])

    @property
    def seed(self) -> int:
        """What positions are drawn by."""
        return self.case.options.seed

    @property
    def precision(self) -> str:
        """What is asked for: see options."""
        return self.case.options.precision

    @property
    def target(self) -> str:
        """Whose kernels count: see options."""
        return self.case.options.target

    def constants(self, group: tuple[str, ...]) -> StatisticsObserver:
        """Which addends of the group's models were the same on every frame."""
        return self.seen(group, "constants", lambda: self._constants(group))

    def request_constants(self, group: tuple[str, ...]) -> None:
        """Have `constants` looked for in the next pass."""
        self.request(group, "constants", lambda: self._constants(group))

    def _constants(self, group: tuple[str, ...]) -> StatisticsObserver:
        nodes = {id(node): node for model in group for node in self.program.nodes_of(model)}
        measures = [ConstantMeasure(name) for name in addends(list(nodes.values()))]
        return StatisticsObserver(measures, STATISTICS_FRAMES)

    def constant_nbytes(self, value: str) -> int:
        """Bytes of the constant that a frozen value becomes; 0 where it was not seen to be one."""
        for group in self.groups:
            array = self.constants(group).found.constants.get(value)
            if array is not None:
                return smallest_constant(array).nbytes
        return 0


def _one_array(case: Case) -> tuple[frozenset[str], frozenset[str]]:
    """The graph inputs that are fed one array whatever the frame, and the models of which a state
    is among them."""
    if case.frames is None:
        return frozenset(), frozenset()
    models = case.program.models
    inputs = {models[model].inputs[own] for model, own in case.frames.constants()}
    return frozenset(inputs), frozenset(model for model, _ in case.frames.still_states())
