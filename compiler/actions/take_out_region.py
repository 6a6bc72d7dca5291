"""Take a region out of a model: it becomes nothing, or one affine map (LaCoOT, ReplaceMe)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...passes.base import Pass
from ...passes.collapse import Collapse
from ..errors import ModelError
from ..execution.samples import SampleObserver
from ..fitting.affine_ranking import AffineRanking
from ..fitting.reference import Reference
from ..graph.adapters import adapter_name
from ..graph.layout import Layout, layout_of
from ..graph.program import Program, own_name
from ..graph.regions import Region, find_regions
from ..structure.cost import node_macs
from .action import Disturbed, Effect, OneModel, Reads, Stage, Swap, check_models
from .evidence import Evidence
from .links import adapter_window, check_link, fault_of
from .site import Site, Sites, values_made

# A map put in place of a region may cost this share of what the region did.
_MAP_SHARE = 0.5
# What an affine map explains wholly still costs a look: 0 would say that nothing is known.
_LEAST_DAMAGE = 1e-4


@dataclass(frozen=True)
class CollapseAction(OneModel):
    """Take a region out of a model: `exit` is made from `entry` instead (program value names).

    `kernel` is 0 for the entry as it is, or the window of an affine map in the region's place. What
    is before and after is refitted. LaCoOT, arXiv 2406.08933; ReplaceMe, arXiv 2505.02819.
    """

    kind: ClassVar[str] = "collapse"
    stage: ClassVar[Stage] = Stage.REGIONS
    counted: ClassVar[tuple[str, str]] = ("region out", "regions out")
    read: ClassVar[Reads] = {"kernel": adapter_window}

    entry: str
    exit: str
    kernel: int = 0

    @property
    def place(self) -> str:
        """The model, and the two ends of the region."""
        return f"{self.model}: {own_name(self.entry)} .. {own_name(self.exit)}"

    def __str__(self) -> str:
        instead = f", a {self.kernel}x{self.kernel} map instead" if self.kernel else ""
        return f"{self.model} goes without {own_name(self.entry)} .. {own_name(self.exit)}{instead}"

    def check(self, program: Program) -> None:
        """Refuse what is no region. Raises ModelError."""
        self._region(program)
        check_models(self.models, program)
        check_link(program, self.exit, (self.entry,), self.kernel)

    def effect(self, program: Program) -> Effect | str:
        """What read the exit reads the entry instead."""
        return Effect(swaps=(Swap(self.exit, (self.entry,), self.kernel),), claims=True)

    def takes_out(self, program: Program) -> frozenset[str]:
        """What the region's nodes make, but for its exit."""
        return values_made(program, self._region(program).nodes) - {self.exit}

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The collapse."""
        return [Collapse(self.entry, self.exit, self.kernel)]

    def disturbed(self, program: Program) -> Disturbed:
        """What follows the gap; a refit fits what is before it, too."""
        return Disturbed((adapter_name(self.exit),))

    def _region(self, program: Program) -> Region:
        for region in find_regions(program).found:
            if (region.entry, region.exit) == (self.entry, self.exit):
                return region
        raise ModelError(
            f"the plan takes out {self.entry} .. {self.exit}, which is no region",
            "`repsimc depth MODEL` lists the regions of a model",
        )


def request(evidence: Evidence, group: tuple[str, ...]) -> None:
    """Have the ends of the regions sampled."""
    evidence.request(group, CollapseAction.kind, lambda: _samples(evidence, group))


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """The outermost regions of a group's models that can go, in order of their exits.

    A region of equal shape at both ends becomes nothing (kernel 0); one that changes the shape
    becomes one affine map, 3x3 for maps and 1x1 for tokens. The damage is what an affine map of the
    entry does not explain of the exit: it ranks, since the layers around the gap take over more.
    """
    program, bills = evidence.program, evidence.bills
    base = bills.bill(())
    assert base is not None
    regions = find_regions(program)
    sites = Sites(refused={f"{one.entry} .. {one.exit}": one.reason for one in regions.refused})
    unexplained = _Unexplained(evidence, group)
    for region in _outermost(regions.found):
        if region.model not in group:
            continue
        action = CollapseAction(region.model, region.entry, region.exit, _kernel(program, region))
        if fault_of(program, region.exit, (region.entry,), action.kernel):
            continue
        if action.kernel:
            did = sum(node_macs(program.node(name)) for name in region.nodes)
            if bills.adapters_bill(action).macs > _MAP_SHARE * did:
                continue
        bill = bills.bill((action,))
        if bill is not None:
            damage = unexplained(region)
            sites.found.append(Site(action, base - bill, damage, nodes=region.nodes))
    return sites


class _Unexplained:
    """What affine maps of regions' entries leave of the variance of their exits."""

    def __init__(self, evidence: Evidence, group: tuple[str, ...]) -> None:
        seen = evidence.seen(group, CollapseAction.kind, lambda: _samples(evidence, group))
        self._samples = seen.samples
        self._ranking = AffineRanking(seen.samples, list(seen.samples.rows))

    def __call__(self, region: Region) -> float:
        """The share; 0 where it cannot be told."""
        if not {region.entry, region.exit} <= self._samples.rows.keys():
            return 0.0
        best = self._ranking.best(region.exit, among=[region.entry])
        return max(1.0 - best[0][0], _LEAST_DAMAGE) if best else 0.0


def _samples(evidence: Evidence, group: tuple[str, ...]) -> SampleObserver:
    found = [one for one in _outermost(find_regions(evidence.program).found) if one.model in group]
    ends = [value for region in found for value in (region.entry, region.exit)]
    return SampleObserver(evidence.program, ends, evidence.seed)


def _kernel(program: Program, region: Region) -> int:
    if region.same_shape:
        return 0
    value = program.values()[region.exit]
    maps = layout_of(value) is Layout.CHANNELS_FIRST
    return 3 if maps and len(value.shape) == 4 else 1


def _outermost(regions: Sequence[Region]) -> list[Region]:
    """Regions that go as one: residual blocks rather than their branches."""
    whole = [region for region in regions if region.whole]
    sets = [(frozenset(region.nodes), region) for region in whole]
    blocks = [nodes for nodes, region in sets if region.skipped]
    return [region for nodes, region in sets if not any(nodes < block for block in blocks)]
