"""The walk over the frames that stops, lets weights change, and goes on."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.fitting import walk as walking
from repsimc.compiler.fitting.operators import linear_operator
from repsimc.compiler.fitting.walk import Walk
from repsimc.compiler.graph.program import Program
from tests.nets.networks import Array
from tests.nets.two_blocks import frames, residual
from tests.programs import assert_close, run


class Spy:
    """Segments that note the nodes they run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.inputs: list[list[str]] = []
        monkeypatch.setattr(walking, "Executable", self)

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
