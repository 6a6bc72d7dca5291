"""What a compilation of the six blocks could have learned."""

from __future__ import annotations

from dataclasses import replace

from repsimc.compiler.fitting.effort import GLANCE
from repsimc.compiler.planning.known import Known, KnownCandidate, Measured
from tests.nets.six_blocks import REGIONS, bench, taken_out


def known() -> Known:
    """Three candidates, the first with an alternative, and one trial of two actions."""
    source = bench()
    (output,) = source.compare(source.program, GLANCE)
    first, second, third, *_ = REGIONS
    sites = (
        replace(first, evidence={"influence": 0.25}, look=("a", "b"), alternatives=(second,)),
        replace(second, damage=0.125, probed=True),
        third,
    )
    errors = [{(output.model, output.output): 0.01 * index} for index in range(3)]
    return Known(
        tuple(KnownCandidate(site, error) for site, error in zip(sites, errors)),
        {"collapse": 0.75},
        {Measured(frozenset(taken_out(2, 4)), GLANCE): (replace(output, value=0.9, lower=0.8),)},
    )
