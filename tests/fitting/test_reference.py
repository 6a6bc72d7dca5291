"""Rows of the original: as many as asked for, at the same places, computed once."""

from __future__ import annotations

import numpy as np

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.feeds import fit_feeds, input_specs
from repsimc.compiler.fitting.operators import linear_operator
from repsimc.compiler.fitting.reconstruction import Target, reconstruct
from repsimc.compiler.fitting.reference import MIN_ROWS, ROWS_NBYTES, FitSize, Reference, row_count
from repsimc.compiler.frames.calibration import load_frames
from tests.nets.networks import Net, smooth_images
from tests.nets.two_blocks import frames, residual
from tests.programs import program_of


def test_reference_rows_are_the_values_at_its_positions() -> None:
    program, given = residual(), frames()
    reference = Reference(program, given, seed=3)
    reference.collect({"a/p5": (200, False), "a/y": (40, True)})
    positions = reference.positions("a/p5", slice(0, 40))
    assert positions.shape == (40, 5)
    full = Executable(program, None, ["a/p5"])({"a/x": given.arrays["a/x"]})[0]
    flat = full.reshape(40, 6, 64).transpose(0, 2, 1)
    wanted = np.stack([flat[frame, places] for frame, places in enumerate(positions)])
    np.testing.assert_allclose(reference.rows("a/p5"), wanted.reshape(200, 6), atol=1e-5)
    assert reference.positions("a/y", slice(0, 40)).shape == (40, 1)


def test_reference_runs_the_original_again_only_for_what_is_missing() -> None:
    given = frames()
    reference = Reference(residual(), given)
    reference.collect({"a/p5": (200, False)})
    rows = reference.rows("a/p5")
    reference.collect({"a/p5": (200, False)})
    assert len(given.walks) == 1
    reference.collect({"a/p5": (300, False), "a/q5": (300, False)})
    assert len(given.walks) == 2
    assert len(reference.rows("a/p5")) == len(reference.rows("a/q5")) == 320
    # What was asked for in between leaves no trace.
    reference.collect({"a/p5": (200, False)})
    np.testing.assert_array_equal(reference.rows("a/p5"), rows)
    assert len(reference.rows("a/q5")) == 320


def test_row_counts_follow_the_unknowns_within_bounds() -> None:
    net = Net()
    x = net.conv("x", 3, 6, out="small")
    x = net.conv(x, 6, 32, group=2, out="grouped")
    net.conv(x, 32, 4, out="y")
    program = program_of(net.model(x=("N", 3, 8, 8)))
    small, grouped, last = (
        operator
        for name in ("small", "grouped", "y")
        if (operator := linear_operator(program.node(f"a/n_{name}")))
    )
    assert row_count(small, FitSize(10)) == MIN_ROWS
    assert row_count(grouped, FitSize(1000)) == 1000 * (3 * 9 + 1)
    assert row_count(last, FitSize(500)) == 500 * (32 * 9 + 1)
    assert row_count(last, FitSize(10**6)) == ROWS_NBYTES // (4 * (32 * 9 + 4))


def test_rows_of_frames_of_several_sizes() -> None:
    net = Net()
    net.node("Relu", net.conv("x", 3, 4, out="c"), out="y")
    program = program_of(net.model(x=("N", 3, "H", "W")))
    pieces = [smooth_images(40, size=8), smooth_images(30, size=12), smooth_images(20, size=2)]
    specs = {"a": input_specs(program)}
    feeds = fit_feeds(program, load_frames(pieces, specs), "a")
    reference = Reference(program, feeds, seed=3)
    reference.collect({"a/c": (4096, False)})
    assert reference.has("a/c")
    parts, start = [], 0
    for count, batch in zip(feeds.counts, feeds.batches(["a/x"])):
        positions = reference.positions("a/c", slice(start, start + count))
        (c,) = Executable(program, None, ["a/c"])(batch)
        flat = c.reshape(count, 4, -1).transpose(0, 2, 1)
        parts += [flat[frame, places] for frame, places in enumerate(positions)]
        start += count
    np.testing.assert_allclose(reference.rows("a/c"), np.concatenate(parts), atol=1e-5)
    # A fit on them finds the operator's own weights again.
    operator = linear_operator(program.values()["a/c"].inputs[0])
    assert operator is not None
    wanted = operator.affine().weight.copy()
    operator.weight.values = np.zeros_like(operator.weight.values)
    original = program_of(net.model(x=("N", 3, "H", "W")))
    fresh = Reference(original, feeds, seed=3)
    reconstruct(program, [(operator, Target("a/c"))], fresh, ["a/y"])
    fitted = linear_operator(operator.node)
    assert fitted is not None
    np.testing.assert_allclose(fitted.affine().weight, wanted, atol=0.02)  # the ridge
