"""What the tests of the folding passes have in common: a pass is run, and held to its promises."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx

from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import verify
from repsimc.passes.base import Pass
from repsimc.passes.normalise import Normalise
from repsimc.passes.pipeline import run_passes
from tests.nets.networks import Array
from tests.programs import assert_close, feeds_for, program_of, run


def floats(*shape: int, seed: int = 0) -> Array:
    """Normally distributed float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ops(program: Program) -> list[str]:
    """The operators, in order."""
    return [node.op for node in program.graph.nodes]


def changed(
    step: Pass,
    model: onnx.ModelProto | str,
    sizes: Mapping[str, int] | None = None,
    tolerance: float = 1e-5,
) -> Program:
    """The program after the pass: verified, idempotent, honest, and (nearly) the same outputs.

    An output may move by `tolerance` of the largest number in it.
    """
    program = program_of(model)
    before = program.copy()
    changes = run_passes(program, [step])
    verify(program)
    assert bool(changes) == (text(program) != text(before))
    assert run_passes(program, [step]) == []
    proto = onnx.parser.parse_model(model) if isinstance(model, str) else model
    feeds = {f"a/{name}": array for name, array in feeds_for(proto, 1, sizes).items()}
    same_outputs(program, before, feeds, tolerance)
    return program


def same_outputs(
    program: Program, before: Program, feeds: Mapping[str, Array], tolerance: float = 1e-5
) -> None:
    """Fails unless every output is within `tolerance` of its largest number (at least 1)."""
    expected, actual = run(before, feeds), run(program, feeds)
    assert expected.keys() == actual.keys()
    for name, array in expected.items():
        scale = max(1.0, float(np.abs(array).max(initial=0)))
        assert_close(actual[name], array, rtol=0, atol=tolerance * scale)


def unchanged(step: Pass, model: onnx.ModelProto | str) -> None:
    """Fails if the pass does anything."""
    program = program_of(model)
    before = text(program)
    assert step.run(program) == []
    assert text(program) == before


def normalised(
    model: str | onnx.ModelProto,
    feeds: Mapping[str, Array] | None = None,
    steps: Normalise | None = None,
) -> Program:
    """The normalised program, checked: same outputs, honest report, nothing left to do."""
    steps = steps or Normalise()
    program = program_of(model)
    before = program.copy()
    changes = steps.run(program)
    verify(program)
    assert bool(changes) == (text(program) != text(before))
    again = text(program)
    assert steps.run(program) == [] and text(program) == again
    if feeds is not None:
        feeds = {f"a/{name}": array for name, array in feeds.items()}
        expected, actual = run(before, feeds), run(program, feeds)
        assert expected.keys() == actual.keys()
        for name, array in expected.items():
            assert_close(actual[name], array, rtol=1e-5, atol=1e-5)
    return program


def numbered(*texts: str) -> list[str]:
    """The texts with weights' digests as '#1', '#2' ... by where they first come up.

    Which weights are equal can be seen, their bytes cannot: those of a fit depend on the processor.
    """
    known: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        return known.setdefault(found[0], f"#{len(known) + 1}")

    return [re.sub(r"#[0-9a-f]{8}\b", number, text) for text in texts]
