"""The search: which sites to take so that the budget is met with the least damage.

Similarity ranks, measurement decides. Sites are measured lazily, best first: a combination is
chosen by what is known and predicted, its unmeasured sites are measured, and the choice is made
again until it rests on measurements alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from .plan import SharePrefixAction
from .sites import Site
from .skeleton import Bill

# Swaps measured per receiver before the rest of its ladder counts as out of reach.
EFFORT = 5
# The most saving is looked for among sites whose expected damage is at most this many times what
# the floors allow: the prediction may be off by that much, not by more.
PATIENCE = 3.0
# Combinations enumerated exactly; beyond, one receiver is improved at a time.
_MAX_COMBINATIONS = 6_000


@dataclass(frozen=True)
class Measurement:
    """What a swap of one site did to the affected outputs on held-out frames.

    `fidelity` is the lowest of them, `met` whether all floors are kept, `damage` the loss of
    fidelity (finer than top-1 agreement alone; 0 is none).
    """

    fidelity: float
    met: bool
    damage: float


@dataclass(frozen=True)
class Choice:
    """A combination of sites, at most one per receiver, and what the program then costs."""

    sites: tuple[Site, ...]
    bill: Bill

    @property
    def actions(self) -> tuple[SharePrefixAction, ...]:
        """The sites' actions."""
        return tuple(site.action for site in self.sites)


@dataclass
class Search:
    """Lazy best-first choice among the sites of several receivers.

    `bill(actions)` prices a combination (None: impossible), `measure(site)` swaps and compares.
    `allowance` is the loss of fidelity that the floors allow.
    Measurements are kept: asking for another budget measures only what is new.
    """

    ladders: Mapping[str, Sequence[Site]]
    bill: Callable[[Sequence[SharePrefixAction]], Bill | None]
    measure: Callable[[Site], Measurement]
    effort: int = EFFORT
    allowance: float = 0.01
    measured: dict[Site, Measurement] = field(default_factory=dict[Site, Measurement])
    _rejected: set[Site] = field(default_factory=set[Site])
    _prices: dict[tuple[Site, ...], Bill | None] = field(
        default_factory=dict[tuple[Site, ...], "Bill | None"]
    )

    def within(self, weights_nbytes: int) -> Choice | None:
        """The least damaging combination whose weights fit; None when none does.

        The minimum of the summed damage (measured, or predicted at the receiver's measured
        scale) over all combinations that fit and keep the floors; ties go to fewer bytes.
        """
        while True:
            fitting = [c for c in self._combinations() if c.bill.weights_nbytes <= weights_nbytes]
            if not fitting:
                return None
            best = min(
                fitting, key=lambda c: (self._damage(c.sites), c.bill.weights_nbytes, c.bill.macs)
            )
            unmeasured = [site for site in best.sites if site not in self.measured]
            if not unmeasured:
                return best
            for site in unmeasured:
                self._take(site)

    def smallest(self) -> Choice:
        """The combination with the fewest weight bytes that keeps the floors (ties: fewer MACs)."""
        while True:
            best = min(
                self._combinations(self._plausible),
                key=lambda c: (c.bill.weights_nbytes, c.bill.macs, self._damage(c.sites)),
            )
            doubtful = [site for site in best.sites if site not in self.measured]
            if not doubtful:
                return best
            for site in doubtful:
                self._take(self._probe(site))

    def reject(self, site: Site) -> None:
        """Take a site out: together with the others it did not keep its floor."""
        self._rejected.add(site)

    # -- what is known about a site ---------------------------------------------------------

    def _take(self, site: Site) -> None:
        self.measured[site] = self.measure(site)

    def _open(self, site: Site) -> bool:
        """Whether the site may still be chosen."""
        if site in self._rejected:
            return False
        known = self.measured.get(site)
        if known is not None:
            return known.met
        mine = self._measured_of(site)
        if any(not m.met and other.damage <= site.damage for other, m in mine):
            return False  # a milder site already failed
        return len(mine) < self.effort

    def _plausible(self, site: Site) -> bool:
        """Whether an open site is worth a measurement when looking for the most saving.

        The mildest site of a receiver always is: what it does tells what to expect of the others.
        """
        if site in self.measured or self._expected(site) <= PATIENCE * self.allowance:
            return True
        mildest = min(self.ladders[site.receiver], key=lambda rung: rung.damage)
        return site is mildest and not self._measured_of(site)

    def _probe(self, site: Site) -> Site:
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

    def _measured_of(self, site: Site) -> list[tuple[Site, Measurement]]:
        return [
            (other, self.measured[other])
            for other in self.ladders[site.receiver]
            if other in self.measured
        ]

    def _damage(self, sites: Iterable[Site]) -> float:
        return sum(self._expected(site) for site in sites)

    def _expected(self, site: Site) -> float:
        known = self.measured.get(site)
        if known is not None:
            return known.damage
        # Predicted damage is 1 - R2; its scale to lost fidelity is learned from measurements.
        scales = sorted(
            m.damage / other.damage for other, m in self._measured_of(site) if other.damage > 0
        )
        scale = scales[len(scales) // 2] if scales else 0.05
        return site.damage * scale

    # -- combinations -----------------------------------------------------------------------

    def _combinations(self, wanted: Callable[[Site], bool] | None = None) -> list[Choice]:
        choices: list[list[Site | None]] = [
            [None, *(s for s in rungs if self._open(s) and (wanted is None or wanted(s)))]
            for rungs in self.ladders.values()
        ]
        size = 1
        for rungs in choices:
            size *= len(rungs)
        picks = product(*choices) if size <= _MAX_COMBINATIONS else self._descended(choices)
        found: list[Choice] = []
        for pick in picks:
            sites = tuple(site for site in pick if site is not None)
            price = self._price(sites)
            if price is not None:
                found.append(Choice(sites, price))
        return found

    def _descended(self, choices: list[list[Site | None]]) -> list[tuple[Site | None, ...]]:
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
                    extra = self._expected(site) - (self._expected(held) if held else 0.0)
                    rate = (here.weights_nbytes - price.weights_nbytes) / max(extra, 1e-6)
                    if best is None or rate > best[0]:
                        best = (rate, index, site)
            if best is None:
                return path
            current[best[1]] = best[2]
            path.append(tuple(current))

    def _price(self, sites: tuple[Site, ...]) -> Bill | None:
        if sites not in self._prices:
            self._prices[sites] = self.bill([site.action for site in sites])
        return self._prices[sites]
