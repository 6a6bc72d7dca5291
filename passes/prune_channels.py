"""Prune channels that hardly change on the frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compiler.execution.statistics import measure_ranges
from ..compiler.fitting.reference import Reference
from ..compiler.graph.program import Program, own_name
from ..compiler.structure.channel_groups import group_of
from ..compiler.structure.channel_removal import bias_slot, saved_nbytes
from .base import Change
from .pruning import take_out


@dataclass(frozen=True)
class PruneChannels:
    """The plan's channels go, with what makes and reads them; their means go into the biases.

    Exact where a channel is constant on whatever the model will be fed and no reader pads;
    measured in any case.
    """

    name: ClassVar[str] = "prune-channels"
    exact: ClassVar[bool] = False

    value: str
    channels: tuple[int, ...]
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """One change; none where the channels cannot be taken apart (any more)."""
        original = self.reference.program.values()
        if self.value not in original:
            return []
        planned = group_of(self.reference.program, self.value)
        if isinstance(planned, str):
            return []
        # Where the value itself is gone others that share its channels may be left.
        values = program.values()
        left = [name for name in (self.value, *planned.values) if name in values]
        group = group_of(program, left[0]) if left else "gone"
        if isinstance(group, str) or group.channels != planned.channels:
            return []
        # A region that became nothing makes one of values whose channels mean different things.
        if any(name in original and name not in planned.values for name in group.values):
            return []
        if max(self.channels) >= group.channels:
            return []
        removed = np.array(sorted(set(self.channels)), np.int64)
        removed = removed[1:] if len(removed) == group.channels else removed
        if not len(removed):
            return []
        axes = {sink.value: group.values[sink.value].axis for sink in group.sinks}
        ranges = measure_ranges(program, axes, self.reference.frames)
        constants = {
            sink.value: ranges[sink.value].mean.astype(np.float64)
            for sink in group.sinks
            if sink.value in ranges
            and (sink.slot.node.op != "MatMul" or bias_slot(sink.slot.node) is not None)
        }
        saved = saved_nbytes(group, len(removed))
        take_out(program.names(), group, removed, constants)
        what = f"{len(removed)} of {group.channels} channels of '{own_name(left[0])}' are gone"
        return [Change(what, values[left[0]].inputs[0].name, saved)]
