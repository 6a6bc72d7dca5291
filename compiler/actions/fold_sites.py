"""Sites for folding inside models: what could be folded, pruned, frozen, tied or reused.

Measured statistics rank them; as for sharing, a site is accepted by carrying it out and comparing
outputs on held-out frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..execution.statistics import Statistics, Straightness, smallest_constant
from ..graph.program import Program, node_inputs
from ..graph.weights import nbytes_of, unique_nbytes
from ..structure.channel_groups import ChannelGroup, group_of
from ..structure.channel_removal import in_multiples, saved_nbytes
from ..structure.cost import node_macs
from .fold_actions import (
    FoldAction,
    FoldActivationAction,
    FreezeBranchAction,
    NarrowLayerAction,
    PruneChannelsAction,
    ReuseAttentionAction,
    TieWeightsAction,
)
from .fold_effects import merging_of

# A site that is expected to lose more than this share of a value's variance is not worth measuring.
MOST_DAMAGE = 0.4
# Nor is one weight for layers that lose more than this share of what they make: ties that lost 0.24
# to 0.39 in resnet20 did more damage per byte than its blocks; below 0.03 in a ViT, as little.
MOST_TIE_DAMAGE = 0.15
# Channels whose variance is at most this share of the mean channel's go together: from those that
# never vary to those that a budget has to ask for.
_QUIET = (0.0, 1e-4, 1e-2, 1e-1)
# Channels are left in such multiples where there were some: see in_multiples.
MULTIPLE = 8
# A value that is the same on fewer frames than this is not called constant.
_FEWEST_FRAMES = 16


@dataclass(frozen=True, eq=False)
class FoldSite:
    """A possible action with what it saves (alone, after the exact passes) and what it may cost.

    `damage` is the share of the variance of the rewritten value that is expected to be lost; 0
    where nothing changes on the frames.
    """

    action: FoldAction
    saved_nbytes: int
    saved_macs: int
    damage: float

    @property
    def model(self) -> str:
        """The model that the action rewrites."""
        return self.action.model

    @property
    def look(self) -> object:
        """What has to be measured to judge the site: of one layer's widths one tells the others."""
        if isinstance(self.action, NarrowLayerAction):
            return self.action.model, self.action.value
        return self.action

    @property
    def nodes(self) -> tuple[()]:
        """None: what may stand beside a fold, the bill tells (`Skeleton.bill`)."""
        return ()


@dataclass
class FoldSites:
    """All sites by expected damage, and why other candidates are none ({value: reason})."""

    sites: list[FoldSite] = field(default_factory=list[FoldSite])
    refused: dict[str, str] = field(default_factory=dict[str, str])


def find_fold_sites(
    program: Program,
    statistics: Statistics | None,
    ties: Mapping[tuple[str, ...], float] | None = None,
) -> FoldSites:
    """Sites of all models whose values the statistics hold (None: only ties).

    `ties` gives runs of operators (node names) the R2 that one weight for all of them kept. Sites
    that save neither bytes nor MACs are left out.
    """
    found = FoldSites()
    owners = owners_of(program, list(program.models))
    statistics = statistics or Statistics()
    for value, measured in statistics.activations.items():
        model = owners.get(value)
        if model is not None:
            _fold_site(program, model, measured, found)
    seen: set[str] = set()
    for value in statistics.ranges:
        model = owners.get(value)
        if model is not None and value not in seen:
            seen |= _prune_sites(program, model, value, statistics, found)
    if statistics.frames >= _FEWEST_FRAMES:
        for value, array in statistics.constants.items():
            if value in owners:
                _freeze_site(program, owners[value], value, array, found)
    for (earlier, later), r2 in statistics.attention.items():
        if later in owners:
            action = ReuseAttentionAction(owners[later], earlier, later)
            bill = _without(program, later, keep={earlier})
            found.sites.append(FoldSite(action, *bill, max(0.0, 1 - r2)))
    known = {node.name: node for node in program.graph.nodes}
    for names, r2 in (ties or {}).items():
        nodes = [known[name] for name in names if name in known]
        model = owners.get(nodes[0].outputs[0].name) if len(nodes) == len(names) else None
        if model is not None:
            weights = [node.inputs[1] for node in nodes[1:]]
            saved = sum(
                nbytes_of(w) for w in weights if isinstance(w, gs.Constant) and len(w.outputs) == 1
            )
            action = TieWeightsAction(model, names)
            found.sites.append(FoldSite(action, saved, 0, max(0.0, 1 - r2)))
    found.sites = [
        site
        for site in found.sites
        if site.damage <= (MOST_TIE_DAMAGE if _ties(site) else MOST_DAMAGE)
        and (site.saved_nbytes > 0 or site.saved_macs > 0)
    ]
    found.sites.sort(key=lambda s: (s.damage, -s.saved_nbytes, -s.saved_macs, str(s.action)))
    return found


def _ties(site: FoldSite) -> bool:
    return isinstance(site.action, TieWeightsAction)


