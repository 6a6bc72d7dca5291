"""Sites: where one model could take over a representation of another, ranked before any swap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..execution.samples import Samples
from ..fitting.affine_ranking import AffineRanking
from ..fitting.cka import debiased_cka
from ..graph.cuts import Cut, cuts
from ..graph.layout import ACTIVATIONS, pre_activation
from ..graph.program import Program, own_name
from ..planning.plan import Link, SharePrefixAction
from .bill import Bill, Skeleton
from .links import is_representation

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
# They are not looked for where this much is explained: nothing is left for them to carry better.
_SURE_R2 = 0.95
LADDER = 12
# Rows for the CKA annotation; more do not change its second digit.
_CKA_ROWS = 1024


@dataclass(frozen=True, eq=False)  # looked up by identity thousands of times in a search
class Site:
    """A possible share action with what it saves and how well it should work.

    `depth` is the share of the receiver's nodes before the cut. Bytes and MACs (per frame) are
    what this action alone saves on top of the exact passes. `r2` is the held-out R2 of the best
    affine map between the two representations, `cka` their debiased CKA (an annotation: it does
    not see rotations, a swap does). `damage` is the predicted loss: 1 - R2, or what a probe found
    (`probed`, see Search). `alternatives` are other ways to replace the same values.
    """

    action: SharePrefixAction
    depth: float
    saved_nbytes: int
    saved_macs: int
    r2: float
    cka: float
    damage: float
    probed: bool = False
    alternatives: tuple[Site, ...] = ()

    @property
    def receiver(self) -> str:
        """The model whose prefix is replaced."""
        return self.action.receiver


@dataclass
class Sites:
    """All sites worth measuring: per receiver by predicted damage, and why a receiver has none.

    Each donor gives a ladder: its Pareto front of saved bytes against predicted damage. `others`
    are the sites beside the ladders.
    """

    ladders: dict[str, list[Site]] = field(default_factory=dict[str, list[Site]])
    others: dict[str, list[Site]] = field(default_factory=dict[str, list[Site]])
    reasons: dict[str, str] = field(default_factory=dict[str, str])


def donor_values(program: Program, model: str) -> list[str]:
    """Float values of a model that may feed others: its cuts and its activations, in order."""
    outputs = {value.name for value in program.graph.outputs}
    known = program.values()
    names: list[str] = []
    for cut in cuts(program, model, max_width=1):
        value = known[cut.values[0]]
        names += [value.name, pre_activation(value, outputs).name]
    for node in program.nodes_of(model):
        if node.op in ACTIVATIONS and not node.domain:
            names.append(node.outputs[0].name)
    order = {t.name: i for i, n in enumerate(program.graph.nodes) for t in n.outputs}
    unique = [name for name in dict.fromkeys(names) if name in order and name not in outputs]
    return sorted((n for n in unique if is_representation(known[n])), key=order.__getitem__)


def receiver_cuts(program: Program, model: str) -> list[Cut]:
    """Cuts of a model at which its suffix could be fed by another model."""
    known = program.values()
    outside = {value.name for value in (*program.graph.outputs, *program.graph.inputs)}
    return [
        cut
        for cut in cuts(program, model)
        if cut.depth > 0
        and all(name not in outside and is_representation(known[name]) for name in cut.values)
    ]


def find_sites(
    program: Program,
    samples: Samples,
    aligned: Mapping[str, Sequence[str]],
    skeleton: Skeleton,
) -> Sites:
    """A ladder of sites for every model, from sampled rows.

    `aligned` lists, per receiver, the models that see the same frames (the possible donors).
    """
    base = skeleton.bill([])
    assert base is not None
    found = Sites()
    rankings = {
        name: AffineRanking(samples, [v for v in donor_values(program, name) if v in samples.rows])
        for name in program.models
    }
    for receiver in program.models:
        donors = [name for name in aligned.get(receiver, ()) if name != receiver]
        if not donors:
            found.reasons[receiver] = "no other model sees the same frames"
            continue
        rungs: list[Site] = []
        best_r2 = 0.0
        receiving = _distinct(skeleton, receiver_cuts(program, receiver))
        for donor in donors:
            pair = _Pair(skeleton, samples, rankings[donor], base, donor, receiver)
            cut_of: dict[Site, Cut] = {}
            for cut in receiving:
                cut_of |= dict.fromkeys(pair.sites(cut), cut)
            best_r2 = max([best_r2, *(site.r2 for site in cut_of)])
            # A ladder per donor: the best donor alone may be one whose own prefix is better
            # dropped, which only shows when receivers are combined.
            length = 2 + LADDER // len(donors)
            good = [site for site in cut_of if site.r2 >= MIN_R2]
            best = ladder(good, length)
            taken = set(best)
            found.others.setdefault(receiver, []).extend(s for s in good if s not in taken)
            rungs += [pair.with_alternatives(site, cut_of[site]) for site in best]
        found.ladders[receiver] = sorted(rungs, key=lambda s: (s.damage, str(s.action)))
        if not found.ladders[receiver]:
            found.reasons[receiver] = (
                f"no representation of another model explains one of its own "
                f"(best affine R2 {best_r2:.2f}) at a saving"
            )
    return found


def ladder(sites: Sequence[Site], length: int = LADDER) -> list[Site]:
    """The Pareto front of saved bytes against predicted damage, thinned to `length` rungs."""
    front: list[Site] = []
    for site in sorted(
        sites, key=lambda s: (-s.saved_nbytes, s.damage, -s.saved_macs, str(s.action))
    ):
        if not front or site.damage < front[-1].damage:
            front.append(site)
    front.reverse()
    if len(front) <= length:
        return front
    keep = np.unique(np.linspace(0, len(front) - 1, length).round().astype(int))
    return [front[index] for index in keep]


def _distinct(skeleton: Skeleton, found: Sequence[Cut]) -> list[Cut]:
    # A ReLU's output and its input are two cuts but one rewrite.
    unique = {tuple(skeleton.replaced(name, 1) for name in cut.values): cut for cut in found}
    return list(unique.values())


@dataclass(frozen=True)
class _Pair:
    """What one model could take from another: sites at a cut, by what explains its values."""

    skeleton: Skeleton
    samples: Samples
    ranking: AffineRanking
    base: Bill
    donor: str
    receiver: str

    def sites(self, cut: Cut, first: float = 1.0) -> list[Site]:
        """The sites at a cut that save something, with the first share of the donor's values.

        By donors: the best one, the best set of several, as it is; by adapter: 1x1 and 3x3.
        """
        samples = self.samples
        targets = [self.skeleton.replaced(name, 1) for name in cut.values]
        if any(name not in samples.rows for name in targets):
            return []
        # A donor value below the cut would make a cycle; one shared with the receiver is no donor.
        chosen = [self.ranking.best(target, MAX_DONORS, first=first) for target in targets]
        if not all(chosen):
            return []
        single = [sets[0] for sets in chosen]
        several = [sets[-1] for sets in chosen]
        variants = [(single, 1)]
        if any(len(sets) > 1 for sets in chosen):
            variants.append((several, 1))
        if all(len(samples.spatial[target]) >= 2 for target in targets):
            variants += [(single, 3), (several, 3)]
        found: dict[str, tuple[float, SharePrefixAction]] = {}
        for sets, kernel in variants:
            r2 = min(r2 for r2, _ in sets)
            action = self._action(cut, [donors for _, donors in sets], kernel)
            found[str(action)] = (1 - (1 - r2) * _WINDOW_GAIN if kernel == 3 else r2, action)
        raw = _raw_r2(samples, [donors[0] for _, donors in single], cut.values)
        if raw >= 0.5:
            action = self._action(cut, [(donors[0],) for _, donors in single], 0)
            found[str(action)] = (raw, action)
        sites = [self._site(cut, action, r2) for r2, action in found.values()]
        return [site for site in sites if site is not None]

    def with_alternatives(self, site: Site, cut: Cut) -> Site:
        """The site, knowing the best ones that the first values of the donor give at its cut."""
        others: dict[str, Site] = {}
        for first in _FIRST_DONORS if site.r2 < _SURE_R2 else ():
            best = max(self.sites(cut, first), key=lambda s: s.r2, default=None)
            if best is not None and best.action != site.action:
                others[str(best.action)] = best
        return replace(site, alternatives=tuple(others.values()))

    def _action(self, cut: Cut, sets: Sequence[tuple[str, ...]], kernel: int) -> SharePrefixAction:
        links = tuple(Link(name, donors) for name, donors in zip(cut.values, sets))
        return SharePrefixAction(self.donor, self.receiver, links, kernel)

    def _site(self, cut: Cut, action: SharePrefixAction, r2: float) -> Site | None:
        """The site with what it saves; None where that is nothing, or its adapter eats it."""
        bill = self.skeleton.bill([action])
        if bill is None:
            return None
        saved = self.base.weights_nbytes - bill.weights_nbytes
        saved_macs = self.base.macs - bill.macs
        adapter = self.skeleton.adapters_bill(action)
        if saved <= 0 or saved_macs < 0:
            return None
        if action.kernel and (
            adapter.weights_nbytes > _ADAPTER_SHARE * (saved + adapter.weights_nbytes)
            or adapter.macs > _ADAPTER_SHARE * (saved_macs + adapter.macs)
        ):
            return None
        link = action.links[0]
        ends = (link.donor_values[0], self.skeleton.replaced(link.receiver_value, 1))
        first, target = (self.samples.rows[name][:_CKA_ROWS] for name in ends)
        return Site(action, cut.depth, saved, saved_macs, r2, debiased_cka(first, target), 1 - r2)


def _raw_r2(samples: Samples, donors: Sequence[str], receivers: Sequence[str]) -> float:
    """The lowest 1 - |donor - receiver|^2 / variance over the links; 0 where shapes differ."""
    lowest = 1.0
    for donor, receiver in zip(donors, receivers):
        if (
            receiver not in samples.rows
            or samples.channels[donor] != samples.channels[receiver]
            or samples.spatial[donor] != samples.spatial[receiver]
        ):
            return 0.0
        x, y = samples.rows[donor], samples.rows[receiver]
        total = float(np.square(y - y.mean(axis=0), dtype=np.float64).sum())
        error = float(np.square(x - y, dtype=np.float64).sum())
        lowest = min(lowest, 1 - error / total if total > 0 else 0.0)
    return lowest


def described(site: Site) -> str:
    """One line for logs: what goes where, and what is expected of it."""
    ends = ", ".join(own_name(link.receiver_value) for link in site.action.links)
    return f"{site.receiver} at {ends} from {site.action.donor} (R2 {site.r2:.3f})"
