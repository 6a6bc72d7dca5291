from __future__ import annotations

import numpy as np

from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import verify
from repsimc.passes.drop_dead import DropDead
from tests.programs import assert_close, joined, program_of, run

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
MODEL = f"""{HEAD} net (float[N,2] x, float[N,2] unread, bool flag) => (float[N,2] y)
<float[2] w = {{1, 2}}, float[2] v = {{3, 4}}, float[2] both = {{5, 6}}> {{
  d1 = Add(unread, v) d2 = Mul(d1, both) d3 = Mul(d2, v)
  h = Add(x, w) k = Mul(h, both)
  y = If (flag) <then_branch = t () => (float[N,2] a) {{ a = Neg(k) }},
                 else_branch = e () => (float[N,2] b) {{ b = Abs(h) }}>
}}"""


def test_dead_nodes_and_their_weights_go() -> None:
    program = program_of(MODEL)
    before = program.copy()
    program.docs["a/Mul_1"] = "of a dead node"
    changes = DropDead().run(program)
    verify(program)
    assert [change.node for change in changes] == ["a/Add_0", "a/Mul_1", "a/Mul_2"]
    assert [change.nbytes_saved for change in changes] == [8, 0, 0]
    assert changes[0].what == "no output needs Add 'a/Add_0'"
    assert list(program.weights()) == ["a/w", "a/both"]
    assert not {"a/Add_0", "a/Mul_1", "a/Mul_2"} & {*program.metadata, *program.docs}
    feeds = {"a/x": np.ones((1, 2), np.float32), "a/flag": np.array(True)}
    feeds["a/unread"] = feeds["a/x"]
    assert_close(run(program, feeds)["a/y"], run(before, feeds)["a/y"], 0, 0)


def test_graph_inputs_stay() -> None:
    program = program_of(MODEL)
    DropDead().run(program)
    assert [value.name for value in program.graph.inputs] == ["a/x", "a/unread", "a/flag"]


def test_what_only_bodies_read_is_alive() -> None:
    program = program_of(MODEL)
    DropDead().run(program)
    assert [node.op for node in program.graph.nodes] == ["Add", "Mul", "If"]


def test_second_run_finds_nothing() -> None:
    program = program_of(MODEL)
    DropDead().run(program)
    before = text(program)
    assert DropDead().run(program) == []
    assert text(program) == before


def test_must_not_fire_when_every_node_is_needed() -> None:
    model = f"{HEAD} net (float[N] x) => (float[N] y, float[N] z) {{ y = Neg(x) z = Abs(y) }}"
    program = joined((), a=model, b=model)
    before = text(program)
    assert DropDead().run(program) == []
    assert text(program) == before


def test_dead_control_flow_goes_with_its_bodies() -> None:
    program = program_of(
        f"""{HEAD} net (float[N,2] x, bool flag) => (float[N,2] y)
        <float[2] w = {{1, 2}}> {{
          h = Neg(x)
          z = If (flag) <then_branch = t () => (float[N,2] a) {{ a = Add(h, w) }},
                         else_branch = e () => (float[N,2] b) {{ b = Abs(h) }}>
          y = Exp(h)
        }}"""
    )
    (change,) = DropDead().run(program)
    verify(program)
    assert change.nbytes_saved == 8
    assert set(program.notes) == {node.name for node in program.graph.nodes}
    assert [reader.op for reader in program.values()["a/h"].outputs] == ["Exp"]
