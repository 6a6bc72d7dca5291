"""Share a prefix by representation: a donor's values feed a receiver's suffix (RepSim)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from ...passes.base import Pass
from ...passes.share_prefix import SharePrefix
from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..execution.samples import SampleObserver, Samples
from ..fitting.affine_ranking import AffineRanking, first_look
from ..fitting.cka import debiased_cka
from ..fitting.reference import Reference
from ..graph.adapters import Link, adapter_name
from ..graph.cuts import Cut
from ..graph.program import Program, own_name
from .action import Disturbed, Effect, Stage, Swap, check_models
from .bill import Bills
from .evidence import Evidence
from .links import adapter_window, check_link
from .shareable import distinct, donor_values, fixes_sizes, receiver_cuts, values_to_sample
from .site import Site, Sites, by_damage

# Several donor values at once repair what one lacks: resnet20 -> resnet44 at a third of the depth
# goes from 95.8 to 96.8 % agreement with seven, from 95.8 to 96.3 with three.
MAX_DONORS = 6
# A 3x3 adapter explains about this much of what a 1x1 one leaves (same measurement).
_WINDOW_GAIN = 0.8
# An adapter may eat this share of what its site saves, in bytes and in MACs.
_ADAPTER_SHARE = 0.5
# Below this R2 a swap never came near a fidelity floor worth having; not worth measuring.
MIN_R2 = 0.25
# Donors are also looked for among the first values of the donor only, by share. What explains a
# representation best need not carry best what the rest of the receiver makes of it after a refit:
# resnet20 -> sib_full_bright4 after half of its blocks loses 3.8 points with the best of all six,
# and nothing with the best of the first quarter. The probe decides.
_FIRST_DONORS = (0.25, 0.5)
_MAX_FIRST_DONORS = 3
# They are not looked for where this much is explained: nothing is left for them to carry better.
_SURE_R2 = 0.95
LADDER = 8
# A donor goes as it is where so much of the receiver's variance is the same.
_RAW_R2 = 0.5
# Rungs of a ladder that values without places take at most.
_POOLED_RUNGS = 2
# Donors that a first look leaves over, for each value, and rungs of its ladder for each of the end.
_LOOKED_AT = 6
_LOOK_RUNGS = 2
# Rows for the CKA annotation, and for differences; more do not change the second digit.
_CKA_ROWS = 1024


@dataclass(frozen=True)
class SharePrefixAction:
    """Feed a receiver's suffix from a donor (RepSim): one link per value of the receiver's cut.

    `kernel` is the adapter's window: 1 or 3 (an affine map per pixel or per 3x3 neighbourhood;
    tokens and features only have 1), or 0 for the donor's value as it is. arXiv 2410.11233.
    """

    kind: ClassVar[str] = "share-prefix"
    stage: ClassVar[Stage] = Stage.SHARING
    counted: ClassVar[tuple[str, str]] = ("prefix shared", "prefixes shared")
    takes_channels: ClassVar[bool] = False

    donor: str
    receiver: str
    links: tuple[Link, ...]
    kernel: int

    @property
    def models(self) -> tuple[str, ...]:
        """The donor, and the receiver."""
        return (self.donor, self.receiver)

    @property
    def place(self) -> str:
        """The receiver's values, and what stands in their place of the donor's."""
        return f"{self.receiver}: {self._ends} of {self.donor}"

    @property
    def series(self) -> str:
        """None: each has a line."""
        return ""

    def __str__(self) -> str:
        adapter = f"{self.kernel}x{self.kernel} adapter" if self.kernel else "as it is"
        return f"{self.receiver} takes from {self.donor}: {self._ends} ({adapter})"

    @property
    def _ends(self) -> str:
        return ", ".join(
            f"{own_name(link.receiver_value)} <- "
            + " + ".join(own_name(value) for value in link.donor_values)
            for link in self.links
        )

    def to_json(self) -> dict[str, Any]:
        """The action as JSON types; values go by their program names, 'model/value'."""
        return {
            "kind": self.kind,
            "donor": self.donor,
            "receiver": self.receiver,
            "kernel": self.kernel,
            "links": [
                {"receiver_value": one.receiver_value, "donor_values": list(one.donor_values)}
                for one in self.links
            ],
        }

    @classmethod
    def from_json(cls, entry: Reader) -> SharePrefixAction:
        """The action that `to_json` wrote. Raises ModelError."""
        donor, receiver = entry.get("donor", Reader.text), entry.get("receiver", Reader.text)
        window = entry.get("kernel", adapter_window)
        links = entry.items("links", _link)
        if not links:
            raise ModelError(f"{entry.document} links nothing")
        return cls(donor, receiver, tuple(links), window)

    def check(self, program: Program) -> None:
        """Refuse models and values that are not there or cannot be linked. Raises ModelError."""
        check_models(self.models, program)
        for link in self.links:
            check_link(program, link.receiver_value, link.donor_values, self.kernel)

    def effect(self, program: Program) -> Effect | str:
        """What read the receiver's values reads the donor's instead."""
        swaps = (Swap(one.receiver_value, one.donor_values, self.kernel) for one in self.links)
        return Effect(swaps=tuple(swaps), claims=True)

    def covers(self, other: object) -> bool:
        """Whether `other` is the same."""
        return self == other

    def takes_out(self, program: Program) -> frozenset[str]:
        """Nothing: a prefix that others read stays."""
        return frozenset()

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The swap, with fitted adapters."""
        return [SharePrefix(self.links, self.kernel, reference)]

    def disturbed(self, program: Program) -> Disturbed:
        """What reads the adapters."""
        return Disturbed(tuple(adapter_name(link.receiver_value) for link in self.links))


