"""What the frames say about a program's values: measured once, and only when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from threadpoolctl import threadpool_limits

from ..case import Case
from ..execution.feeds import fit_feeds, run_groups
from ..execution.samples import Samples, sample_values
from ..execution.statistics import Statistics, measure_statistics, smallest_constant
from ..fitting.effort import SURVEY, Effort
from ..fitting.landmarks import Landmarks
from ..fitting.reference import FitSize, Reference
from ..fitting.shared_weight import measure_ties
from .bill import Bills

# Frames that statistics are taken over: "never on" is as good as the frames that say so.
STATISTICS_FRAMES = 1024
# Frames for ranking sites: 512 x 8 positions are 4 096 rows.
RANKING_FRAMES = 512


class Evidence:
    """Statistics, samples and rows of the exact program's values, by group of models.

    A group is the models that run on one batch of frames. Whatever is measured is kept by all that
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
        self._statistics: dict[tuple[str, ...], Statistics] = {}
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

    def statistics(self, group: tuple[str, ...]) -> Statistics:
        """How straight, how still and how alike the group's values are."""
        if group not in self._statistics:
            assert self.case.frames is not None
            feeds = fit_feeds(self.program, self.case.frames, group[0], STATISTICS_FRAMES)
            self._statistics[group] = measure_statistics(self.program, feeds, group)
        return self._statistics[group]

    def samples(self, group: tuple[str, ...], values: Sequence[str]) -> Samples:
        """Rows of some values at common places, for comparing them."""
        assert self.case.frames is not None
        feeds = fit_feeds(self.program, self.case.frames, group[0], RANKING_FRAMES)
        return sample_values(self.program, values, feeds, self.case.options.seed)

    def ties(self, group: tuple[str, ...]) -> dict[tuple[str, ...], float]:
        """Runs of operators (node names) and the R2 that one weight for all of them keeps."""
        feeds = self.reference(group[0]).frames
        # Many solves of few unknowns: threads cost more than they bring.
        with threadpool_limits(1, user_api="blas"):
            return measure_ties(self.program, feeds, group, self.case.options.seed)

    def constant_nbytes(self, value: str) -> int:
        """Bytes of the constant that a frozen value becomes; 0 where it was not seen to be one."""
        for group in self.groups:
            array = self.statistics(group).constants.get(value)
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
