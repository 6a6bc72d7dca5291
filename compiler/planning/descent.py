"""Which regions go next: greedily, by the error at the models' outputs after the refit.

Similarity of a region's two ends (block influence) only says which regions are worth a
measurement. What decides is the output error of the rewritten and refitted program, per
multiply-accumulate (or byte) saved.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..actions.bill import Bill, Skeleton
from ..actions.fold_sites import FoldSite
from ..actions.links import fault_of
from ..graph.layout import Layout, layout_of
from ..graph.program import Program
from ..graph.regions import Region, Regions
from ..structure.cost import node_macs
from .plan import Action, CollapseAction

# Regions of a model measured one by one at the start, those with the least influence first.
FIRST_LOOK = 24
# Regions measured before each step at most: errors add up nearly, so that the best of the last
# round mostly stays the best.
LOOKS = 3
# Beyond this error a model is of no use: one measurement a step draws the curve to its end.
USELESS = 0.15
# A region that saves less than this share of all multiply-accumulates and of all weight bytes is
# not worth a line in the plan.
_LEAST_SHARE = 0.002
# A map put in place of a region may cost this share of what the region did.
_MAP_SHARE = 0.5


@dataclass(frozen=True)
class Candidate:
    """A region that could go: the action, the nodes that die with it, what it alone saves."""

    action: CollapseAction
    region: Region
    saved_nbytes: int
    saved_macs: int

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that go: two regions that share some do not go one after another."""
        return self.region.nodes


# What a descent chooses among.
Removal = Candidate | FoldSite


@dataclass(frozen=True)
class Step:
    """One more region out: everything that is out now, the error then, and what it all costs."""

    chosen: Removal
    actions: tuple[Action, ...]
    error: float
    bill: Bill


def find_candidates(
    program: Program,
    regions: Regions,
    skeleton: Skeleton,
    kernels: Sequence[int] = (0, 1, 3),
    held: Sequence[Action] = (),
) -> list[Candidate]:
    """The outermost regions of the program that can go, in order of their exits.

    A region of equal shape at both ends becomes nothing (kernel 0); one that changes the shape
    becomes one affine map, 3x3 for maps and 1x1 for tokens. `held` are actions that stay.
    """
    base = skeleton.bill(held)
    assert base is not None
    values = program.values()
    found: list[Candidate] = []
    for region in _outermost(regions.found):
        if region.same_shape:
            kernel = 0
        else:
            maps = layout_of(values[region.exit]) is Layout.CHANNELS_FIRST
            kernel = 3 if maps and len(values[region.exit].shape) == 4 else 1
        if kernel not in kernels or fault_of(program, region.exit, (region.entry,), kernel):
            continue
        action = CollapseAction(region.model, region.entry, region.exit, kernel)
        bill = skeleton.bill([*held, action])
        if bill is None:
            continue
        saved, macs = base.weights_nbytes - bill.weights_nbytes, base.macs - bill.macs
        if saved < 0 or macs < 0:
            continue
        if saved < _LEAST_SHARE * base.weights_nbytes and macs < _LEAST_SHARE * base.macs:
            continue
        if kernel:
            did = sum(node_macs(program.node(name)) for name in region.nodes)
            if skeleton.adapters_bill(action).macs > _MAP_SHARE * did:
                continue
        found.append(Candidate(action, region, saved, macs))
    return found


def _outermost(regions: Sequence[Region]) -> list[Region]:
    """Regions that go as one: residual blocks rather than their branches."""
    whole = [region for region in regions if region.whole]
    sets = [(frozenset(region.nodes), region) for region in whole]
    blocks = [nodes for nodes, region in sets if region.skipped]
    return [region for nodes, region in sets if not any(nodes < block for block in blocks)]


