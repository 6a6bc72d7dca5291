"""Evidence: measured once, and kept by all that decides it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repsimc.compiler.actions.evidence import Evidence
from repsimc.compiler.case import Case, frames_of
from repsimc.compiler.fitting.effort import CURVE, GLANCE, TRIAL, Effort
from repsimc.compiler.options import CompileOptions
from tests.nets.residual import (
    images,
    residual_net,
)
from tests.programs import AsRead, program_of


@pytest.mark.parametrize("effort", [CURVE, TRIAL, GLANCE])
def test_fits_see_as_many_frames_as_their_effort_says(effort: Effort) -> None:
    assert effort.frames is not None
    few = replace(effort, frames=effort.frames // 8)
    options = CompileOptions(models=(("a", Path("a.onnx")),), calibration=images(200))
    program = program_of(residual_net(2))
    frames = frames_of(options, [program])
    case = Case(options, (program,), program, program, frames, given=AsRead(program))
    evidence = Evidence(case)
    reference = evidence.reference("a", few)
    assert reference.frames.count == few.frames
    assert reference.size == effort.size
    # Kept by what decides it, and by nothing else.
    assert evidence.reference("a", replace(few, judged=7)) is reference
    assert evidence.reference("a", effort) is not reference
