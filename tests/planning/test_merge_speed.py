"""Merges: what merges operators has to be faster, each is timed once, the rest is not timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.graph.program import Program
from repsimc.compiler.planning import merge_speed
from repsimc.compiler.planning.merge_speed import Merges
from repsimc.compiler.planning.workbench import Workbench
from tests.nets.foldable import gelu_mlp, tokens
from tests.nets.six_blocks import bench, taken_out
from tests.nets.workbenches import workbench
from tests.programs import program_of

FOLD = FoldActivationAction("a", "a/h", "a/g")


def folding() -> Workbench:
    return workbench(program_of(gelu_mlp(0.15)), np.asarray(tokens(200).arrays["a/x"]))


class Clock:
    """Says what the program after a merge takes where the one before takes a second."""

    def __init__(self, after: float) -> None:
        self.after = after
        self.timed: list[tuple[int, int]] = []

    def __call__(self, programs: Sequence[Program], *_ends: Any, **_options: Any) -> list[float]:
        before, after = programs
        self.timed.append((len(before.graph.nodes), len(after.graph.nodes)))
        return [1.0, self.after]


@pytest.mark.parametrize(
    ("seconds", "faster"), [(0.9, True), (1.0, True), (1.05, True), (1.2, False)]
)
def test_a_merge_is_timed_once(
    seconds: float, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(seconds)
    monkeypatch.setattr(merge_speed, "best_seconds", clock)
    merges = Merges(folding())
    assert merges.is_faster(FOLD) is faster
    assert merges.is_faster(FOLD) is faster
    ((before, after),) = clock.timed
    assert after < before


def test_what_only_removes_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(9.0)
    monkeypatch.setattr(merge_speed, "best_seconds", clock)
    assert Merges(bench()).is_faster(taken_out(2)[0])
    assert clock.timed == []


def test_the_program_itself_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_speed, "best_seconds", Clock(0.5))
    source = folding()
    names = [node.name for node in source.program.graph.nodes]
    Merges(source).is_faster(FOLD)
    assert [node.name for node in source.program.graph.nodes] == names
