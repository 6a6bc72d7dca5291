"""The sites that the planner would try between models, as pairs of their layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ...passes.pipeline import run_exact
from ..actions.bill import Skeleton
from ..actions.sites import donor_values, find_sites, receiver_cuts
from ..execution.feeds import StreamFeeds
from ..execution.samples import sample_values
from ..frames.calibration import Frames
from ..frontends.join import join
from ..graph.program import Program, own_name

# (donor, receiver): (donor's layer, receiver's layer, R2 of the affine map)
Marks = dict[tuple[str, str], list[tuple[str, str, float]]]

# As many as the planner ranks on.
_FRAMES = 512


def site_marks(
    programs: Mapping[str, Program],
    frames: Frames,
    rows: Mapping[str, NDArray[np.int64]],
    seed: int,
) -> Marks:
    """The ladders of `find_sites` for these models after the exact passes, by layer names.

    One more pass over at most 512 frames: the planner looks at values before activations, and at
    programs in which equal weights are one.
    """
    program = join(list(programs.values()), frames.tied_groups())
    run_exact(program)
    skeleton = Skeleton(program)
    after = {skeleton.replaced(name, 1): name for name in program.values()}
    found: Marks = {}
    for stream in frames.streams:
        if len(stream) < 2:
            continue
        names: list[str] = []
        for model in stream:
            names += donor_values(program, model)
            for cut in receiver_cuts(program, model):
                names += [*cut.values, *(skeleton.replaced(value, 1) for value in cut.values)]
        feeds = StreamFeeds(program, frames, tuple(stream), _some(frames, stream, rows))
        samples = sample_values(program, list(dict.fromkeys(names)), feeds, seed)
        with threadpool_limits(1, user_api="blas"):
            sites = find_sites(program, samples, dict.fromkeys(stream, stream), skeleton)
        for ladder in sites.ladders.values():
            for site in ladder:
                pair = found.setdefault((site.action.donor, site.receiver), [])
                for link in site.action.links:
                    taken = own_name(after.get(link.receiver_value, link.receiver_value))
                    for value in link.donor_values:
                        pair.append((own_name(after.get(value, value)), taken, site.r2))
    return found


def _some(
    frames: Frames, stream: tuple[str, ...], rows: Mapping[str, NDArray[np.int64]]
) -> NDArray[np.int64]:
    feeds = [frames.batch(model) or 1 for model in stream]
    unit = int(np.lcm.reduce(feeds))
    return rows[stream[0]][: max(_FRAMES // unit, 1) * unit]
