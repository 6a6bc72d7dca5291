"""The search: which sites to take so that the budget is met with the least damage.

Similarity ranks, probes predict, measurement decides. All of it is lazy, best first: a combination
is chosen by what is known; its sites are probed, and the choice is made again; those of a choice
that stands are measured, and the choice is made again until it rests on measurements alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple

from ..actions.action import Action
from ..actions.bill import Bill
from ..actions.site import Site
from .trial import Trial

# Swaps measured per receiver before the rest of its ladder counts as out of reach.
TRIES = 5
# The most saving is looked for among sites whose expected damage is at most this many times what
# the floors allow: the prediction may be off by that much, not by more.
PATIENCE = 3.0
# Alternatives are not probed where the first probe finds less than this share of the allowance.
_GOOD_ENOUGH = 0.25
# Alternatives probed to do at most this times the least damage are measured, too.
NEAR = 1.15
# Damage by 1 - R2, and measured damage by probed, of a receiver of which nothing is known yet.
_BY_UNEXPLAINED = 0.05
_BY_PROBE = 0.5
# Combinations enumerated exactly; beyond, one receiver is improved at a time.
_MAX_COMBINATIONS = 6_000


class Combination(NamedTuple):
    """Some sites, at most one per receiver, and what the program then costs."""

    sites: tuple[Site, ...]
    bill: Bill

    @property
    def actions(self) -> tuple[Action, ...]:
        """The sites' actions."""
        return tuple(site.action for site in self.sites)


class _Combinations:
    """All combinations of sites that can be carried out, with their prices."""

    def __init__(self, bill: Callable[[Sequence[Action]], Bill | None]) -> None:
        self._bill = bill
        self._prices: dict[tuple[Site, ...], Bill | None] = {}

    def of(
        self, choices: list[list[Site | None]], expected: Callable[[Site], float]
    ) -> list[Combination]:
        """One of each of the lists; where they are too many, those on a path of descent.

        `expected` is the damage expected of a site.
        """
        size = 1
        for rungs in choices:
            size *= len(rungs)
        few = size <= _MAX_COMBINATIONS
        picks = product(*choices) if few else self._descended(choices, expected)
        found: list[Combination] = []
        for pick in picks:
            sites = tuple(site for site in pick if site is not None)
            price = self._price(sites)
            if price is not None:
                found.append(Combination(sites, price))
        return found

    def _descended(
        self, choices: list[list[Site | None]], expected: Callable[[Site], float]
    ) -> list[tuple[Site | None, ...]]:
        """A path of combinations: from nothing, always the rung that saves most per damage."""
        current: list[Site | None] = [None] * len(choices)
        path: list[tuple[Site | None, ...]] = [tuple(current)]
        while True:
            here = self._price(tuple(s for s in current if s is not None))
            assert here is not None
            best: tuple[float, int, Site] | None = None
            for index, rungs in enumerate(choices):
                held = current[index]
                for site in rungs:
                    if site is None or site is held:
                        continue
                    trial = [*current[:index], site, *current[index + 1 :]]
                    price = self._price(tuple(s for s in trial if s is not None))
                    if price is None or price.weights_nbytes >= here.weights_nbytes:
                        continue
                    extra = expected(site) - (expected(held) if held else 0.0)
                    rate = (here.weights_nbytes - price.weights_nbytes) / max(extra, 1e-6)
                    if best is None or rate > best[0]:
                        best = (rate, index, site)
            if best is None:
                return path
            current[best[1]] = best[2]
            path.append(tuple(current))

    def _price(self, sites: tuple[Site, ...]) -> Bill | None:
        if sites not in self._prices:
            self._prices[sites] = self._bill([site.action for site in sites])
        return self._prices[sites]


