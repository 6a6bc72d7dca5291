"""Prune channels that the graph alone proves to be constant, or that nothing reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compiler.graph.arrays import Float64
from ..compiler.graph.layout import ACTIVATIONS
from ..compiler.graph.program import Program, own_name
from ..compiler.structure.bounds import bounds_of
from ..compiler.structure.channel_groups import ChannelGroup, ChannelGroups
from ..compiler.structure.channel_removal import in_multiples, removable, saved_nbytes
from ..compiler.structure.intervals import Bounds
from .base import Change
from .pruning import take_out


@dataclass(frozen=True)
class PruneConstantChannels:
    """Channels without a say go, with the filters that make them and the columns that read them.

    A channel goes where everything that mixes it either has zeros for it or knows its one value
    from weights and activation functions alone (a filter of zeros, a ReLU of what is never
    positive). That value moves into the readers' biases; a reader that pads can only do without
    zeros. At least one channel of every value stays, and a `multiple` where there was one: odd
    numbers of channels run slower than the next multiple.
    """

    name: ClassVar[str] = "prune-constant-channels"
    exact: ClassVar[bool] = True

    multiple: int = 8

    def run(self, program: Program) -> list[Change]:
        """One change for every group of values that became narrower."""
        changes: list[Change] = []
        seen: set[str] = set()
        # Pruning changes no value, only how many channels it has: other groups' bounds still hold.
        bounds = bounds_of(program)
        groups, names = ChannelGroups(program), program.names()
        for name in _starts(program):
            if name in seen:
                continue
            group = groups.of(name)
            if isinstance(group, str):
                continue
            seen.update(group.values)
            constants = _constants(group, bounds)
            removed = removable(group, constants)
            removed = in_multiples(removed, group.channels, self.multiple)
            saved = saved_nbytes(group, len(removed)) if len(removed) else 0
            if saved <= 0:
                continue
            take_out(names, group, removed, constants)
            what = (
                f"{len(removed)} of {group.channels} channels of '{own_name(name)}' never change "
                "or are not read"
            )
            changes.append(Change(what, group.tensors[name].inputs[0].name, saved))
        return changes


def _starts(program: Program) -> list[str]:
    """Values to look at: what operators and activations make, in order."""
    wanted = ACTIVATIONS | {"Conv", "Gemm", "MatMul"}
    return [
        node.outputs[0].name
        for node in program.graph.nodes
        if node.op in wanted and not node.domain and not node.outputs[0].is_empty()
    ]


def _constants(group: ChannelGroup, bounds: dict[str, Bounds]) -> dict[str, Float64]:
    found: dict[str, Float64] = {}
    for sink in group.sinks:
        known = bounds.get(sink.value)
        entries = group.channels * sink.slot.repeat
        if known is not None and known.axis is not None and len(known.low) == entries:
            found[sink.value] = np.where(known.constant(), known.low, np.nan)
    return found
