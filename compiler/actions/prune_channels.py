"""Prune channels that hardly change on the frames, with all that makes and reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...passes.base import Pass
from ...passes.prune_channels import PruneChannels
from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..execution.statistics import QUIET, RangeMeasure, Statistics, StatisticsObserver
from ..fitting.reference import Reference
from ..graph.arrays import Int64
from ..graph.free_size import size_of
from ..graph.program import Program, own_name
from ..structure.activation_functions import read_by_operators
from ..structure.channel_groups import ChannelGroup, group_of
from ..structure.channel_removal import in_multiples, saved_nbytes
from ..structure.cost import node_macs
from .action import Disturbed, Effect, OneModel, Reads
from .bill import Bill
from .evidence import STATISTICS_FRAMES, Evidence
from .site import MULTIPLE, Site, Sites, owners_of

# Channels whose variance is at most this share of the mean channel's go together: from those that
# never vary to those that a budget has to ask for.
_QUIET = (0.0, 1e-4, 1e-2, QUIET)


def _channels(reader: Reader) -> tuple[int, ...]:
    found = reader.value
    if not isinstance(found, list) or not found:
        raise ModelError(f"{reader.document}: channels is no list, or an empty one")
    channels = reader.each(Reader.anything)
    if any(isinstance(c, bool) or not isinstance(c, int) or c < 0 for c in channels):
        raise ModelError(f"{reader.document}: channels must be whole numbers from 0")
    return tuple(sorted(set(channels)))


@dataclass(frozen=True)
class PruneChannelsAction(OneModel):
    """Channels of a value go, with what makes and reads them; their means go into biases."""

    kind: ClassVar[str] = "prune-channels"
    takes_channels: ClassVar[bool] = True
    read: ClassVar[Reads] = {"channels": _channels}

    value: str
    channels: tuple[int, ...]

    def __str__(self) -> str:
        count = f"{len(self.channels)} channel{'s' if len(self.channels) > 1 else ''}"
        return f"{self.model} loses {count} of {own_name(self.value)}"

    def check(self, program: Program) -> None:
        """Refuse channels that the value does not have. Raises ModelError."""
        super().check(program)
        shape = program.values()[self.value].shape
        most = max((size_of(size) or 0 for size in shape or ()), default=0)
        if any(channel >= most for channel in self.channels):
            raise ModelError(
                f"the plan prunes channel {max(self.channels)} of {own_name(self.value)!r}, "
                f"which has shape {list(shape or ())}",
                "channels count from 0; let repsimc plan by leaving out --plan",
            )

    def effect(self, program: Program) -> Effect | str:
        """Every operator of the channels' group shrinks."""
        if self.value not in program.values():
            return f"'{own_name(self.value)}' is gone"
        group = group_of(program, self.value)
        if isinstance(group, str):
            return group
        if max(self.channels) >= group.channels:
            return f"'{own_name(self.value)}' has {group.channels} channels"
        gone = min(len(set(self.channels)), group.channels - 1)
        left = 1 - gone / group.channels
        shrunk: dict[str, dict[int, float]] = {}
        for slot in [*group.slots, *(sink.slot for sink in group.sinks)]:
            shrunk.setdefault(slot.node.name, {})[slot.index] = left
        values = frozenset(group.values)
        return Effect(values, shrunk=shrunk, owns=values, touches=frozenset(shrunk))

    def covers(self, other: object) -> bool:
        """Whether it takes all channels of the same value that the other takes."""
        if not isinstance(other, PruneChannelsAction):
            return False
        same = (self.model, self.value) == (other.model, other.value)
        return same and set(self.channels) >= set(other.channels)

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The pruning."""
        return [PruneChannels(self.value, self.channels, reference)]

    def disturbed(self, program: Program) -> Disturbed:
        """All values of the channels' group."""
        known = self.value in program.values()
        group = group_of(program, self.value) if known else ""
        return Disturbed((self.value,) if isinstance(group, str) else tuple(group.values))


def request(evidence: Evidence, group: tuple[str, ...]) -> None:
    """Have the ranges of channels measured that could go."""
    evidence.request(group, PruneChannelsAction.kind, lambda: _Channels(evidence.program, group))


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """Sites for every group of channels, from the most certain on."""
    name, program = PruneChannelsAction.kind, evidence.program
    measured = evidence.seen(group, name, lambda: _Channels(program, group))
    sites = Sites(refused=measured.refused)
    owners = owners_of(program)
    for value, channels in measured.groups.items():
        sites.found += _sites_of(owners[value], value, channels, measured.found)
    return sites


class _Channels(StatisticsObserver):
    """Ranges of what reads the channels of every group of channels that may shrink.

    `groups` goes by the first value of each, `refused` says why others may not.
    """

    def __init__(self, program: Program, models: Sequence[str]) -> None:
        nodes = {id(node): node for model in models for node in program.nodes_of(model)}
        read = dict(read_by_operators(list(nodes.values())))
        owners = owners_of(program)
        self.groups: dict[str, ChannelGroup] = {}
        self.refused: dict[str, str] = {}
        seen: set[str] = set()
        for value in read:
            if value not in owners or value in seen:
                continue
            channels = group_of(program, value)
            if isinstance(channels, str):
                self.refused[value] = channels
                seen.add(value)
                continue
            seen |= set(channels.values)
            self.groups[value] = channels
        fewest = {
            sink.value: _fewest(channels) * sink.slot.repeat
            for channels in self.groups.values()
            for sink in channels.sinks
        }
        measures = [
            RangeMeasure(value, axis, fewest[value])
            for value, axis in read.items()
            if value in fewest
        ]
        super().__init__(measures, STATISTICS_FRAMES)


def _fewest(group: ChannelGroup) -> int:
    """The fewest channels that may go."""
    every = range(1, group.channels + 1)
    may = (n for n in every if len(in_multiples(np.arange(n), group.channels, MULTIPLE)))
    return next(may, group.channels)


def _sites_of(model: str, value: str, group: ChannelGroup, statistics: Statistics) -> list[Site]:
    found: list[Site] = []
    earlier = 0
    for quiet in _QUIET:
        channels, damage = _quiet_channels(group, statistics, quiet)
        if len(channels) <= earlier or len(channels) == 0:
            continue
        earlier = len(channels)
        action = PruneChannelsAction(model, value, tuple(int(c) for c in channels))
        saved = Bill(saved_nbytes(group, len(channels)), _pruned_macs(group, len(channels)))
        found.append(Site(action, saved, damage))
    return found


def _quiet_channels(
    group: ChannelGroup, statistics: Statistics, quiet: float
) -> tuple[Int64, float]:
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


def _quietest(group: ChannelGroup, statistics: Statistics, channels: Int64) -> Int64:
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
