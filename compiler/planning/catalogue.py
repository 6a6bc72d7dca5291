"""The candidates of a program: every site of every kind, with what it is predicted to do alone.

Looks are taken when they are asked for. What was not looked at is predicted by its like: a site
of the same place by the ratio of their local residuals, others by the ratio that their kind shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..actions.action import Action, Stage
from ..actions.bill import LEAST_SHARE
from ..actions.kinds import MOST_DAMAGE, Kind
from ..actions.site import Site
from ..progress import Progress
from .damage import Output, cost_of, error_of
from .formulation.candidates import Candidate
from .known import KnownCandidate
from .merge_speed import Merges
from .sensitivity import Sensitivity
from .workbench import Workbench

# Damage to outputs by local residual, of a kind of which nothing was looked at yet.
_BY_RESIDUAL = 0.1
# Of the ratios that a kind's looks showed the one that its others are expected to have: a low one,
# so that what may be better than what was seen is looked at before it is passed over.
_LOW = 0.25
# Regions that lose so much of an output are of no use; after so many in a row no more are looked at
# unless the program would take them.
_USELESS, _ENOUGH_USELESS = 0.25, 3
# Local residuals that are told apart from none.
_LEAST_RESIDUAL = 1e-6
# Looks at a kind after which the worst of them tells what its others cost at most, and costs that
# need no look then.
_ENOUGH_LOOKS, _NEXT_TO_NOTHING = 4, 1e-3
_TOO_LITTLE = f"nothing that could be rewritten is {100 * LEAST_SHARE:g} % of all weights or MACs"

Errors = Mapping[Output, float]


class Catalogue:
    """All sites of a workbench's program, found once, and looks at them."""

    def __init__(self, bench: Workbench, kinds: Sequence[Kind], progress: Progress) -> None:
        self._bench = bench
        self._progress = progress
        self._sensitivity = Sensitivity(bench)
        self._merges = Merges(bench)
        self.refused: dict[str, str] = {}
        self._kinds = kinds
        self._sites: list[Site] = []
        self._known: dict[Action, Errors | None] = {}

    def prepare(self, known: Sequence[KnownCandidate] = ()) -> None:
        """Find the sites, and look at those of which nothing else tells what they do.

        `known` is what an earlier compilation of the same models and frames learned.
        """
        if known:
            self._sites = [one.site for one in known]
            for site, errors in ((one.site, one.errors) for one in known):
                if errors:
                    in_vain = any(map(math.isinf, errors.values()))
                    self._known[site.action] = None if in_vain else errors
        else:
            self._find(self._kinds)
        self.look(Candidate(site, {}) for site in self._sites if site.damage <= 0)
        self._look_at_regions()

    def _look_at_regions(self) -> None:
        """Look at regions, those that promise most first, until several in a row are of no use.

        What their residuals tell differs most of all kinds, between networks and in one, since the
        layers around a gap may take it over: a plan without these looks lost a quarter more.
        """
        mine = [one for one in self._sites if one.action.stage is Stage.REGIONS and one.damage > 0]
        whole = self._bench.bills.bill(())
        assert whole is not None
        mine.sort(
            key=lambda one: (one.damage / max(one.saved.share_of(whole), 1e-9), str(one.action))
        )
        mine = [site for site in mine if not self.is_known(site)]
        if mine:
            self._progress.stage("looking at single rewrites", len(mine))
        useless = 0
        for site in mine:
            if self._bench.deadline.over:
                break
            self._look(site)
            self._progress.advance()
            errors = self._known.get(site.action)
            lost = error_of(max(errors.values(), default=0.0)) if errors else 1.0
            useless = useless + 1 if lost > _USELESS else 0
            if useless == _ENOUGH_USELESS:
                break

    def known(self) -> tuple[KnownCandidate, ...]:
        """What was found and seen, for later compilations: what is in vain loses all."""
        found: list[KnownCandidate] = []
        for site in self._sites:
            errors: Errors = self._known.get(site.action, {}) or {}
            if site.action in self._known and self._known[site.action] is None:
                own = next(iter(self._bench.program.models[site.receiver].outputs))
                errors = {(site.receiver, own): math.inf}
            found.append(KnownCandidate(site, errors))
        return tuple(found)

    @property
    def sites(self) -> Sequence[Site]:
        """All that could be done, but for what a look found to be in vain."""
        return [site for site in self._sites if self._known.get(site.action, {}) is not None]

    def candidates(self) -> list[Candidate]:
        """The sites with what is known, or expected, of each."""
        by_look, by_kind = self._like()
        found: list[Candidate] = []
        for site in self.sites:
            errors = self._known.get(site.action)
            if errors is None:
                errors = self._expected(site, by_look, by_kind)
            found.append(Candidate(site, errors))
        return found

    def look(self, candidates: Iterable[Candidate]) -> bool:
        """Look at those of which nothing is known but their like; whether there were any.

        Of sites without a local residual nothing is known before. What its kind's looks say costs
        next to nothing is not looked at.
        """
        new = [one.site for one in candidates if not self.is_known(one.site)]
        new.sort(key=lambda site: -site.damage)
        if new:
            self._progress.stage("looking at single rewrites", len(new))
        looked = False
        for site in new:
            if self._bench.deadline.over:
                break
            if not self._costs_next_to_nothing(site):
                self._look(site)
                looked = True
            self._progress.advance()
        return looked

    def _costs_next_to_nothing(self, site: Site) -> bool:
        """Whether all looks at its kind say so, if there are some."""
        ratios = [
            max(errors.values()) / other.damage
            for other in self._sites
            if other.action.kind == site.action.kind
            and other.damage > _LEAST_RESIDUAL
            and (errors := self._known.get(other.action))
        ]
        if len(ratios) < _ENOUGH_LOOKS or site.damage <= 0:
            return False
        return max(ratios) * site.damage <= _NEXT_TO_NOTHING

    # -- finding ---------------------------------------------------------------------------------

    def _find(self, kinds: Sequence[Kind]) -> None:
        bench = self._bench
        whole = bench.bills.bill(())
        assert whole is not None
        groups = bench.evidence.groups
        self._progress.stage("looking for what could be rewritten", len(groups) * len(kinds))
        small: set[str] = set()
        for group in groups:
            for kind in kinds:
                kind.request(bench.evidence, group)
            for kind in kinds:
                sites = kind.sites(bench.evidence, group)
                self.refused |= sites.refused
                for site in _flat(sites.found):
                    if kind.free and site.damage > MOST_DAMAGE:
                        continue
                    if site.saved.matters(whole):
                        self._sites.append(site)
                    else:
                        small.add(site.receiver)
                self._progress.advance()
        busy = {name for site in self._sites for name in site.action.models}
        self.refused |= dict.fromkeys(sorted(small - busy), _TOO_LITTLE)

    # -- predicting ------------------------------------------------------------------------------

    def is_known(self, site: Site) -> bool:
        """Whether the site, or another of its place, was looked at."""
        if site.action in self._known:
            return True
        return site.look is not None and any(
            other.look == site.look and self._known.get(other.action) for other in self._sites
        )

    def _look(self, site: Site) -> None:
        faster = self._merges.is_faster(site.action)
        errors = self._sensitivity.look(site.action) if faster else None
        if errors is not None:
            errors = {output: cost_of(error) for output, error in errors.items()}
        self._known[site.action] = errors

    def _like(self) -> tuple[dict[object, tuple[Site, Errors]], dict[str, float]]:
        """What was looked at, by place; and of each kind the damage by local residual."""
        by_look: dict[object, tuple[Site, Errors]] = {}
        ratios: dict[str, list[float]] = {}
        for site in self._sites:
            errors = self._known.get(site.action)
            if not errors:
                continue
            if site.look is not None:
                by_look.setdefault(site.look, (site, errors))
            if site.damage > _LEAST_RESIDUAL:
                worst = max(errors.values())
                ratios.setdefault(site.action.kind, []).append(worst / site.damage)
        return by_look, {kind: float(np.quantile(found, _LOW)) for kind, found in ratios.items()}

    def _expected(
        self,
        site: Site,
        by_look: Mapping[object, tuple[Site, Errors]],
        by_kind: Mapping[str, float],
    ) -> Errors:
        residual = max(site.damage, _LEAST_RESIDUAL)
        if site.look in by_look:
            other, errors = by_look[site.look]
            scale = residual / max(other.damage, _LEAST_RESIDUAL)
            return {output: scale * error for output, error in errors.items()}
        error = residual * by_kind.get(site.action.kind, _BY_RESIDUAL)
        return {
            (name, own): error
            for name in self._bench.bills.affected(site.action)
            for own in self._bench.program.models[name].outputs
        }


def _flat(sites: Iterable[Site]) -> Iterable[Site]:
    """The sites, each with the others that could stand in its place."""
    for site in sites:
        yield site
        yield from site.alternatives
