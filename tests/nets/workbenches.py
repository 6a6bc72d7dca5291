"""Workbenches for programs that were never files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repsimc.compiler.case import Case, frames_of
from repsimc.compiler.graph.program import Program
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.deadline import Deadline
from repsimc.compiler.planning.workbench import Workbench
from repsimc.compiler.progress import NoProgress
from tests.nets.networks import Array
from tests.programs import AsRead


def workbench(
    program: Program, frames: Array, deadline: Deadline | None = None, **wishes: Any
) -> Workbench:
    """A workbench that nothing was asked of yet, for a program of one model as it is.

    `frames` are those of its one input, `wishes` options of the compilation.
    """
    models = tuple((name, Path(f"{name}.onnx")) for name in program.models)
    options = CompileOptions(models=models, calibration=frames, **wishes)
    given = AsRead(program)
    case = Case(options, (program,), program, program, frames_of(options, [program]), given=given)
    return Workbench(case, NoProgress(), deadline)
