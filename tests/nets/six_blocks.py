"""Six residual blocks, the regions that can go, and a workbench to try it."""

from __future__ import annotations

from pathlib import Path

from repsimc.compiler.actions import take_out_region
from repsimc.compiler.actions.bill import Bills
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.case import Case, frames_of
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.descent import regions_beside
from repsimc.compiler.planning.workbench import Workbench
from repsimc.compiler.progress import NoProgress
from tests.nets.evidence import GivenEvidence
from tests.nets.networks import (
    ArrayFrames,
)
from tests.nets.residual import (
    images,
    residual_net,
)
from tests.programs import AsRead, program_of

PROGRAM = program_of(residual_net(6, scale=0.4))
SKELETON = Bills(PROGRAM)
EVIDENCE = GivenEvidence(PROGRAM, ArrayFrames({"a/x": images(8)}))
REGIONS = regions_beside(take_out_region.find(EVIDENCE, ("a",)).found, SKELETON, ())


def bench() -> Workbench:
    """A workbench for the program that nothing was asked of yet."""
    options = CompileOptions(models=(("a", Path("a.onnx")),), calibration=images(200))
    frames = frames_of(options, [PROGRAM])
    case = Case(options, (PROGRAM,), PROGRAM, PROGRAM, frames, given=AsRead(PROGRAM))
    return Workbench(case, NoProgress())


def taken_out(*indices: int) -> tuple[CollapseAction, ...]:
    """The actions that take these regions out."""
    return tuple(REGIONS[index].action for index in indices)
