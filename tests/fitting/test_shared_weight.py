"""One weight for several layers: which runs of them it serves, and how well."""

from __future__ import annotations

import numpy as np

from repsimc.compiler.execution.observing import observe
from repsimc.compiler.fitting.shared_weight import TieObserver
from repsimc.compiler.graph.program import Program
from tests.nets.foldable import (
    images,
    twins,
)
from tests.nets.networks import (
    ArrayFrames,
    Net,
)
from tests.programs import program_of


def ties_of(program: Program, frames: ArrayFrames) -> dict[tuple[str, ...], float]:
    observer = TieObserver(program, ["a"], frames.count)
    observe(program, lambda limit: frames, [observer])
    return observer.found


def test_layers_that_are_alike_are_found() -> None:
    for apart, alike in ((0.1, True), (3.0, False)):
        program = program_of(twins(apart))
        frames = images()
        ties = ties_of(program, frames)
        assert list(ties) == [("a/n_t0", "a/n_t1")]
        assert ties["a/n_t0", "a/n_t1"] > 0.95 if alike else ties["a/n_t0", "a/n_t1"] < 0.6


def test_wide_layers_are_judged_too() -> None:
    net = Net(8)
    weight = net.normal(600, 600, scale=0.04)
    x = net.node("Tanh", net.gemm("x", 10, 600))
    for block in range(2):
        x = net.node("Tanh", net.node("Gemm", x, net.weight(weight), out=f"g{block}"))
    net.gemm(x, 600, 5, out="y")
    program = program_of(net.model(x=("N", 10)))
    frames = ArrayFrames({"a/x": net.normal(300, 10).astype(np.float32)})
    ties = ties_of(program, frames)
    assert ties["a/n_g0", "a/n_g1"] > 0.999
