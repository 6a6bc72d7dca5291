"""Sites: where one model could take over a representation of another, ranked before any swap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..analysis.similarity import AffineRanking, Samples, debiased_cka
from ..graph.cuts import Cut, cuts
from ..graph.layout import ACTIVATIONS, pre_activation
from ..graph.program import Program, own_name
from .links import is_representation
from .plan import Link, SharePrefixAction
from .skeleton import Bill, Skeleton

# Several donor values at once repair what one lacks: resnet20 -> resnet44 at a third of the depth
# goes from 95.8 to 96.8 % agreement with seven, from 95.8 to 96.3 with three.
MAX_DONORS = 6
# A 3x3 adapter explains about this much of what a 1x1 one leaves (same measurement).
_WINDOW_GAIN = 0.8
# An adapter may eat this share of what its site saves, in bytes and in MACs.
_ADAPTER_SHARE = 0.5
# Below this R2 a swap never came near a fidelity floor worth having; not worth measuring.
MIN_R2 = 0.25
LADDER = 12
# Rows for the CKA annotation; more do not change its second digit.
_CKA_ROWS = 1024


@dataclass(frozen=True, eq=False)  # looked up by identity thousands of times in a search
class Site:
    """A possible share action with what it saves and how well it should work.

    `depth` is the share of the receiver's nodes before the cut. Bytes and MACs (per frame) are
    what this action alone saves on top of the exact passes. `r2` is the held-out R2 of the best
    affine map between the two representations, `cka` their debiased CKA (an annotation: it does
    not see rotations, a swap does). `damage` is the predicted loss of fidelity.
    """

    action: SharePrefixAction
    depth: float
    saved_nbytes: int
    saved_macs: int
    r2: float
    cka: float
    damage: float

    @property
    def receiver(self) -> str:
        """The model whose prefix is replaced."""
        return self.action.receiver


@dataclass
class Sites:
    """All sites worth measuring: per receiver by predicted damage, and why a receiver has none.

    Each donor gives a ladder: its Pareto front of saved bytes against predicted damage.
    """

    ladders: dict[str, list[Site]] = field(default_factory=dict[str, list[Site]])
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
            sites: list[Site] = []
            for cut in receiving:
                sites += _sites_at(skeleton, samples, rankings[donor], base, donor, receiver, cut)
            best_r2 = max([best_r2, *(site.r2 for site in sites)])
            # A ladder per donor: the best donor alone may be one whose own prefix is better
            # dropped, which only shows when receivers are combined.
            length = 2 + LADDER // len(donors)
            rungs += ladder([site for site in sites if site.r2 >= MIN_R2], length)
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


def _sites_at(
    skeleton: Skeleton,
    samples: Samples,
    ranking: AffineRanking,
    base: Bill,
    donor: str,
    receiver: str,
    cut: Cut,
) -> list[Site]:
    targets = [skeleton.replaced(name, 1) for name in cut.values]
    if any(name not in samples.rows for name in targets):
        return []
    # A donor value below the cut would make a cycle; one shared with the receiver is no donor.
    chosen = [ranking.best(target, MAX_DONORS) for target in targets]
    if not all(chosen):
        return []
    variants: list[tuple[float, SharePrefixAction]] = []

    def action(sets: Sequence[tuple[str, ...]], kernel: int) -> SharePrefixAction:
        links = tuple(Link(name, donors) for name, donors in zip(cut.values, sets))
        return SharePrefixAction(donor, receiver, links, kernel)

    maps = all(len(samples.spatial[target]) >= 2 for target in targets)
    lean = min(sets[0][0] for sets in chosen)
    rich = min(sets[-1][0] for sets in chosen)
    variants.append((lean, action([sets[0][1] for sets in chosen], 1)))
    if any(len(sets) > 1 for sets in chosen):
        variants.append((rich, action([sets[-1][1] for sets in chosen], 1)))
    if maps:
        for r2, sets in ((lean, 0), (rich, -1)):
            wide = 1 - (1 - r2) * _WINDOW_GAIN
            variants.append((wide, action([group[sets][1] for group in chosen], 3)))
    raw = _raw_r2(samples, [sets[0][1][0] for sets in chosen], cut.values)
    if raw >= 0.5:
        variants.append((raw, action([(sets[0][1][0],) for sets in chosen], 0)))

    sites: list[Site] = []
    cka = float("nan")
    for r2, candidate in {str(act): (score, act) for score, act in variants}.values():
        bill = skeleton.bill([candidate])
        if bill is None:
            continue
        saved = base.weights_nbytes - bill.weights_nbytes
        saved_macs = base.macs - bill.macs
        adapter = skeleton.adapters_bill(candidate)
        if saved <= 0 or saved_macs < 0:
            continue
        if candidate.kernel and (
            adapter.weights_nbytes > _ADAPTER_SHARE * (saved + adapter.weights_nbytes)
            or adapter.macs > _ADAPTER_SHARE * (saved_macs + adapter.macs)
        ):
            continue
        if cka != cka:
            first = chosen[0][0][1][0]
            cka = debiased_cka(
                samples.rows[first][:_CKA_ROWS], samples.rows[targets[0]][:_CKA_ROWS]
            )
        sites.append(Site(candidate, cut.depth, saved, saved_macs, r2, cka, 1 - r2))
    return sites


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
