"""Values on grids: what the pass puts in, what it leaves, and that integer kernels take it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.fitting.operators import linear_operator
from repsimc.compiler.fitting.ranges import grid_of, rounded
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.eight_bits import (
    after_rounding,
    before_rounding,
    values_in_eight_bits,
)
from repsimc.compiler.graph.export import write_model
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import verify
from repsimc.passes.compute_in_eight_bits import ComputeInEightBits
from repsimc.passes.store_in_few_bits import StoreInFewBits
from tests.nets.networks import ArrayFrames, smooth_images
from tests.nets.residual import residual_net
from tests.programs import program_of

RANGES = {
    "a/x": (-5.0, 5.0),
    "a/stem": (0.0, 6.0),
    "a/b0_h": (0.0, 6.0),
    "a/b0_d": (-5.0, 5.0),
    "a/b0": (0.0, 7.0),
}


def computed(signed: bool = False, stored: bool = True) -> tuple[Program, Program]:
    """A residual block in 8 bits, and as it was."""
    program = program_of(residual_net(1))
    original = program.copy()
    ComputeInEightBits(tuple(RANGES.items()), signed).run(program)
    verify(program)
    if stored:
        names = [n.name for n in program.graph.nodes if linear_operator(n) and n.op == "Conv"]
        reference = Reference(original, ArrayFrames({"a/x": smooth_images(192)}))
        StoreInFewBits(tuple((name, 8) for name in names), reference).run(program)
        verify(program)
    return program, original


def outputs(program: Program, x: np.ndarray) -> np.ndarray:
    return Executable(program, None, ["a/y"])({"a/x": x})[0]


def kernels(program: Program, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of the written file."""
    from repsimc.compiler.frontends.opset import raise_opset

    raise_opset(program, 17, "the net")
    (path, *_) = write_model(program, folder)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / "optimised.onnx").graph
    return Counter(node.op_type for node in graph.node)


def test_every_convolution_and_sum_between_rounded_values_gets_an_integer_kernel(
    tmp_path: Path,
) -> None:
    program, _ = computed()
    found = kernels(program, tmp_path)
    assert found["QLinearConv"] == 3 and found["QLinearAdd"] == 1
    assert not found["Conv"] and not found["Relu"]


def test_outputs_are_close_and_weights_make_up_for_the_rounding() -> None:
    x = smooth_images(64, seed=3)
    for signed in (False, True):
        program, original = computed(signed)
        made, wanted = outputs(program, x), outputs(original, x)
        lost = np.square(made - wanted).sum() / np.square(wanted - wanted.mean(0)).sum()
        assert 0 < lost < 0.01


def test_what_is_measured_is_what_the_file_computes(tmp_path: Path) -> None:
    program, _ = computed()
    x = smooth_images(16, seed=4)
    (path, *_) = write_model(program, tmp_path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (plain,) = session.run(["a/y"], {"a/x": x})
    np.testing.assert_allclose(outputs(program, x), plain, rtol=1e-5, atol=1e-5)


def test_pieces_of_a_walk_run_in_float_on_rounded_values() -> None:
    """ONNX Runtime would round float weights between two values in 8 bits by itself."""
    program, _ = computed(stored=False)
    x = smooth_images(8, seed=5)
    (made,) = Executable(program, ["a/x"], ["a/stem"])({"a/x": x})
    plain = program_of(residual_net(1))
    (wanted,) = Executable(plain, None, ["a/stem"])(
        {"a/x": rounded(x, grid_of(RANGES["a/x"], False))}
    )
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("signed", [False, True])
def test_all_readers_read_one_pair(signed: bool) -> None:
    program, _ = computed(signed)
    assert values_in_eight_bits(program) == dict.fromkeys(RANGES, signed)
    values = program.values()
    for name in RANGES:
        assert [node.op for node in values[name].outputs] == ["QuantizeLinear"]
        form = after_rounding(program, values[name])
        assert form is not values[name] and before_rounding(program, form) is values[name]
    assert before_rounding(program, values["a/y"]) is values["a/y"]


def test_outputs_keep_their_float_values() -> None:
    program = program_of(residual_net(1))
    before = text(program)
    assert ComputeInEightBits((("a/y", (-9.0, 9.0)),), False).run(program) == []
    assert text(program) == before


def test_what_is_gone_or_rounded_is_left_alone() -> None:
    program, _ = computed(stored=False)
    before = text(program)
    again = ComputeInEightBits((("a/none", (-1.0, 1.0)), ("a/stem", (0.0, 1.0))), True)
    assert again.run(program) == [] and text(program) == before