@dataclass
class Search:
    """Lazy best-first choice among the sites of several receivers.

    `ladders` are its own: what is found about a site takes the site's place. `bill(actions)` prices
    a combination (None: impossible), `measure(site)` swaps and compares. `probe(site)` predicts the
    damage at a fraction of that cost (None: 1 - R2 has to do); a probed site takes the place of the
    one on the ladder, or its best alternative does. `allowance` is the loss of fidelity that the
    floors allow, `tries` how many swaps of a receiver are measured before the rest is given up.
    Measurements are kept: asking for another budget measures only what is new.
    """

    ladders: Mapping[str, list[Site]]
    bill: Callable[[Sequence[Action]], Bill | None]
    measure: Callable[[Site], Trial]
    tries: int = TRIES
    allowance: float = 0.01
    probe: Callable[[Site], float] | None = None
    measured: dict[Site, Trial] = field(default_factory=dict[Site, Trial])
    _rejected: set[Site] = field(default_factory=set[Site])

    def __post_init__(self) -> None:
        self._combinations = _Combinations(self.bill)

    def within(self, weights_nbytes: int) -> Combination | None:
        """The least damaging combination whose weights fit; None when none does.

        The minimum of the summed damage (measured, or predicted at the receiver's measured
        scale) over all combinations that fit and keep the floors; ties go to fewer bytes.
        """
        while True:
            fitting = [
                c for c in self._open_combinations() if c.bill.weights_nbytes <= weights_nbytes
            ]
            if not fitting:
                return None
            best = min(
                fitting, key=lambda c: (self._damage(c.sites), c.bill.weights_nbytes, c.bill.macs)
            )
            if self._probe_all(best.sites):
                continue
            unmeasured = [site for site in best.sites if site not in self.measured]
            if not unmeasured:
                return best
            for site in unmeasured:
                self._take(site)

    def smallest(self) -> Combination:
        """The combination with the fewest weight bytes that keeps the floors (ties: fewer MACs)."""
        while True:
            best = min(
                self._open_combinations(self._plausible),
                key=lambda c: (c.bill.weights_nbytes, c.bill.macs, self._damage(c.sites)),
            )
            doubtful = [site for site in best.sites if site not in self.measured]
            if not doubtful:
                return best
            picked = [self._bisected(site) for site in doubtful]
            if self._probe_all(picked):
                continue
            for site in picked:
                self._take(site)

    def reject(self, site: Site) -> None:
        """Take a site out: together with the others it did not keep its floor."""
        self._rejected.add(site)

    # -- what is known about a site ---------------------------------------------------------

    def _probe_all(self, sites: Iterable[Site]) -> bool:
        """Probe what was not; whether anything was, so that the choice has to be made again."""
        new = [s for s in sites if self.probe and not s.probed and s not in self.measured]
        for site in new:
            self._probe_one(site)
        return bool(new)

    def _probe_one(self, site: Site) -> None:
        """Put the best of the site and its alternatives on the ladder, with those near it."""
        assert self.probe is not None
        tried: list[Site] = []
        for other in (site, *site.alternatives):
            tried.append(replace(other, damage=self.probe(other), probed=True, alternatives=()))
            if tried[-1].damage <= _GOOD_ENOUGH * self.allowance:
                break
        best = min(tried, key=lambda one: one.damage)
        near = [one for one in tried if one is not best and one.damage <= NEAR * best.damage]
        if best.damage <= _GOOD_ENOUGH * self.allowance:
            near = []
        self._exchange(site, replace(best, alternatives=tuple(near)))

    def _exchange(self, site: Site, other: Site) -> None:
        ladder = self.ladders[site.receiver]
        ladder[ladder.index(site)] = other

    def _take(self, site: Site) -> None:
        """Measure the site and those predicted to do as little damage; keep the best."""
        best, known = site, self.measure(site)
        for other in site.alternatives if site.probed else ():
            found = self.measure(other)
            if (not found.met, found.loss) < (not known.met, known.loss):
                best, known = other, found
        if best is not site:
            self._exchange(site, best)
        self.measured[best] = known

    def _open(self, site: Site) -> bool:
        """Whether the site may still be chosen."""
        if site in self._rejected:
            return False
        known = self.measured.get(site)
        if known is not None:
            return known.met
        mine = self._measured_of(site)
        failed = [other for other, m in mine if not m.met]
        if any(_milder(other, site) for other in failed):
            return False
        return len(mine) < self.tries

    def _plausible(self, site: Site) -> bool:
        """Whether an open site is worth a measurement when looking for the most saving.

        The mildest site of a receiver always is: what it does tells what to expect of the others.
        """
        if site in self.measured or self._expected(site) <= PATIENCE * self.allowance:
            return True
        mildest = min(self.ladders[site.receiver], key=lambda rung: self._expected(rung))
        return site is mildest and not self._measured_of(site)

    def _bisected(self, site: Site) -> Site:
        """The site itself, or, once a bolder one failed, the middle of what is still open."""
        mine = self._measured_of(site)
        if all(m.met for _, m in mine):
            return site
        passed = max((other.damage for other, m in mine if m.met), default=-1.0)
        between = [
            other
            for other in self.ladders[site.receiver]
            if self._open(other)
            and self._plausible(other)
            and other not in self.measured
            and other.damage > passed
        ]
        return between[len(between) // 2] if between else site

    def _measured_of(self, site: Site) -> list[tuple[Site, Trial]]:
        return [
            (other, self.measured[other])
            for other in self.ladders[site.receiver]
            if other in self.measured
        ]

    def _damage(self, sites: Iterable[Site]) -> float:
        return sum(self._expected(site) for site in sites)

    def _expected(self, site: Site) -> float:
        """Damage as measured, or as predicted at the scale that the receiver has shown so far."""
        known = self.measured.get(site)
        if known is not None:
            return known.loss
        mine = self._measured_of(site)
        if site.probed:
            return site.damage * _scale(((m.loss, s.damage) for s, m in mine), _BY_PROBE)
        # Predicted damage is 1 - R2; how much of it the outputs feel, other sites tell.
        told = [(m.loss, 1 - other.evidence["r2"]) for other, m in mine]
        told += [
            (self._expected(other), 1 - other.evidence["r2"])
            for other in self.ladders[site.receiver]
            if other.probed and other not in self.measured
        ]
        return site.damage * _scale(told, _BY_UNEXPLAINED)

    def _open_combinations(self, wanted: Callable[[Site], bool] | None = None) -> list[Combination]:
        choices: list[list[Site | None]] = [
            [None, *(s for s in rungs if self._open(s) and (wanted is None or wanted(s)))]
            for rungs in self.ladders.values()
        ]
        return self._combinations.of(choices, self._expected)


def _milder(one: Site, other: Site) -> bool:
    """Whether `one` was to do less damage than `other`, by the best that is known of both."""
    if one.probed and other.probed:
        return one.damage <= other.damage
    return one.evidence["r2"] >= other.evidence["r2"]


def _scale(pairs: Iterable[tuple[float, float]], default: float) -> float:
    """The median ratio of what came to what was predicted; `default` without any."""
    ratios = sorted(came / predicted for came, predicted in pairs if predicted > 0)
    return ratios[len(ratios) // 2] if ratios else default
