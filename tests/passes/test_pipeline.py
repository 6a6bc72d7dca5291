from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from repsimc.compiler.graph.export import to_proto
from repsimc.compiler.graph.program import Note, Program
from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import VerificationError, verify
from repsimc.passes.base import Change, Pass
from repsimc.passes.pipeline import EXACT, run_exact, run_passes
from tests.nets.random_graphs import siblings
from tests.programs import assert_close, joined, program_of, run

MODEL = """<ir_version: 8, opset_import: ["": 17]> net (float[N,2] x) => (float[N,2] y)
<float[2] w = {1, 2}> { [first] h = Add(x, w) [second] i = Identity(h) [third] y = Neg(i) }"""


@dataclass(frozen=True)
class Breaks:
    name: ClassVar[str] = "breaks"
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> list[Change]:
        program.graph.nodes = program.graph.nodes[::-1]
        return [Change("turned everything around", "a/first")]


@dataclass(frozen=True)
class Silent:
    name: ClassVar[str] = "silent"
    exact: ClassVar[bool] = True

    what: str = "weight"

    def run(self, program: Program) -> list[Change]:
        if self.what == "weight":
            weight = program.weights()["a/w"]
            weight.values = weight.values + np.float32(1)
        elif self.what == "metadata":
            program.metadata["a/first"] = {"note": "was here"}
        elif self.what == "note":
            program.notes["a/first"] = Note(made_by="nobody")
        elif self.what == "doc":
            program.docs["a/first"] = "was here"
        return []


def test_names_of_the_exact_passes() -> None:
    names = [step.name for step in EXACT]
    assert names == [
        "normalise",
        "share-equal-weights",
        "share-equal-prefixes",
        "fold-linear-activations",
        "freeze-constant-branches",
        "drop-dead",
        "prune-constant-channels",
        "merge-linear",
        "share-equal-weights",
        "share-equal-prefixes",
        "drop-dead",
    ]
    assert all(step.exact for step in EXACT)


def test_passes_run_in_order_and_are_told() -> None:
    program = program_of(MODEL)
    told: list[tuple[str, int, bool]] = []

    def on_pass(step: Pass, changes: list[Change], seconds: float) -> None:
        told.append((step.name, len(changes), seconds >= 0))

    changes = run_passes(program, EXACT, on_pass)
    assert [name for name, _, _ in told] == [step.name for step in EXACT]
    assert all(timed for _, _, timed in told)
    assert sum(count for _, count, _ in told) == len(changes) == 1
    assert changes[0] == Change("Identity 'a/second' changes nothing", "a/second")


def test_guilty_pass_and_rule_are_named() -> None:
    told: list[str] = []
    with pytest.raises(
        VerificationError, match=r"after pass 'breaks'.*topological-order"
    ) as raised:
        run_passes(program_of(MODEL), [EXACT[1], Breaks()], lambda step, *_: told.append(step.name))
    assert raised.value.rule == "topological-order"
    assert told == ["share-equal-weights"]


def test_program_is_verified_before_the_first_pass() -> None:
    program = program_of(MODEL)
    Breaks().run(program)
    with pytest.raises(VerificationError, match="before any pass"):
        run_passes(program, [])


@pytest.mark.parametrize("what", ["weight", "metadata", "note", "doc"])
def test_unreported_change_is_refused(what: str) -> None:
    with pytest.raises(
        VerificationError, match=r"after pass 'silent'.*reported no change"
    ) as raised:
        run_passes(program_of(MODEL), [Silent(what)])
    assert raised.value.rule == "changes-reported"


def test_pass_that_does_nothing_is_fine() -> None:
    assert run_passes(program_of(MODEL), [Silent("nothing")]) == []


@settings(max_examples=40, deadline=None)
@given(siblings())
def test_exact_passes_keep_outputs_of_random_siblings(models: list[onnx.ModelProto]) -> None:
    names = "abc"[: len(models)]

    def fresh() -> Program:
        return joined([[(n, "x") for n in names]], **dict(zip(names, models, strict=True)))

    program, before = fresh(), fresh()
    run_exact(program)
    verify(program)
    assert len(program.graph.nodes) <= len(before.graph.nodes) + len(program.graph.outputs)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)}
    expected, actual = run(before, feeds), run(program, feeds)
    assert list(expected) == list(actual)
    for name, array in expected.items():
        assert_close(actual[name], array, rtol=1e-4, atol=1e-5)
    assert run_passes(program, EXACT) == []
    twin = fresh()
    run_exact(twin)
    assert text(twin) == text(program)
    content = [to_proto(p).SerializeToString(deterministic=True) for p in (twin, program)]
    assert content[0] == content[1]
    needed = {node.name for node in program.needed_nodes(program.graph.outputs)}
    assert needed == {node.name for node in program.graph.nodes}