def _link(reader: Reader) -> Link:
    donors = reader.items("donor_values", Reader.anything)
    if not donors or not all(isinstance(value, str) for value in donors):
        raise ModelError(f"{reader.document}: donor_values must be a list of names, not empty")
    return Link(reader.get("receiver_value", Reader.text), tuple(donors))


# -- sites ----------------------------------------------------------------------------------------


def request(evidence: Evidence, group: tuple[str, ...]) -> None:
    """Have the values sampled that the models of a group could share."""
    if len(group) > 1:
        evidence.request(group, SharePrefixAction.kind, lambda: _samples(evidence, group))


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """A ladder of sites for every model of a group, from sampled rows."""
    if len(group) < 2:
        return Sites(refused=dict.fromkeys(group, "no other model sees the same frames"))
    seen = evidence.seen(group, SharePrefixAction.kind, lambda: _samples(evidence, group))
    return sites_among(evidence.program, seen.samples, group, evidence.bills)


def _samples(evidence: Evidence, group: tuple[str, ...]) -> SampleObserver:
    wanted = values_to_sample(evidence.program, group, evidence.bills)
    return SampleObserver(evidence.program, wanted, evidence.seed)


def sites_among(program: Program, samples: Samples, group: Sequence[str], bills: Bills) -> Sites:
    """A ladder of sites for every model of a group that sees the same frames.

    Each donor gives a ladder: its Pareto front of saved bytes against predicted damage, which is
    1 - R2.
    """
    # Thousands of solves of 16 to 256 unknowns: threads cost more than they bring.
    with threadpool_limits(1, user_api="blas"):
        return _sites_among(program, samples, group, bills)


