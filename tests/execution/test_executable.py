"""Pieces of a program on ONNX Runtime, and the place where activations wait."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from repsimc.compiler.errors import InternalFault, ModelError
from repsimc.compiler.execution import executable as execution
from repsimc.compiler.execution.executable import Activations, Executable, batches_of
from repsimc.compiler.graph.program import Program
from tests.nets.networks import Net, smooth_images
from tests.programs import assert_close, program_of, run


@pytest.fixture
def program() -> Program:
    net = Net()
    x = net.relu(net.conv("x", 3, 8), out="middle")
    net.head(net.relu(net.conv(x, 8, 8), out="late"), 8, 5)
    return program_of(net.model(x=("N", 3, 8, 8)))


def test_a_segment_computes_what_the_whole_program_does(program: Program) -> None:
    x = smooth_images(5)
    whole = run(program, {"a/x": x})["a/y"]
    start = Executable(program, None, ["a/middle"])
    rest = Executable(program, ["a/middle"], ["a/y", "a/late"])
    assert start.inputs == ("a/x",)
    assert rest.inputs == ("a/middle",)
    (middle,) = start({"a/x": x, "unused": x})
    y, late = rest({"a/middle": middle})
    assert late.shape == (5, 8, 8, 8)
    assert_close(y, whole, rtol=1e-5, atol=1e-6)


def test_big_pieces_reach_the_runtime_through_a_file(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = smooth_images(5)
    inline = Executable(program, ["a/middle"], ["a/late"], threads=1)
    middle = Executable(program, None, ["a/middle"])({"a/x": x})[0]
    monkeypatch.setattr(execution, "_INLINE_NBYTES", 0)
    from_file = Executable(program, ["a/middle"], ["a/late"], threads=1)
    assert from_file.inputs == ("a/middle",)
    np.testing.assert_array_equal(
        from_file({"a/middle": middle})[0], inline({"a/middle": middle})[0]
    )


def test_a_failing_run_names_the_value_and_says_what_to_check(program: Program) -> None:
    segment = Executable(program, None, ["a/late"])
    with pytest.raises(ModelError, match="a/late") as error:
        segment({"a/x": np.zeros((2, 4, 8, 8), np.float32)})
    assert "frames" in error.value.hint


def test_a_piece_that_the_runtime_refuses_names_its_model(program: Program) -> None:
    program.graph.nodes[0].op = "NoSuchOperator"
    said = r"ONNX Runtime cannot run a: .*NoSuchOperator"
    with pytest.raises(InternalFault, match=said) as found:  # models were checked when read
        Executable(program, None, ["a/late"])
    assert found.value.exit_code == 1 and "please report" in found.value.hint


def test_a_full_disk_is_no_refusal_of_the_runtime(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(execution, "to_proto", full)
    with pytest.raises(OSError, match="No space"):
        Executable(program, None, ["a/late"])
        Executable(program, None, ["a/late"])


def test_operators_of_the_models_own_are_no_fault_of_repsimc(program: Program) -> None:
    program.graph.nodes[0].op, program.graph.nodes[0].domain = "Special", "acme"
    with pytest.raises(ModelError, match="ONNX Runtime cannot run a: ") as error:
        Executable(program, None, ["a/late"])
    assert "acme" in error.value.hint


def batches(count: int) -> list[np.ndarray]:
    return [np.full((4, 10), index, np.float32) for index in range(count)]


@pytest.mark.parametrize("limit", [0, 300, 10**6])
def test_activations_come_back_wherever_they_were_kept(limit: int) -> None:
    held = Activations(limit)
    for first, second in zip(batches(5), batches(5)):
        held.append("a", first)
        held.append("b", second + 1)
    assert held.nbytes <= limit
    assert held.names() == ["a", "b"]
    assert len(held.batches("a")) == 5
    for index in range(5):
        np.testing.assert_array_equal(held.batches("a")[index], batches(5)[index])
        np.testing.assert_array_equal(held.batches("b")[index], batches(5)[index] + 1)


def test_activations_beyond_the_limit_leave_memory() -> None:
    held = Activations(400)
    for array in batches(5):
        held.append("a", array)
    assert held.nbytes == 320  # two of 160 bytes; the third would pass the limit
    kinds = [isinstance(array, np.memmap) for array in held.batches("a")]
    assert kinds == [False, False, True, True, True]


def test_dropped_activations_give_their_place_back() -> None:
    held = Activations(400)
    for array in batches(2):
        held.append("a", array)
    held.keep_only(["b"])
    assert "a" not in held and held.nbytes == 0
    held.append("b", batches(1)[0])
    assert "b" in held and not isinstance(held.batches("b")[0], np.memmap)


def test_empty_arrays_need_no_file() -> None:
    held = Activations(0)
    held.append("a", np.zeros((4, 0), np.float32))
    assert held.batches("a")[0].shape == (4, 0)


def test_batches_cover_the_rows_in_order() -> None:
    pieces = list(batches_of(np.arange(10), 4))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(pieces), np.arange(10))
