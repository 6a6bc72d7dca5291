"""What single actions do to the outputs: measured cheaply, one by one, and told on to their like.

An action is carried out alone on a few frames, the four operators next to it are fitted again, and
what follows runs as it is. Damages measured so add up: of regions out of resnet44 their sum goes
with what a full refit of the combination leaves at a log-correlation of 0.98.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..actions.action import Action
from ..execution.feeds import judging_feeds
from ..execution.fidelity import VARIANCE, FidelityMeter
from ..execution.positions import frames_first
from ..fitting.effort import LOOK
from ..fitting.landmarks import Landmarks
from ..graph.program import Program
from .damage import Output
from .trial import costs_as_billed
from .workbench import Workbench

Errors = Mapping[Output, float]


class Sensitivity:
    """Looks at single actions of a workbench's program; each is measured once."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._landmarks: dict[tuple[str, ...], Landmarks] = {}
        self._looks: dict[Action, Errors | None] = {}

    def look(self, action: Action) -> Errors | None:
        """The share of each output's variance that it loses alone; None where it is in vain."""
        if action not in self._looks:
            self._looks[action] = self._looked(action)
        return self._looks[action]

    def _looked(self, action: Action) -> Errors | None:
        bench = self._bench
        bill = bench.bills.bill((action,))
        if bill is None:
            return None
        program = bench.tried((action,), LOOK, None)
        if not costs_as_billed(program, bill):
            return None
        return self._errors(program, bench.bills.affected(action))

    def _errors(self, program: Program, models: Sequence[str]) -> Errors:
        found: dict[Output, float] = {}
        for group in self._bench.evidence.groups:
            mine = [name for name in group if name in models]
            if mine:
                found |= self._errors_in(program, group, mine)
        return found

    def _errors_in(self, program: Program, group: tuple[str, ...], models: Sequence[str]) -> Errors:
        marks = self._marks(group)
        known = marks.before(program)
        outputs = {
            (name, own): value
            for name in models
            for own, value in program.models[name].outputs.items()
        }
        moved = {one: value for one, value in outputs.items() if value not in known}
        meters = {one: FidelityMeter(VARIANCE, bounded=False) for one in moved}
        if moved:
            batches = marks.run(program, list(dict.fromkeys(moved.values())))
            for index, (batch, made) in enumerate(batches):
                count = batch.stop - batch.start
                for one, value in moved.items():
                    given = marks.batches(value)[index]
                    meters[one].update(*frames_first(count, given, made[value]))
        errors = dict.fromkeys(outputs, 0.0)
        for one, meter in meters.items():
            error = 1.0 - meter.value
            errors[one] = 1.0 if math.isnan(error) else min(max(error, 0.0), 1.0)
        return errors

    def _marks(self, group: tuple[str, ...]) -> Landmarks:
        if group not in self._landmarks:
            bench = self._bench
            frames = bench.case.frames
            assert frames is not None and LOOK.frames is not None and LOOK.judged is not None
            feeds = judging_feeds(bench.program, frames, group[0], LOOK.frames, LOOK.judged)
            self._landmarks[group] = Landmarks(bench.program, feeds, group)
        return self._landmarks[group]