@dataclass
class Descent:
    """Regions out one by one, always the one whose going costs least error per saving.

    `measure(actions)` rewrites, refits and returns the error at the outputs (0: none; infinite
    where an action could not be carried out beside the others).
    `worth(bill)` turns a cost into the amount that is to fall. `influence` is the order of the
    first look, least first, by the value that a region ends in. `folds` are looked at beside the
    regions where they save what is to fall. `held` are other actions of the plan, priced along;
    `start` is the error that they make by themselves.
    `glance` measures on fewer frames: it orders the first look, where all are tried. At most
    `looks` removals are measured before each step.
    """

    candidates: Sequence[Candidate]
    bill: Callable[[Sequence[Action]], Bill | None]
    measure: Callable[[tuple[Action, ...]], float]
    worth: Callable[[Bill], float]
    influence: Mapping[str, float] = field(default_factory=dict[str, float])
    held: tuple[Action, ...] = ()
    folds: Sequence[FoldSite] = ()
    glance: Callable[[tuple[Action, ...]], float] | None = None
    start: float = 0.0
    looks: int = LOOKS

    def steps(self) -> Iterator[Step]:
        """Every step until nothing is left; measuring happens as the steps are asked for."""
        gone: tuple[Action, ...] = ()
        error = self.start
        left = sorted(
            self.candidates, key=lambda c: (self.influence.get(c.action.exit, 0.0), str(c.action))
        )
        folds = [one for one in self.folds if self._saved(gone, one) > 0]
        margins = _Margins()
        look = self.glance or self.measure
        looked_at: dict[object, FoldSite] = {}
        for candidate in (*_first(left), *folds):
            if isinstance(candidate, FoldSite) and self.glance is not None:
                known = looked_at.setdefault(candidate.look, candidate)
                if known is not candidate and known.damage > 0:
                    scale = candidate.damage / known.damage
                    margins.glanced[candidate] = scale * margins.glanced[known]
                    continue
            margins.glanced[candidate] = look((candidate.action,)) - error
            if self.glance is None:
                margins.measured[candidate] = margins.glanced[candidate]
        open_ = list(margins.glanced)
        while True:
            saved = {one: amount for one in open_ if (amount := self._saved(gone, one)) > 0}
            if not saved:
                return
            looked = self._looked(gone, error, saved, margins)
            best = margins.cheapest(looked, saved)
            if math.isinf(looked[best]):
                return
            gone, error = _with(gone, best), looked[best]
            price = self.bill([*self.held, *gone])
            assert price is not None
            yield Step(best, gone, error, price)
            taken = set(best.nodes)
            open_ = [one for one in saved if one is not best and not taken & set(one.nodes)]

    def _looked(
        self,
        gone: tuple[Action, ...],
        error: float,
        saved: Mapping[Removal, float],
        margins: _Margins,
    ) -> dict[Removal, float]:
        """The errors after those that promise most, as measured now."""
        if not gone and self.glance is None:
            return {one: error + margins.measured[one] for one in saved}
        looked: dict[Removal, float] = {}
        most = self.looks if error < USELESS else 1
        while len(looked) < most or not any(map(math.isfinite, looked.values())):
            left = [one for one in saved if one not in looked]
            if not left:
                break
            best = margins.cheapest(left, saved)
            # Errors grow with what is gone: what measures less than all others promise is best.
            if gone and looked and margins.cheapest(saved, saved) is not best:
                break
            looked[best] = self.measure(_with(gone, best))
            margins.measured[best] = looked[best] - error
            if not gone:
                margins.alone[best] = margins.measured[best]
        return looked

    def _saved(self, gone: tuple[Action, ...], one: Removal) -> float:
        """What falls when it goes too; 0 where it cannot."""
        before = self.bill([*self.held, *gone])
        after = self.bill([*self.held, *_with(gone, one)])
        return 0.0 if before is None or after is None else self.worth(before) - self.worth(after)


class _Margins:
    """By how much each removal raises the error: as last measured, else as glanced at."""

    def __init__(self) -> None:
        self.glanced: dict[Removal, float] = {}
        self.alone: dict[Removal, float] = {}  # as measured with nothing else gone
        self.measured: dict[Removal, float] = {}

    def cheapest(self, among: Iterable[Removal], saved: Mapping[Removal, float]) -> Removal:
        """The one that is expected to cost least error for what it saves."""
        margins = self._expected()
        return min(among, key=lambda o: (max(margins[o], 1e-9) / saved[o], str(o.action)))

    def _expected(self) -> dict[Removal, float]:
        """Margins that compare: a fit on few frames repairs less, of all removals alike.

        Margins grow with what is gone: one that was never measured is taken for what it was alone,
        so that it gets its measurement before it is passed over.
        """
        ratios = [
            error / self.glanced[one]
            for one, error in self.alone.items()
            if 0 < self.glanced[one] < math.inf and error < math.inf
        ]
        scale = max(statistics.median(ratios), 1e-6) if ratios else 1.0
        return {one: scale * margin for one, margin in self.glanced.items()} | self.measured


def _first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first ones of each model."""
    taken: Counter[str] = Counter()
    found: list[Candidate] = []
    for one in candidates:
        taken[one.action.model] += 1
        if taken[one.action.model] <= FIRST_LOOK:
            found.append(one)
    return found


def _with(gone: tuple[Action, ...], one: Removal) -> tuple[Action, ...]:
    return (*gone, one.action)
