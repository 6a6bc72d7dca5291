"""Share a prefix by representation: a donor's values feed a receiver's suffix (RepSim)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from ...passes.base import Pass
from ...passes.share_prefix import SharePrefix
from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..execution.samples import Samples
from ..fitting.affine_ranking import AffineRanking
from ..fitting.cka import debiased_cka
from ..fitting.reference import Reference
from ..graph.adapters import Link, adapter_name
from ..graph.cuts import Cut, cuts
from ..graph.layout import ACTIVATIONS, pre_activation
from ..graph.program import Program, own_name
from .action import Disturbed, Effect, Stage, Swap, check_models
from .bill import Bill, Bills
from .evidence import Evidence
from .links import adapter_window, check_link, is_representation
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
# They are not looked for where this much is explained: nothing is left for them to carry better.
_SURE_R2 = 0.95
LADDER = 12
# Rows for the CKA annotation; more do not change its second digit.
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
                {
                    "receiver_value": link.receiver_value,
                    "donor_values": list(link.donor_values),
                }
                for link in self.links
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


def values_to_sample(program: Program, models: Sequence[str], bills: Bills) -> list[str]:
    """The values of some models that `sites_among` compares."""
    names: list[str] = []
    for model in models:
        names += donor_values(program, model)
        for cut in receiver_cuts(program, model):
            names += [*cut.values, *(bills.replaced(value, 1) for value in cut.values)]
    return list(dict.fromkeys(names))


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """A ladder of sites for every model of a group, from sampled rows."""
    if len(group) < 2:
        return Sites(refused=dict.fromkeys(group, "no other model sees the same frames"))
    wanted = values_to_sample(evidence.program, group, evidence.bills)
    samples = evidence.samples(group, wanted)
    return sites_among(evidence.program, samples, group, evidence.bills)


def sites_among(program: Program, samples: Samples, group: Sequence[str], bills: Bills) -> Sites:
    """A ladder of sites for every model of a group that sees the same frames.

    Each donor gives a ladder: its Pareto front of saved bytes against predicted damage, which is
    1 - R2. `spare` are the sites beside the ladders.
    """
    # Thousands of solves of 16 to 256 unknowns: threads cost more than they bring.
    with threadpool_limits(1, user_api="blas"):
        return _sites_among(program, samples, group, bills)


def _sites_among(program: Program, samples: Samples, group: Sequence[str], bills: Bills) -> Sites:
    base = bills.bill(())
    assert base is not None
    found = Sites()
    rankings = {
        name: AffineRanking(samples, [v for v in donor_values(program, name) if v in samples.rows])
        for name in group
    }
    for receiver in group:
        others = [name for name in group if name != receiver]
        donors = [name for name in others if not _fixes_sizes(program, name, receiver)]
        rungs: list[Site] = []
        best_r2 = 0.0
        receiving = _distinct(bills, receiver_cuts(program, receiver))
        for donor in donors:
            pair = _Pair(bills, samples, rankings[donor], base, donor, receiver)
            cut_of: dict[Site, Cut] = {}
            for cut in receiving:
                cut_of |= dict.fromkeys(pair.sites(cut), cut)
            best_r2 = max([best_r2, *(site.evidence["r2"] for site in cut_of)])
            # A ladder per donor: the best donor alone may be one whose own prefix is better
            # dropped, which only shows when receivers are combined.
            length = 2 + LADDER // len(donors)
            good = [site for site in cut_of if site.evidence["r2"] >= MIN_R2]
            best = ladder(good, length)
            taken = set(best)
            found.spare += [site for site in good if site not in taken]
            rungs += [pair.with_alternatives(site, cut_of[site]) for site in best]
        found.found += sorted(rungs, key=lambda s: (s.damage, str(s.action)))
        if rungs:
            continue
        targets = [bills.replaced(value, 1) for cut in receiving for value in cut.values]
        given = [value for name in donors for value in rankings[name].donors]
        if not donors:
            found.refused[receiver] = (
                "it takes any size or batch and the others a fixed one, which would become its own"
            )
        elif not targets or not given:
            whose = "of its own" if not targets else "of another model's"
            found.refused[receiver] = f"there is no representation {whose} that could be shared"
        elif not any(
            target in samples.rows and samples.comparable(value, target)
            for target in targets
            for value in given
        ):
            found.refused[receiver] = (
                "no representation of another model has a size from which one of its own could "
                "be reached"
            )
        else:
            found.refused[receiver] = (
                f"no representation of another model explains one of its own "
                f"(best affine R2 {best_r2:.2f}) at a saving"
            )
    return found


def _fixes_sizes(program: Program, donor: str, receiver: str) -> bool:
    """Whether the receiver takes batches or sizes that the donor does not.

    What the donor computes would then be of one size, and the receiver's promise to take any lost.
    """
    fixed, free = _free_sizes(program, donor), _free_sizes(program, receiver)
    return any(mine and not theirs for theirs, mine in zip(fixed, free))


def _free_sizes(program: Program, model: str) -> tuple[bool, bool]:
    """Whether the first axis of an input of the model is free, and whether another one is."""
    values = program.values()
    shapes = [values[value].shape or () for value in program.models[model].inputs.values()]

    def free(dims: Sequence[object]) -> bool:
        return any(not isinstance(dim, int) or dim < 1 for dim in dims)

    return any(free(s[:1]) for s in shapes), any(free(s[1:]) for s in shapes)


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


def _distinct(bills: Bills, found: Sequence[Cut]) -> list[Cut]:
    # A ReLU's output and its input are two cuts but one rewrite.
    unique = {tuple(bills.replaced(name, 1) for name in cut.values): cut for cut in found}
    return list(unique.values())


@dataclass(frozen=True)
class _Pair:
    """What one model could take from another: sites at a cut, by what explains its values."""

    bills: Bills
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
        targets = [self.bills.replaced(name, 1) for name in cut.values]
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
        for sets, window in variants:
            r2 = min(r2 for r2, _ in sets)
            action = self._action(cut, [donors for _, donors in sets], window)
            found[str(action)] = (1 - (1 - r2) * _WINDOW_GAIN if window == 3 else r2, action)
        raw = _raw_r2(samples, [donors[0] for _, donors in single], cut.values)
        if raw >= 0.5:
            action = self._action(cut, [(donors[0],) for _, donors in single], 0)
            found[str(action)] = (raw, action)
        sites = [self._site(cut, action, r2) for r2, action in found.values()]
        return [site for site in sites if site is not None]

    def with_alternatives(self, site: Site, cut: Cut) -> Site:
        """The site, knowing the best ones that the first values of the donor give at its cut."""
        others: dict[str, Site] = {}
        for first in _FIRST_DONORS if site.evidence["r2"] < _SURE_R2 else ():
            best = max(self.sites(cut, first), key=lambda s: s.evidence["r2"], default=None)
            if best is not None and best.action != site.action:
                others[str(best.action)] = best
        return replace(site, alternatives=tuple(others.values()))

    def _action(self, cut: Cut, sets: Sequence[tuple[str, ...]], kernel: int) -> SharePrefixAction:
        links = tuple(Link(name, donors) for name, donors in zip(cut.values, sets))
        return SharePrefixAction(self.donor, self.receiver, links, kernel)

    def _site(self, cut: Cut, action: SharePrefixAction, r2: float) -> Site | None:
        """The site with what it saves; None where that is nothing, or its adapter eats it."""
        bill = self.bills.bill((action,))
        if bill is None:
            return None
        saved, adapter = self.base - bill, self.bills.adapters_bill(action)
        if saved.weights_nbytes <= 0 or saved.macs < 0:
            return None
        if action.kernel and (
            adapter.weights_nbytes
            > _ADAPTER_SHARE * (saved.weights_nbytes + adapter.weights_nbytes)
            or adapter.macs > _ADAPTER_SHARE * (saved.macs + adapter.macs)
        ):
            return None
        link = action.links[0]
        ends = (link.donor_values[0], self.bills.replaced(link.receiver_value, 1))
        first, target = (self.samples.rows[name][:_CKA_ROWS] for name in ends)
        # CKA is an annotation: it does not see rotations, which a swap does.
        figures = {"depth": cut.depth, "r2": r2, "cka": debiased_cka(first, target)}
        return Site(action, saved, 1 - r2, figures)


def _raw_r2(samples: Samples, donors: Sequence[str], receivers: Sequence[str]) -> float:
    """The lowest 1 - |donor - receiver|^2 / variance over the links; 0 where shapes differ."""
    lowest = 1.0
    for donor, receiver in zip(donors, receivers):
        if (
            receiver not in samples.rows
            or samples.channels[donor] != samples.channels[receiver]
            or not samples.same_size(donor, receiver)
        ):
            return 0.0
        x, y = samples.rows[donor], samples.rows[receiver]
        total = float(np.square(y - y.mean(axis=0), dtype=np.float64).sum())
        error = float(np.square(x - y, dtype=np.float64).sum())
        lowest = min(lowest, 1 - error / total if total > 0 else 0.0)
    return lowest
