"""What combinations are predicted to do, corrected by what was measured of some."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from ..actions.action import Action
from ..execution.fidelity import VARIANCE
from ..execution.outputs import OutputComparison
from ..graph.arrays import Float64
from .damage import Output, cost_of, error_of, unexplained
from .formulation.candidates import Candidate

# By how much measurements may change a scale: a ratio of tiny errors says little.
_MOST_RATIO = 8.0
# How much a scale is held to where it began, beside how much one measurement moves it.
_HELD = 0.1
# Errors below this are as good as none, and teach nothing.
_LEAST_ERROR = 1e-6
# No fit leaves less of a predicted error than one part in so many.
_WON_BACK = 3.0
# Outputs that lose this share of their variance agree with the original's no more.
_LOST = 0.25
_LEAST_RATE = 1e-3
# Agreement lost by the root of the lost variance before anything was measured, and for how many
# frames, times that root, it counts: siblings of a ResNet on CIFAR-10 lose 0.055 to 0.073 of it.
_BY_ROOT, _ROOTS = 0.06, 5.0


@dataclass(frozen=True)
class Prediction:
    """What actions are predicted to lose, as shares of variance.

    `alone` is what each by itself costs the worst output, `together` what all cost each output.
    """

    alone: Mapping[Action, float]
    together: Mapping[Output, float]

    @property
    def worst(self) -> float:
        """What all together cost the worst output."""
        return max(self.together.values(), default=0.0)


class Forecast:
    """Scales of predicted costs by kind of action, and of fidelity lost by unexplained variance.

    Looks add up nearly without bias (see damage.cost_of), but a full fit wins back a share that
    differs from kind to kind: what was measured by what was predicted moves the scale of each kind,
    by its part in it.
    """

    def __init__(self, scales: Mapping[str, float] | None = None) -> None:
        self._start: dict[str, float] = dict(scales or {})
        self.scales: dict[str, float] = dict(self._start)
        self._seen: list[tuple[dict[str, float], float]] = []
        # By output, over all frames of all that was measured: fidelity lost, and by what.
        self._lost: dict[Output, tuple[float, float]] = {}

    def scale(self, kind: str) -> float:
        """What costs of that kind are to be multiplied by."""
        return self.scales.get(kind, 1.0)

    def alone(self, candidate: Candidate) -> float:
        """The share of its variance that the worst output is expected to lose by a candidate."""
        cost = max(candidate.errors.values(), default=0.0)
        return error_of(self.scale(candidate.action.kind) * cost)

    def learn(
        self,
        chosen: Sequence[tuple[str, Mapping[Output, float]]],
        outputs: Sequence[OutputComparison],
    ) -> None:
        """Take in a combination as it was measured: by action its kind, and its costs alone."""
        by_kind: dict[str, float] = {}
        for kind, costs in chosen:
            by_kind[kind] = by_kind.get(kind, 0.0) + sum(costs.values())
        by_kind = {kind: cost for kind, cost in by_kind.items() if cost > _LEAST_ERROR}
        measured = sum(cost_of(unexplained(output)) for output in outputs)
        if by_kind and measured > _LEAST_ERROR:
            self._seen.append((by_kind, measured))
            self._fit()
        for output in outputs:
            error, lost = unexplained(output), 1.0 - output.judged
            # Far from any floor agreement falls by another law.
            if error > _LEAST_ERROR and (error <= _LOST or output.metric == VARIANCE):
                key, frames = (output.model, output.output), max(output.frames, 1)
                before = self._lost.get(key, (0.0, 0.0))
                self._lost[key] = (
                    before[0] + frames * max(lost, 0.0),
                    before[1] + frames * _felt(output, error),
                )

    def _fit(self) -> None:
        """The scales that explain best what was measured, in logarithms, held to where they began.

        One combination moves all of its kinds alike; several tell them apart.
        """
        kinds = sorted({kind for costs, _ in self._seen for kind in costs})
        start = np.log([self._start.get(kind, 1.0) for kind in kinds])
        costs = np.array([[seen.get(kind, 0.0) for kind in kinds] for seen, _ in self._seen])
        measured = np.log([measured for _, measured in self._seen])

        def off(logs: Float64) -> Float64:
            missed = np.log(costs @ np.exp(logs)) - measured
            return np.concatenate([missed, _HELD * (logs - start)])

        most = math.log(_MOST_RATIO)
        found = least_squares(off, start, bounds=(start - most, start + most), method="trf")
        self.scales |= {kind: float(math.exp(x)) for kind, x in zip(kinds, found.x)}

    def allowance(self, output: OutputComparison, factor: float = 1.0) -> float:
        """The lost share of variance at which an output is expected to come to its floor.

        Times `factor`. Scores that agree though most of their variance is gone agree by chance:
        of those no more than a quarter may go.
        """
        felt = max(0.0, 1.0 - output.floor) / max(self._rate(output), _LEAST_RATE)
        if output.metric == VARIANCE:
            return min(factor * felt, 1.0)
        return min(factor * felt * felt, _LOST)

    def fidelity(self, output: OutputComparison, error: float) -> float:
        """What an output is expected to keep that loses so much of its variance."""
        return max(0.0, 1.0 - self._rate(output) * _felt(output, error))

    def hopeless(self, output: OutputComparison, error: float) -> bool:
        """Whether an output that is predicted to lose so much will not keep its floor once fitted.

        Agreement goes with variance too loosely to be sure of before much of it is lost.
        """
        if output.floor <= 0:
            return False
        if output.metric != VARIANCE:
            return error / 2 > max(_LOST, 1.0 - output.floor)
        return error / _WON_BACK > self.allowance(output)

    def _rate(self, output: OutputComparison) -> float:
        """Fidelity lost by what of the error is felt: the mean of what is likely by now.

        A few frames that change sides, or none, say little: counts of them are Poisson's, and the
        rate's prior its conjugate.
        """
        lost, felt = self._lost.get((output.model, output.output), (0.0, 0.0))
        if output.metric == VARIANCE:
            return lost / felt if felt > 0 else 1.0
        return (_BY_ROOT * _ROOTS + lost) / (_ROOTS + felt)


def _felt(output: OutputComparison, error: float) -> float:
    """What the fidelity falls with, of an error: the lost variance, or its root.

    As many scores change sides as are nearer to the boundary than the error is large.
    """
    return error if output.metric == VARIANCE else math.sqrt(max(error, 0.0))
