"""How well the damage of combinations is predicted by that of single rewrites.

Random combinations of what can stand together, of any kind: what the planner's integer program
would predict of each, beside what is left after a refit of all (TRIAL) on held-out frames. A third
of them corrects the prediction, as the planner's own fits do; the rest is judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from records import Record, figure

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.kinds import chosen
from repsimc.compiler.case import case_of, read_models
from repsimc.compiler.execution.outputs import OutputComparison
from repsimc.compiler.fitting.effort import TRIAL
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.catalogue import Catalogue
from repsimc.compiler.planning.damage import Output, cost_of, error_of, unexplained
from repsimc.compiler.planning.forecast import Forecast
from repsimc.compiler.planning.formulation.candidates import Candidate
from repsimc.compiler.planning.formulation.combinations import Combinations
from repsimc.compiler.planning.workbench import Workbench
from repsimc.compiler.progress import NoProgress

# Candidates that lose more of an output alone are in no plan, nor combinations that lose so much.
MOST_ALONE, MOST_TOGETHER = 0.3, 0.5
MOST_ACTIONS = 8
# Every third combination corrects the prediction.
TAUGHT = 3
# Errors below this are rounding: their logarithms say nothing.
_LEAST = 1e-6


@dataclass(frozen=True)
class Measured:
    """A combination with what it was predicted to do to outputs, and what it did to them."""

    candidates: tuple[Candidate, ...]
    outputs: tuple[OutputComparison, ...]


class Combined:
    """The candidates of some models, and combinations of them."""

    def __init__(
        self, models: Sequence[tuple[str, Path]], calibration: Path, seed: int = 0
    ) -> None:
        options = CompileOptions(models=tuple(models), calibration=calibration, output=None)
        case = case_of(read_models(options, NoProgress()), options, NoProgress())
        self.bench = Workbench(case, NoProgress())
        self.catalogue = Catalogue(self.bench, chosen(), NoProgress())
        self.catalogue.prepare()
        self._random = np.random.default_rng(seed)

    def drawn(self, count: int) -> list[tuple[Action, ...]]:
        """Combinations of random length that can be carried out together, each drawn once.

        Fewer where there are no more to be found. Single damages are expected ones here; what is
        drawn is looked at before it is predicted.
        """
        limit = cost_of(MOST_ALONE)
        known = self.catalogue.candidates()
        mild = [one for one in known if max(one.errors.values(), default=0.0) <= limit]
        space = Combinations(self.bench.bills, mild, ())
        found: dict[frozenset[Action], tuple[Action, ...]] = {}
        for _ in range(20 * count):
            if len(found) == count:
                break
            moves = self._combination(space, int(self._random.integers(1, MOST_ACTIONS + 1)))
            actions = tuple(space.candidate(move).action for move in sorted(moves))
            if actions:
                found.setdefault(frozenset(actions), actions)
        return list(found.values())

    def measured(self, combinations: Sequence[tuple[Action, ...]]) -> list[Measured]:
        """Each combination, looked at one by one and tried together."""
        wanted = {action for actions in combinations for action in actions}
        self.catalogue.look(c for c in self.catalogue.candidates() if c.action in wanted)
        known = {one.action: one for one in self.catalogue.candidates()}
        found: list[Measured] = []
        for actions in combinations:
            if not all(action in known for action in actions):
                continue  # a look found one of them to be in vain
            trial = self.bench.measure(actions, TRIAL)
            found.append(Measured(tuple(known[one] for one in actions), trial.outputs))
        return found

    def predicted(self, one: Measured, forecast: Forecast) -> dict[Output, float]:
        """What the program predicts each output to lose, as costs (see damage.cost_of)."""
        space = Combinations(self.bench.bills, one.candidates, ())
        scales = [forecast.scale(move.action.kind) for move in space.moves]
        return space.errors.errors(range(len(space.moves)), scales)

    def _combination(self, space: Combinations, length: int) -> frozenset[int]:
        moves: frozenset[int] = frozenset()
        scales = [1.0] * len(space.moves)
        for move in self._random.permutation(space.count):
            more = moves | {int(move)}
            if len(moves) == length:
                break
            if space.exclude_each_other(more):
                continue
            one = space.combination(more, scales)
            if one is not None and error_of(max(one.errors.values(), default=0)) <= MOST_TOGETHER:
                moves = more
        return moves


def damage_records(
    name: str, models: Sequence[tuple[str, Path]], calibration: Path, count: int
) -> list[Record]:
    """Log-correlation and median ratio of measured to predicted damage, as is and corrected."""
    combined = Combined(models, calibration)
    found = combined.measured(combined.drawn(count))
    forecast = Forecast()
    for one in found[::TAUGHT]:
        costs = [(candidate.action.kind, candidate.errors) for candidate in one.candidates]
        forecast.learn(costs, one.outputs)
    rest = [one for index, one in enumerate(found) if index % TAUGHT]
    records: list[Record] = []
    for title, some, scales in (
        ("as looked at", found, Forecast()),
        ("corrected", rest, forecast),
    ):
        bars = (">= 0.95", ">= 0.7", "<= 1.4") if some is rest else (None, None, None)
        pairs = [
            (
                max(combined.predicted(one, scales).values()),
                cost_of(max(map(unexplained, one.outputs))),
            )
            for one in some
        ]
        r, ratio = agreement(pairs)
        kinds = sorted({c.action.kind for one in some for c in one.candidates})
        extra = f"{len(pairs)} combinations of {', '.join(kinds)}"
        if some is rest:
            factors = ", ".join(f"{k} {x:.2f}" for k, x in sorted(forecast.scales.items()))
            extra += f"; times {factors}"
        records += [
            figure(f"{name}/log-correlation, {title}", r, "", bars[0], extra),
            figure(f"{name}/measured by predicted, {title}", ratio, "ratio", bars[1]),
        ]
        if bars[2]:
            records.append(
                figure(f"{name}/measured by predicted, {title}, at most", ratio, "ratio", bars[2])
            )
    return records


def agreement(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    """Pearson's r of the logarithms of (predicted, measured), and the median of their ratios.

    Both None of fewer than three pairs, r where a side does not vary.
    """
    if len(pairs) < 3:
        return None, None
    table = np.log(np.maximum(np.asarray(pairs, np.float64), _LEAST))
    ratio = math.exp(float(np.median(table[:, 1] - table[:, 0])))
    if not (table.std(axis=0) > 0).all():
        return None, ratio
    return float(np.corrcoef(table.T)[0, 1]), ratio