def _sites_among(program: Program, samples: Samples, group: Sequence[str], bills: Bills) -> Sites:
    found = Sites()
    rankings = {
        name: AffineRanking(samples, [v for v in donor_values(program, name) if v in samples.rows])
        for name in group
    }
    for receiver in group:
        others = [name for name in group if name != receiver]
        donors = [name for name in others if not fixes_sizes(program, name, receiver)]
        rungs: list[Site] = []
        receiving = distinct(bills, receiver_cuts(program, receiver))
        best_r2 = 0.0
        for donor in donors:
            pair = _Pair(bills, samples, rankings[donor], (donor, receiver), receiving)
            # A ladder per donor: the best donor alone may be one whose own prefix is better
            # dropped, which only shows when receivers are combined.
            own, seen = pair.ladder(2 + LADDER // len(donors))
            rungs += own
            best_r2 = max(best_r2, seen)
        found.found += sorted(rungs, key=lambda s: (s.damage, str(s.action)))
        if not rungs:
            values = [value for name in donors for value in rankings[name].donors]
            targets = [bills.replaced(value, 1) for cut in receiving for value in cut.values]
            found.refused[receiver] = _why_none(samples, donors, values, targets, best_r2)
    return found


def _why_none(
    samples: Samples,
    donors: Sequence[str],
    given: Sequence[str],
    targets: Sequence[str],
    best_r2: float,
) -> str:
    """Why a receiver has no site: donor models and values there are, values of its own, best R2."""
    if not donors:
        return "it takes any size or batch and the others a fixed one, which would become its own"
    if not targets or not given:
        whose = "of its own" if not targets else "of another model's"
        return f"there is no representation {whose} that could be shared"
    if not any(
        target in samples.rows and samples.comparable(value, target)
        for target in targets
        for value in given
    ):
        return (
            "no representation of another model has a size from which one of its own could be "
            "reached"
        )
    return (
        f"no representation of another model explains one of its own "
        f"(best affine R2 {best_r2:.2f}) at a saving"
    )


def ladder(sites: Sequence[Site], length: int = LADDER) -> list[Site]:
    """The Pareto front of saved bytes against predicted damage, thinned to `length` rungs."""
    front: list[Site] = []
    for site in sorted(sites, key=lambda s: (-s.saved.weights_nbytes, *by_damage(s))):
        if not front or site.damage < front[-1].damage:
            front.append(site)
    front.reverse()
    if len(front) <= length:
        return front
    keep = np.unique(np.linspace(0, len(front) - 1, length).round().astype(int))
    return [front[index] for index in keep]


class _Pair:
    """What one model could take from another: sites at its cuts, by what explains their values.

    Cuts are thinned twice before a value is looked at closely: by a first look at all donors, and
    by the best single donor. `ends` are donor and receiver.
    """

    def __init__(
        self,
        bills: Bills,
        samples: Samples,
        ranking: AffineRanking,
        ends: tuple[str, str],
        cuts: Sequence[Cut],
    ) -> None:
        base = bills.bill(())
        assert base is not None
        self._bills, self._samples, self._ranking, self._base = bills, samples, ranking, base
        self._donor, self._receiver = ends
        self._cuts = [cut for cut in cuts if all(v in samples.rows for v in self._targets(cut))]
        targets = list(dict.fromkeys(v for cut in self._cuts for v in self._targets(cut)))
        look = first_look(samples, ranking.donors, targets)
        self._looks = {value: look[:, index] for index, value in enumerate(targets)}

    def ladder(self, length: int) -> tuple[list[Site], float]:
        """At most so many sites, each with its alternatives; and the best R2 that was seen."""
        rough = {cut: self._rough(cut) for cut in self._cuts}
        chosen = self._cuts_of(rough, _LOOK_RUNGS * length, MIN_R2 / 2)
        singles = {cut: self._sites(cut, 1, 1.0) for cut in chosen}
        looks = [
            site.evidence["r2"] for sites in (*rough.values(), *singles.values()) for site in sites
        ]
        chosen = self._cuts_of(singles, length, MIN_R2)
        cut_of: dict[Site, Cut] = {}
        for cut in chosen:
            cut_of |= dict.fromkeys(self._sites(cut, MAX_DONORS, 1.0), cut)
        best = self._rungs(cut_of, length, MIN_R2)
        return [self._with_alternatives(site, cut_of[site]) for site in best], max(
            looks, default=0.0
        )

    def _cuts_of(
        self, sites: Mapping[Cut, Sequence[Site]], length: int, least_r2: float
    ) -> list[Cut]:
        """The cuts on the ladder of their sites that explain enough."""
        cut_of = {site: cut for cut, found in sites.items() for site in found}
        rungs = self._rungs(cut_of, length, least_r2)
        return list(dict.fromkeys(cut_of[site] for site in rungs))

    def _rungs(self, cut_of: Mapping[Site, Cut], length: int, least_r2: float) -> list[Site]:
        """The ladder of sites that explain enough: one of maps, and one of values without places.

        A mean over places is explained far better than the map that it is of, which says nothing
        of what the outputs make of either.
        """
        spatial = self._samples.spatial
        apart: dict[bool, list[Site]] = {}
        for site, cut in cut_of.items():
            if site.evidence["r2"] >= least_r2:
                maps = any(spatial[target] for target in self._targets(cut))
                apart.setdefault(maps, []).append(site)
        # Of values without places a few are enough: they come after all maps.
        few = ladder(apart.get(False, []), min(_POOLED_RUNGS, length))
        return [*few, *ladder(apart.get(True, []), max(1, length - len(few)))]

    def _targets(self, cut: Cut) -> list[str]:
        """What adapters at a cut would make."""
        return [self._bills.replaced(name, 1) for name in cut.values]

    def _best_donors(self, target: str, share: float) -> list[str]:
        """Of the first share of the donor's values those that the first look puts first."""
        looks = self._looks[target][: math.ceil(share * len(self._ranking.donors))]
        order = np.argsort(-looks, kind="stable")[: np.count_nonzero(~np.isnan(looks))]
        return [self._ranking.donors[i] for i in order[:_LOOKED_AT]]

    def _rough(self, cut: Cut) -> list[Site]:
        """What the first look makes of a cut."""
        best = [tuple(donors[:1]) for donors in self._best_donors_of(cut, 1.0)]
        if not all(best):
            return []
        r2 = min(float(np.nanmax(self._looks[target])) for target in self._targets(cut))
        action = self._action(cut, best, 1)
        return self._priced(cut, [(r2, action)]) or self._as_it_is(cut, 1.0)

    def _sites(self, cut: Cut, most: int, share: float) -> list[Site]:
        """The sites at a cut that save something, with the first share of the donor's values.

        By donors: the best one, the best set of up to `most`, as it is; by adapter: 1x1 and, where
        several are looked at, 3x3.
        """
        # A donor value below the cut would make a cycle; one shared with the receiver is no donor.
        targets = self._targets(cut)
        chosen = [
            self._ranking.best(target, most, among=donors)
            for target, donors in zip(targets, self._best_donors_of(cut, share))
        ]
        if not all(chosen):
            return []
        single = [sets[0] for sets in chosen]
        several = [sets[-1] for sets in chosen]
        variants = [(single, 1)]
        if any(len(sets) > 1 for sets in chosen):
            variants.append((several, 1))
        if most > 1 and all(len(self._samples.spatial[target]) >= 2 for target in targets):
            variants += [(single, 3), (several, 3)]
        found: dict[str, tuple[float, SharePrefixAction]] = {}
        for sets, window in variants:
            r2 = min(r2 for r2, _ in sets)
            action = self._action(cut, [donors for _, donors in sets], window)
            found[str(action)] = (1 - (1 - r2) * _WINDOW_GAIN if window == 3 else r2, action)
        return self._priced(cut, list(found.values())) + self._as_it_is(cut, share)

    def _as_it_is(self, cut: Cut, share: float) -> list[Site]:
        """The site at a cut without adapters: of the best donors those that are most alike."""
        alike = [
            max(
                ((_raw_r2(self._samples, name, value), name) for name in donors),
                default=(0.0, ""),
                key=lambda found: found[0],
            )
            for value, donors in zip(cut.values, self._best_donors_of(cut, share))
        ]
        raw = min(r2 for r2, _ in alike)
        if raw < _RAW_R2:
            return []
        return self._priced(cut, [(raw, self._action(cut, [(name,) for _, name in alike], 0))])

    def _best_donors_of(self, cut: Cut, share: float) -> list[list[str]]:
        return [self._best_donors(target, share) for target in self._targets(cut)]

    def _with_alternatives(self, site: Site, cut: Cut) -> Site:
        """The site with its CKA, and the best ones that the first values of the donor give."""
        others: dict[str, Site] = {}
        for share in _FIRST_DONORS if site.evidence["r2"] < _SURE_R2 else ():
            sites = self._sites(cut, _MAX_FIRST_DONORS, share)
            best = max(sites, key=lambda s: s.evidence["r2"], default=None)
            if best is not None and best.action != site.action:
                others[str(best.action)] = self._annotated(best)
        return replace(self._annotated(site), alternatives=tuple(others.values()))

    def _annotated(self, site: Site) -> Site:
        assert isinstance(site.action, SharePrefixAction)
        link = site.action.links[0]
        ends = (link.donor_values[0], self._bills.replaced(link.receiver_value, 1))
        first, target = (self._samples.rows[name][:_CKA_ROWS] for name in ends)
        # CKA is an annotation: it does not see rotations, which a swap does.
        return replace(site, evidence={**site.evidence, "cka": debiased_cka(first, target)})

    def _action(self, cut: Cut, sets: Sequence[tuple[str, ...]], kernel: int) -> SharePrefixAction:
        links = tuple(Link(name, donors) for name, donors in zip(cut.values, sets))
        return SharePrefixAction(self._donor, self._receiver, links, kernel)

    def _priced(self, cut: Cut, found: Sequence[tuple[float, SharePrefixAction]]) -> list[Site]:
        """Sites (R2, action) with what they save; but for those whose adapters eat it."""
        sites: list[Site] = []
        for r2, action in found:
            bill = self._bills.bill((action,))
            if bill is None:
                continue
            saved, adapter = self._base - bill, self._bills.adapters_bill(action)
            most_nbytes = _ADAPTER_SHARE * (saved.weights_nbytes + adapter.weights_nbytes)
            if (
                saved.weights_nbytes <= 0
                or saved.macs < 0
                or adapter.weights_nbytes > most_nbytes
                or adapter.macs > _ADAPTER_SHARE * (saved.macs + adapter.macs)
            ):
                continue
            sites.append(Site(action, saved, 1 - r2, {"depth": cut.depth, "r2": r2}))
        return sites


def _raw_r2(samples: Samples, donor: str, receiver: str) -> float:
    """1 - |donor - receiver|^2 / variance on some rows; 0 where shapes differ."""
    if (
        receiver not in samples.rows
        or samples.channels[donor] != samples.channels[receiver]
        or not samples.same_size(donor, receiver)
    ):
        return 0.0
    step = max(1, len(samples.rows[donor]) // _CKA_ROWS)
    x, y = samples.rows[donor][::step], samples.rows[receiver][::step]
    total = float(np.square(y - y.mean(axis=0), dtype=np.float64).sum())
    error = float(np.square(x - y, dtype=np.float64).sum())
    return 1 - error / total if total > 0 else 0.0
