"""What combinations are predicted to do, corrected by what was measured of some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..actions.site import Site
from ..execution.fidelity import VARIANCE
from ..execution.outputs import OutputComparison
from .damage import Output, unexplained

# By how much one measurement may change a scale: a ratio of tiny errors says little.
_MOST_RATIO = 8.0
# Errors below this are as good as none, and teach nothing.
_LEAST_ERROR = 1e-6
# Fidelity lost by unexplained variance, of agreement: what 1 % of frames that change sides goes
# with before anything was measured.
_BY_AGREEMENT = 0.3


class Forecast:
    """Scales of predicted errors by kind of action, and of fidelity lost by unexplained variance.

    Looks add up nearly without bias, but a full fit wins back a share that differs from kind to
    kind: what was measured by what was predicted moves the scale of each kind, by its part in it.
    """

    def __init__(self, scales: Mapping[str, float] | None = None) -> None:
        self.scales: dict[str, float] = dict(scales or {})
        self._lost_by_error: dict[Output, float] = {}

    def scale(self, kind: str) -> float:
        """What errors of that kind are to be multiplied by."""
        return self.scales.get(kind, 1.0)

    def learn(
        self,
        chosen: Sequence[tuple[Site, Mapping[Output, float]]],
        outputs: Sequence[OutputComparison],
    ) -> None:
        """Take in a combination as it was measured: its sites with the errors predicted alone."""
        by_kind: dict[str, float] = {}
        for site, errors in chosen:
            kind = site.action.kind
            by_kind[kind] = by_kind.get(kind, 0.0) + self.scale(kind) * sum(errors.values())
        predicted = sum(by_kind.values())
        measured = sum(unexplained(output) for output in outputs)
        if predicted > _LEAST_ERROR and measured > _LEAST_ERROR:
            ratio = min(max(measured / predicted, 1 / _MOST_RATIO), _MOST_RATIO)
            for kind, part in by_kind.items():
                self.scales[kind] = self.scale(kind) * ratio ** (part / predicted)
        for output in outputs:
            error, lost = unexplained(output), 1.0 - output.judged
            if error > _LEAST_ERROR and lost >= 0:
                self._lost_by_error[output.model, output.output] = lost / error

    def allowance(self, output: OutputComparison) -> float:
        """The error at which an output is expected to come to its floor."""
        known = self._lost_by_error.get((output.model, output.output))
        default = 1.0 if output.metric == VARIANCE else _BY_AGREEMENT
        rate = default if known is None else max(known, 1e-3)
        return max(0.0, 1.0 - output.floor) / rate

    def fidelity(self, output: OutputComparison, error: float) -> float:
        """What an output is expected to keep at that error."""
        known = self._lost_by_error.get((output.model, output.output))
        default = 1.0 if output.metric == VARIANCE else _BY_AGREEMENT
        return 1.0 - (default if known is None else known) * error
