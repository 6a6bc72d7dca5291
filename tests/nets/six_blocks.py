"""Six residual blocks, the regions that can go, and a workbench to try it."""

from __future__ import annotations

from typing import Any

from repsimc.compiler.actions import take_out_region
from repsimc.compiler.actions.bill import Bills
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.planning.deadline import Deadline
from repsimc.compiler.planning.removals import regions_beside
from repsimc.compiler.planning.workbench import Workbench
from tests.nets.evidence import GivenEvidence
from tests.nets.networks import (
    ArrayFrames,
)
from tests.nets.residual import (
    images,
    residual_net,
)
from tests.nets.workbenches import workbench
from tests.programs import program_of

PROGRAM = program_of(residual_net(6, scale=0.4))
SKELETON = Bills(PROGRAM)
EVIDENCE = GivenEvidence(PROGRAM, ArrayFrames({"a/x": images(8)}))
REGIONS = regions_beside(take_out_region.find(EVIDENCE, ("a",)).found, SKELETON, ())


def bench(deadline: Deadline | None = None, **wishes: Any) -> Workbench:
    """A workbench for the program that nothing was asked of yet."""
    return workbench(PROGRAM, images(200), deadline, **wishes)


def taken_out(*indices: int) -> tuple[CollapseAction, ...]:
    """The actions that take these regions out."""
    return tuple(REGIONS[index].action for index in indices)
