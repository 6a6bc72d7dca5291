"""The walk over the frames that stops, lets weights change, and goes on; rows of the original."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.execution.executable import Activations, Executable
from repsimc.compiler.fitting import reference, walk
from repsimc.compiler.fitting.operators import linear_operator
from repsimc.compiler.fitting.reconstruction import Target, downstream, reconstruct
from repsimc.compiler.fitting.reference import MIN_ROWS, ROWS_NBYTES, FitSize, Reference, row_count
from repsimc.compiler.fitting.walk import Walk
from repsimc.compiler.graph.program import Program
from tests.nets.networks import Array, ArrayFrames, Net, smooth_images
from tests.programs import assert_close, program_of, run


def residual() -> Program:
    """conv1 - relu1 - two residual blocks - head; blocks are conv relu conv, plus their input."""
    net = Net()
    x = net.relu(net.conv("x", 3, 6, out="conv1"), out="relu1")
    for block in ("p", "q"):
        inner = net.relu(net.conv(x, 6, 6, out=f"{block}1"), out=f"{block}2")
        x = net.node("Add", net.conv(inner, 6, 6, out=f"{block}3"), x, out=f"{block}4")
        x = net.relu(x, out=f"{block}5")
    net.head(x, 6, 5)
    return program_of(net.model(x=("N", 3, 8, 8)))


def frames(count: int = 40, seed: int = 0, batch: int = 16) -> ArrayFrames:
    return ArrayFrames({"a/x": smooth_images(count, seed=seed)}, batch)


class Spy:
    """Segments that note the nodes they run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.inputs: list[list[str]] = []
        monkeypatch.setattr(walk, "Executable", self)

    def __call__(
        self, program: Program, inputs: list[str] | None, outputs: list[str]
    ) -> Executable:
        values = program.values()
        nodes = program.needed_nodes([values[name] for name in outputs], stop=inputs or ())
        self.ran += [node.name for node in nodes]
        self.inputs.append(list(inputs or ()))
        return Executable(program, inputs, outputs)


STOPS = ["a/relu1", "a/p2", "a/p5", "a/q2", "a/y"]


def test_every_node_runs_once_and_values_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    program, spy, given = residual(), Spy(monkeypatch), frames()
    walk = Walk(program, given, ["a/y"])
    expected = Executable(program, None, STOPS)({"a/x": given.arrays["a/x"]})
    for stop, wanted in zip(STOPS, expected, strict=True):
        seen: list[Array] = []
        starts: list[int] = []

        def visit(
            start: int,
            count: int,
            arrays: dict[str, Array],
            stop: str = stop,
            seen: list[Array] = seen,
            starts: list[int] = starts,
        ) -> None:
            starts.append(start)
            seen.append(arrays[stop])

        walk.advance([stop], visit)
        assert starts == [0, 16, 32]
        assert_close(np.concatenate(seen), wanted, rtol=1e-4, atol=1e-5)
    assert sorted(spy.ran) == sorted(node.name for node in program.graph.nodes)
    # The frames are read once: everything later continues from what is held.
    assert len(given.walks) == 1


def test_only_what_later_nodes_read_is_held() -> None:
    program = residual()
    walk = Walk(program, frames(), ["a/y"])
    held: list[list[str]] = []
    for stop in STOPS:
        walk.advance([stop], lambda start, count, arrays: None)
        held.append(walk._held.names())
    # Inside a block its input waits for the skip connection.
    assert held == [["a/relu1"], ["a/p2", "a/relu1"], ["a/p5"], ["a/p5", "a/q2"], []]