def owners_of(program: Program, models: Sequence[str]) -> dict[str, str]:
    """The first of the models that needs each value."""
    owners: dict[str, str] = {}
    for model in models:
        for node in program.nodes_of(model):
            for value in node.outputs:
                owners.setdefault(value.name, model)
    return owners


# -- activations ------------------------------------------------------------------------------


def _fold_site(program: Program, model: str, measured: Straightness, found: FoldSites) -> None:
    activation = measured.activation
    action = FoldActivationAction(model, activation.given, activation.value)
    merging = merging_of(program, activation, measured.slope, measured.offset)
    if isinstance(merging, str):
        found.refused[activation.value] = merging
        return
    saved = merging.nbytes_saved, merging.macs_saved
    found.sites.append(FoldSite(action, *saved, measured.damage))


# -- channels -----------------------------------------------------------------------------------


def _prune_sites(
    program: Program, model: str, value: str, statistics: Statistics, found: FoldSites
) -> set[str]:
    """Sites for the group of the value, from the most certain on; the values of the group."""
    group = group_of(program, value)
    if isinstance(group, str):
        found.refused[value] = group
        return {value}
    earlier = 0
    for quiet in _QUIET:
        channels, damage = _quiet_channels(group, statistics, quiet)
        if len(channels) <= earlier or len(channels) == 0:
            continue
        earlier = len(channels)
        action = PruneChannelsAction(model, value, tuple(int(c) for c in channels))
        saved = saved_nbytes(group, len(channels))
        found.sites.append(FoldSite(action, saved, _pruned_macs(group, len(channels)), damage))
    return set(group.values)


def _quiet_channels(
    group: ChannelGroup, statistics: Statistics, quiet: float
) -> tuple[NDArray[np.int64], float]:
    """Channels that hardly vary before any sink, and the most variance that a sink loses."""
    gone = np.ones(group.channels, dtype=bool)
    for sink in group.sinks:
        known = statistics.ranges.get(sink.value)
        if known is None or len(known.mean) != group.channels * sink.slot.repeat:
            return np.zeros(0, np.int64), 0.0
        still = known.constant()
        if quiet:
            still |= known.variance <= quiet * known.variance.mean()
        gone &= still.reshape(group.channels, -1).all(axis=1)
    channels = np.flatnonzero(gone).astype(np.int64)
    if len(channels) == group.channels:
        channels = channels[1:]
    channels = _quietest(group, statistics, channels)
    damage = 0.0
    for sink in group.sinks:
        variance = statistics.ranges[sink.value].variance.reshape(group.channels, -1)
        total = float(variance.sum())
        lost = float(variance[channels].sum()) / total if total > 0 else 0.0
        damage = max(damage, lost if quiet else 0.0)
    return channels, damage


def _quietest(
    group: ChannelGroup, statistics: Statistics, channels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """As many of the channels as may go, those of least variance, in order."""
    loudness = np.zeros(group.channels)
    for sink in group.sinks:
        variance = statistics.ranges[sink.value].variance.reshape(group.channels, -1).sum(axis=1)
        loudness = np.maximum(loudness, variance / max(float(variance.mean()), 1e-300))
    ordered = channels[np.argsort(loudness[channels], kind="stable")]
    return np.sort(in_multiples(ordered, group.channels, MULTIPLE))


def _pruned_macs(group: ChannelGroup, removed: int) -> int:
    """MACs per frame of the rows and columns that go."""
    nodes = {id(slot.node): slot.node for slot in group.slots}
    nodes |= {id(sink.slot.node): sink.slot.node for sink in group.sinks}
    return sum(node_macs(node) * removed // group.channels for node in nodes.values())


# -- branches -----------------------------------------------------------------------------------


def _freeze_site(
    program: Program, model: str, value: str, array: NDArray[Any], found: FoldSites
) -> None:
    saved_nbytes, saved_macs = _without(program, value)
    cost = smallest_constant(array).nbytes
    found.sites.append(
        FoldSite(FreezeBranchAction(model, value), saved_nbytes - cost, saved_macs, 0.0)
    )


def _without(program: Program, value: str, keep: Sequence[str] | set[str] = ()) -> tuple[int, int]:
    """Weight bytes and MACs of what only `value` needs."""
    outputs = list(program.graph.outputs)
    before = program.needed_nodes(outputs)
    # What is still needed when nobody reads the value: the walk stops there.
    after = program.needed_nodes(outputs, stop=[value])
    if keep:
        known = program.values()
        more = program.needed_nodes([known[name] for name in keep])
        inside = {id(node) for node in (*after, *more)}
        after = [node for node in before if id(node) in inside]
    macs = sum(map(node_macs, before)) - sum(map(node_macs, after))
    return unique_nbytes(_weights(before)) - unique_nbytes(_weights(after)), macs


def _weights(nodes: Sequence[gs.Node]) -> list[gs.Constant]:
    found = {id(t): t for n in nodes for t in node_inputs(n) if isinstance(t, gs.Constant)}
    return list(found.values())
