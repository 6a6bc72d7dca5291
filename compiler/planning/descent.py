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
from dataclasses import dataclass, replace

from ..actions.action import Action
from ..actions.bill import Bill, Bills
from ..actions.kinds import Kind, regions
from ..actions.site import Site, values_made
from ..fitting.effort import TRIAL, Effort
from .trial import Trial
from .workbench import Workbench

# Regions of a model measured one by one at the start, those with the least influence first.
FIRST_LOOK = 24
# Regions measured before each step at most: errors add up nearly, so that the best of the last
# round mostly stays the best.
LOOKS = 3
# Beyond this error a model is of no use: one measurement a step draws the curve to its end.
USELESS = 0.15


@dataclass(frozen=True)
class Step:
    """One more removal: everything that is out now, the error then, and what it all costs."""

    chosen: Site
    actions: tuple[Action, ...]
    error: float
    bill: Bill


def regions_beside(sites: Sequence[Site], bills: Bills, held: Sequence[Action]) -> list[Site]:
    """The sites of regions that may go beside `held`, with what each saves there.

    None that has an end of a swap of `held` inside, or that saves too little to be worth it.
    """
    base = bills.bill(held)
    assert base is not None
    ends = bills.ends(held)
    found: list[Site] = []
    for site in sites:
        bill = bills.bill([*held, site.action])
        if bill is None or ends & values_made(bills.program, site.nodes):
            continue
        saved = base - bill
        if min(saved.weights_nbytes, saved.macs) >= 0 and saved.matters(base):
            found.append(replace(site, saved=saved))
    return found


@dataclass
class Descent:
    """Regions out one by one, always the one whose going costs least error per saving.

    `measure(actions)` rewrites, refits and returns the error at the outputs (0: none; infinite
    where an action could not be carried out beside the others).
    `worth(bill)` turns a cost into the amount that is to fall. `regions` are first looked at in the
    order of their `influence`, where it is among their evidence; `folds` beside them where they
    save what is to fall. `held` are other actions of the plan, priced along;
    `start` is the error that they make by themselves.
    `glance` measures on fewer frames: it orders the first look, where all are tried. At most
    `looks` removals are measured before each step.
    """

    regions: Sequence[Site]
    bill: Callable[[Sequence[Action]], Bill | None]
    measure: Callable[[tuple[Action, ...]], float]
    worth: Callable[[Bill], float]
    held: tuple[Action, ...] = ()
    folds: Sequence[Site] = ()
    glance: Callable[[tuple[Action, ...]], float] | None = None
    start: float = 0.0
    looks: int = LOOKS

    def steps(self) -> Iterator[Step]:
        """Every step until nothing is left; measuring happens as the steps are asked for."""
        gone: tuple[Action, ...] = ()
        error = self.start
        regions = _first(self.regions)
        folds = [one for one in self.folds if self._saved(gone, one) > 0]
        margins = _Margins()
        look = self.glance or self.measure
        looked_at: dict[object, Site] = {}
        for site in (*regions, *folds):
            if site.look is not None and self.glance is not None:
                known = looked_at.setdefault(site.look, site)
                if known is not site and known.damage > 0:
                    scale = site.damage / known.damage
                    margins.glanced[site] = scale * margins.glanced[known]
                    continue
            margins.glanced[site] = look((site.action,)) - error
            if self.glance is None:
                margins.measured[site] = margins.glanced[site]
        open_ = list(margins.glanced)
        while True:
            saved = {one: amount for one in open_ if (amount := self._saved(gone, one)) > 0}
            if not saved:
                return
            looked = self._looked(gone, error, saved, margins)
            best = margins.cheapest(looked, saved)
            if math.isinf(looked[best]):
                return
            gone, error = (*gone, best.action), looked[best]
            price = self.bill([*self.held, *gone])
            assert price is not None
            yield Step(best, gone, error, price)
            taken = set(best.nodes)
            open_ = [one for one in saved if one is not best and not taken & set(one.nodes)]

    def _looked(
        self,
        gone: tuple[Action, ...],
        error: float,
        saved: Mapping[Site, float],
        margins: _Margins,
    ) -> dict[Site, float]:
        """The errors after those that promise most, as measured now."""
        if not gone and self.glance is None:
            return {one: error + margins.measured[one] for one in saved}
        looked: dict[Site, float] = {}
        most = self.looks if error < USELESS else 1
        while len(looked) < most or not any(map(math.isfinite, looked.values())):
            left = [one for one in saved if one not in looked]
            if not left:
                break
            best = margins.cheapest(left, saved)
            # Errors grow with what is gone: what measures less than all others promise is best.
            if gone and looked and margins.cheapest(saved, saved) is not best:
                break
            looked[best] = self.measure((*gone, best.action))
            margins.measured[best] = looked[best] - error
            if not gone:
                margins.alone[best] = margins.measured[best]
        return looked

    def _saved(self, gone: tuple[Action, ...], one: Site) -> float:
        """What falls when it goes too; 0 where it cannot."""
        before = self.bill([*self.held, *gone])
        after = self.bill([*self.held, *gone, one.action])
        return 0.0 if before is None or after is None else self.worth(before) - self.worth(after)


class _Margins:
    """By how much each removal raises the error: as last measured, else as glanced at."""

    def __init__(self) -> None:
        self.glanced: dict[Site, float] = {}
        self.alone: dict[Site, float] = {}  # as measured with nothing else gone
        self.measured: dict[Site, float] = {}

    def cheapest(self, among: Iterable[Site], saved: Mapping[Site, float]) -> Site:
        """The one that is expected to cost least error for what it saves."""
        margins = self._expected()
        return min(among, key=lambda o: (max(margins[o], 1e-9) / saved[o], str(o.action)))

    def _expected(self) -> dict[Site, float]:
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


def _first(regions: Sequence[Site]) -> list[Site]:
    """The first ones of each model, those with the least influence first."""
    taken: Counter[str] = Counter()
    found: list[Site] = []
    for site in sorted(regions, key=lambda s: (s.evidence.get("influence", 0.0), str(s.action))):
        taken[site.receiver] += 1
        if taken[site.receiver] <= FIRST_LOOK:
            found.append(site)
    return found


class Trying:
    """Trials of what goes one by one beside `held`, each fitted onward from the one before it.

    `trials` are those of the last and the last but one number of removals.
    """

    def __init__(self, bench: Workbench, effort: Effort, held: Sequence[Action] = ()) -> None:
        self._bench = bench
        self._effort = effort
        self._held = tuple(held)
        self.trials: dict[tuple[Action, ...], Trial] = {}

    def __call__(self, gone: tuple[Action, ...]) -> Trial:
        """The trial after `gone`."""
        onto = self.trials.get(gone[:-1])
        trial = self._bench.measure((*self._held, *gone), self._effort, onto=onto)
        kept = {key: known for key, known in self.trials.items() if len(key) >= len(gone) - 1}
        self.trials = {**kept, gone: trial}
        return trial


def region_sites(bench: Workbench, kinds: Sequence[Kind], effort: Effort = TRIAL) -> list[Site]:
    """The sites of the kinds that take regions out, with their influence as evidence."""
    evidence = bench.evidence
    sites = [
        site
        for kind in regions(kinds)
        for group in evidence.groups
        for site in kind.sites(evidence, group).found
    ]
    influence = bench.influence(sites, effort)
    return [replace(site, evidence={"influence": influence[site.action]}) for site in sites]
