"""The sites that the planner would try between models, as pairs of their layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...passes.pipeline import run_exact
from ..actions.bill import Bills
from ..actions.share_prefix import sites_among
from ..actions.shareable import values_to_sample
from ..execution.feeds import StreamFeeds
from ..execution.measured_sizes import bind_to_frames
from ..execution.samples import sample_values
from ..frames.calibration import Frames
from ..frames.tying import tied_groups
from ..frontends.join import join
from ..graph.arrays import Int64
from ..graph.program import Program, own_name

# (donor, receiver): (donor's layer, receiver's layer, R2 of the affine map)
Marks = dict[tuple[str, str], list[tuple[str, str, float]]]

# As many as the planner ranks on.
_FRAMES = 512


def site_marks(
    programs: Mapping[str, Program],
    frames: Frames,
    rows: Mapping[str, Int64],
    seed: int,
) -> Marks:
    """The ladders of `sites_among` for these models after the exact passes, by layer names.

    One more pass over at most 512 frames: the planner looks at values before activations, and at
    programs in which equal weights are one.
    """
    program = join(list(programs.values()), tied_groups(frames))
    bind_to_frames(program, frames)
    run_exact(program)
    bind_to_frames(program, frames)
    bills = Bills(program)
    after = {bills.replaced(name, 1): name for name in program.values()}
    found: Marks = {}
    for stream in frames.streams:
        if len(stream) < 2:
            continue
        wanted = values_to_sample(program, stream, bills)
        feeds = StreamFeeds(program, frames, tuple(stream), _some(frames, stream, rows))
        samples = sample_values(program, wanted, feeds, seed)
        for site in sites_among(program, samples, stream, bills).found:
            action = site.action
            pair = found.setdefault((action.models[0], action.models[-1]), [])
            effect = bills.effect(action)
            for swap in () if isinstance(effect, str) else effect.swaps:
                taken = own_name(after.get(swap.value, swap.value))
                for value in swap.sources:
                    pair.append((own_name(after.get(value, value)), taken, site.evidence["r2"]))
    return found


def _some(frames: Frames, stream: tuple[str, ...], rows: Mapping[str, Int64]) -> Int64:
    feeds = [frames.batch(model) or 1 for model in stream]
    unit = int(np.lcm.reduce(feeds))
    return rows[stream[0]][: max(_FRAMES // unit, 1) * unit]
