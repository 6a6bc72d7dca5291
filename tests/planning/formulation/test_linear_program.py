"""Linear programs: nothing that the solver prints is on stdout."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import pytest

from repsimc.compiler.planning.formulation import linear_program
from repsimc.compiler.planning.formulation.linear_program import Ending, LinearProgram


def knapsack() -> tuple[LinearProgram, dict[int, float]]:
    """Of three things at least two."""
    program = LinearProgram()
    things = [program.variable(whole=True) for _ in range(3)]
    program.at_least([(thing, 1.0) for thing in things], 2.0)
    return program, dict(zip(things, (3.0, 1.0, 2.0)))


def test_what_c_code_prints_is_not_among_our_results(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    solve: Callable[..., Any] = linear_program.milp
    library = ctypes.CDLL(None)

    def chatty(*given: Any, **more: Any) -> Any:
        library.puts(b"tmpSolver.run();")  # in the library's buffer
        os.write(1, b"at once\n")
        return solve(*given, **more)

    monkeypatch.setattr(linear_program, "milp", chatty)
    program, costs = knapsack()
    found = program.minimum(costs)
    assert found.ending is Ending.PROVEN and found.values is not None
    assert [round(value) for value in found.values] == [1, 0, 1, 1]
    print("our result")
    library.fflush(None)
    assert capfd.readouterr().out == "our result\n"


def test_a_solver_that_fails_leaves_stdout_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        raise ValueError("broken")

    monkeypatch.setattr(linear_program, "milp", broken)
    program, costs = knapsack()
    with pytest.raises(ValueError, match="broken"):
        program.minimum(costs)
    print("our result")
    assert capfd.readouterr().out == "our result\n"
