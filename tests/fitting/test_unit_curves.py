"""What layers lose with fewer units: moments that stream by against the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.observing import observe
from repsimc.compiler.fitting import unit_curves
from repsimc.compiler.fitting.operators import operator_making
from repsimc.compiler.fitting.reference import FitSize
from repsimc.compiler.fitting.regression import Problem
from repsimc.compiler.fitting.unit_choice import eliminate_units
from repsimc.compiler.fitting.unit_curves import NarrowableLayer, UnitCurves, parts_of
from repsimc.compiler.graph.program import Program
from tests.nets.networks import ArrayFrames, Net
from tests.programs import program_of


def layer_and_frames() -> tuple[Program, NarrowableLayer, ArrayFrames]:
    net = Net(3)
    net.gemm(net.node("Tanh", net.gemm("x", 6, 8), out="h"), 8, 4, out="y")
    program = program_of(net.model(x=("N", 6)))
    reader = operator_making(program.values()["a/y"])
    assert reader is not None
    x = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    return program, NarrowableLayer(reader, "a/y", 8, (6, 4, 2)), ArrayFrames({"a/x": x}, batch=64)


def test_curves_are_those_of_the_rows() -> None:
    program, layer, frames = layer_and_frames()
    observer = UnitCurves([layer], 400, FitSize())
    observe(program, lambda limit: frames, [observer])
    found = observer.curves["a/h"]
    h, y = Executable(program, None, ["a/h", "a/y"])(frames.arrays)
    start = layer.reader.affine().weight[0]
    steps = eliminate_units(Problem(h[:, None].copy(), y[:, None]), 8, [6, 4, 2], start)
    power = float(np.square(y - y.mean(axis=0), dtype=np.float64).sum())
    wanted = [(len(kept), risen / power) for kept, risen in steps]
    assert [units for units, _ in found] == [6, 4, 2]
    np.testing.assert_allclose([r for _, r in found], [r for _, r in wanted], rtol=2e-3)
    assert 0 < found[0][1] < found[1][1] < found[2][1] < 1


def test_layers_go_in_parts_whose_matrices_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    _, layer, _ = layer_and_frames()
    assert parts_of([]) == []
    monkeypatch.setattr(unit_curves, "GRAMS_NBYTES", 2 * layer.gram_nbytes)
    assert parts_of([layer] * 5) == [[layer] * 2, [layer] * 2, [layer]]
    monkeypatch.setattr(unit_curves, "GRAMS_NBYTES", 1)  # one is always taken
    assert parts_of([layer] * 2) == [[layer], [layer]]