def test_changed_weights_are_seen_by_what_comes_later() -> None:
    program = residual()
    given = frames()
    walk = Walk(program, given, ["a/y"])
    walk.advance(["a/p2"], lambda start, count, arrays: None)
    operator = linear_operator(program.node("a/n_p3"))
    assert operator is not None
    affine = operator.affine()
    operator.write(program, type(affine)(affine.weight * 2, affine.bias))
    seen: list[Array] = []
    walk.advance(["a/y"], lambda start, count, arrays: seen.append(arrays["a/y"]))
    expected = run(program, dict(given.arrays))["a/y"]
    assert_close(np.concatenate(seen), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(run(residual(), dict(given.arrays))["a/y"], expected, atol=1e-2)


def test_a_stop_may_be_an_input_a_held_value_or_both_at_once() -> None:
    program = residual()
    given = frames()
    walk = Walk(program, given, ["a/y"])
    seen: dict[str, list[Array]] = {}

    def visit(start: int, count: int, arrays: dict[str, Array]) -> None:
        for name, array in arrays.items():
            seen.setdefault(name, []).append(array)

    walk.advance(["a/x"], visit)
    walk.advance(["a/p2", "a/relu1"], visit)
    walk.advance(["a/relu1"], visit)  # held for the skip connection
    assert_close(np.concatenate(seen["a/x"]), given.arrays["a/x"])
    assert len(seen["a/relu1"]) == 6
    for first, second in zip(seen["a/relu1"][:3], seen["a/relu1"][3:], strict=True):
        assert_close(first, second)


def reconstructed(program: Program, reference: Reference) -> list[Array]:
    """New weights of the two convolutions of block q after conv1 was halved."""
    conv1 = linear_operator(program.node("a/n_conv1"))
    assert conv1 is not None
    affine = conv1.affine()
    conv1.write(program, type(affine)(affine.weight / 2, affine.bias))
    operators: list[Any] = []
    for name, target in (
        ("q1", Target("a/q1", None, True)),
        ("q3", Target("a/q4", "a/p5", True)),
    ):
        operator = linear_operator(program.node(f"a/n_{name}"))
        assert operator is not None
        operators.append((operator, target))
    reconstruct(program, operators, reference, ["a/y"])
    return [
        found.weight.values
        for name in ("q1", "q3")
        if (found := linear_operator(program.node(f"a/n_{name}")))
    ]


def test_spilling_to_disk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = reconstructed(residual(), Reference(residual(), frames()))
    for module in (reference, walk):
        monkeypatch.setattr(module, "Activations", partial(Activations, 1000))
    on_disk = reconstructed(residual(), Reference(residual(), frames()))
    for first, second in zip(in_memory, on_disk, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_size_of_batches_hardly_matters() -> None:
    few = reconstructed(residual(), Reference(residual(), frames(batch=40)))
    many = reconstructed(residual(), Reference(residual(), frames(batch=7)))
    for first, second in zip(few, many, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-4)


def test_the_skip_path_is_repaired_by_the_operator_before_the_add() -> None:
    # With the sum as target and the damaged addend taken into account, the sum comes out right;
    # with its own output as target the operator would leave the skip path's damage in place.
    original, test = residual(), smooth_images(30, seed=9)
    wanted = Executable(original, None, ["a/q4"])({"a/x": test})[0]

    def error(target: Target) -> float:
        program = residual()
        conv1 = linear_operator(program.node("a/n_conv1"))
        last = linear_operator(program.node("a/n_q3"))
        assert conv1 is not None and last is not None
        affine = conv1.affine()
        conv1.write(program, type(affine)(affine.weight * 0.7, affine.bias))
        reconstruct(program, [(last, target)], Reference(original, frames(200)), ["a/y"])
        found = Executable(program, None, ["a/q4"])({"a/x": test})[0]
        return float(np.mean((found - wanted) ** 2))

    assert error(Target("a/q4", "a/p5")) < 0.4 * error(Target("a/q3"))


# -- rows of the original ------------------------------------------------------------------------


def test_reference_rows_are_the_values_at_its_positions() -> None:
    program, given = residual(), frames()
    reference = Reference(program, given, seed=3)
    reference.collect({"a/p5": (200, False), "a/y": (40, True)})
    positions = reference.positions("a/p5")
    assert positions.shape == (40, 5)
    full = Executable(program, None, ["a/p5"])({"a/x": given.arrays["a/x"]})[0]
    flat = full.reshape(40, 6, 64).transpose(0, 2, 1)
    wanted = np.stack([flat[frame, places] for frame, places in enumerate(positions)])
    np.testing.assert_allclose(reference.rows("a/p5"), wanted.reshape(200, 6), atol=1e-5)
    assert reference.positions("a/y").shape == (40, 1)


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
    assert row_count(last, FitSize(1000)) == 1000 * (32 * 9 + 1)
    assert row_count(last, FitSize(10**6)) == ROWS_NBYTES // (4 * (32 * 9 + 4))


def test_downstream_follows_the_order_of_the_graph() -> None:
    names = [node.name for node in downstream(residual(), ["a/q2"])]
    assert names[:3] == ["a/n_q3", "a/n_q4", "a/n_q5"]
    assert names[-1] == "a/n_y"
    assert downstream(residual(), ["a/y"]) == []
