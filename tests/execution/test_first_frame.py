"""A model that takes too much on one frame is told so before all frames run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repsimc.compiler.errors import ModelError
from repsimc.compiler.execution.feeds import input_specs
from repsimc.compiler.execution.first_frame import run_first_frame
from repsimc.compiler.frames.calibration import FrameOptions, Frames, load_frames
from repsimc.compiler.graph.program import Program
from repsimc.compiler.isolation.allowance import ParseLimits
from tests.nets.costly import WIDENS
from tests.programs import program_of

PLAIN = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }"""
FIXED = PLAIN.replace("N,2", "4,2")


def frames_for(program: Program, count: int = 20) -> Frames:
    arrays = {"x": np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)}
    return load_frames(arrays, {"a": input_specs(program)}, FrameOptions())


def test_what_widens_its_input_without_end_is_refused() -> None:
    program = program_of(WIDENS)
    with pytest.raises(ModelError) as caught:
        run_first_frame([program], frames_for(program), ParseLimits(memory_nbytes=64 << 20))
    assert caught.value.message == (
        "running model 'a' (a.onnx) on its first frame takes more than 64 MiB of memory"
    )


@pytest.mark.parametrize("text", [PLAIN, FIXED])
def test_a_usual_model_passes(text: str) -> None:
    program = program_of(text)
    run_first_frame([program], frames_for(program))


def test_what_is_merely_refused_is_told_by_what_needs_it(tmp_path: Path) -> None:
    program = program_of(PLAIN)
    program.graph.nodes[0].op = "NoSuchOperator"
    run_first_frame([program], frames_for(program))
