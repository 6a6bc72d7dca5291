"""Nodes that go, and steps in a node's place: the graph stays sound and computes what it should."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.graph.edit import (
    ChannelAffine,
    Edit,
    bypass,
    is_float,
    put_steps,
    remove_nodes,
    sort_nodes,
)
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.verifier import verify
from tests.programs import assert_close, program_of, run

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
X = np.arange(8, dtype=np.float32).reshape(2, 4)
W = "<float[4] w = {1, 2, 3, 4}>"


def net(body: str, weights: str = W) -> Program:
    return program_of(f"{HEAD} net (float[N,4] x) => (float[N,4] y) {weights} {{ {body} }}")


def maker(program: Program, value: str) -> str:
    return program.values()[value].inputs[0].op


def test_removed_nodes_leave_nothing_behind() -> None:
    program = net("unread = Mul(x, w) more = Exp(unread) y = Neg(x)")
    program.docs["a/Exp_1"] = "about it"
    # Backwards: a value's reader goes before its maker.
    assert remove_nodes(program, program.graph.nodes[1::-1]) == [0, 16]
    verify(program)
    assert [node.op for node in program.graph.nodes] == ["Neg"]
    assert set(program.notes) == {"a/Neg_2"} and not program.docs


def test_a_weight_that_is_still_read_is_not_freed() -> None:
    program = net("unread = Mul(x, w) y = Add(x, w)")
    assert remove_nodes(program, program.graph.nodes[:1]) == [0]


def test_readers_of_a_bypassed_node_read_what_it_read() -> None:
    program = net("h = Neg(x) i = Relu(h) y = Exp(i)")
    edit = Edit(program)
    assert bypass(edit, program.node("a/Relu_1")) == 0
    edit.done()
    verify(program)
    assert_close(run(program, {"a/x": X})["a/y"], np.exp(-X))


def test_the_maker_before_a_bypassed_output_makes_the_output() -> None:
    program = net("h = Neg(x) y = Relu(h)")
    edit = Edit(program)
    assert bypass(edit, program.node("a/Relu_1")) == 0
    edit.done()
    verify(program)
    assert maker(program, "a/y") == "Neg"


def test_must_not_bypass_between_an_input_and_an_output() -> None:
    program = net("y = Relu(x)")
    assert bypass(Edit(program), program.node("a/Relu_0")) is None
    assert maker(program, "a/y") == "Relu"


@pytest.mark.parametrize(
    ("slope", "offset", "ops", "saved"),
    [
        ([1, 2, 3, 4], [1, 1, 1, 2], ["Mul", "Add"], -32),
        ([1, 2, 3, 4], [0, 0, 0, 0], ["Mul"], -16),
        ([1, 1, 1, 1], [5, 5, 5, 5], ["Add"], -4),
        ([1, 1, 1, 1], [0, 0, 0, 0], ["Mul"], -4),
    ],
)
def test_steps_by_numbers_per_channel(
    slope: list[float], offset: list[float], ops: list[str], saved: int
) -> None:
    program = net("h = Neg(x) i = Relu(h) y = Neg(i)")
    affine = ChannelAffine(np.array(slope, np.float64), np.array(offset, np.float64), 1)
    node = program.node("a/Relu_1")
    edit = Edit(program)
    assert put_steps(edit, node.inputs[0], node, affine, "some-pass") == saved
    edit.done()
    verify(program)
    made = program.graph.nodes[1:-1]
    assert [node.op for node in made] == ops
    assert made[0].name == "a/Relu_1"
    assert all(program.notes[node.name].made_by == "some-pass" for node in made)
    wanted = X * affine.slope - affine.offset
    assert_close(run(program, {"a/x": X})["a/y"], wanted.astype(np.float32))


def test_floats() -> None:
    weights = "<float[4] w = {1, 2, 3, 4}, int64[2] s = {0, 4}>"
    program = net("h = Reshape(x, s) y = Mul(h, w)", weights)
    assert is_float(program.values()["a/h"]) and is_float(program.weights()["a/w"])
    assert not is_float(program.weights()["a/s"])


def test_steps_in_the_place_of_steps_come_where_those_were() -> None:
    program = net("h = Neg(x) i = Relu(h) j = Relu(i) y = Neg(j)")
    edit = Edit(program)
    affine = ChannelAffine(np.full(4, 2.0), np.full(4, 1.0), 1)
    first, second = program.graph.nodes[1:3]
    put_steps(edit, first.inputs[0], first, affine, "some-pass")
    [again, _] = [second.inputs[0].inputs[0], put_steps(edit, second.inputs[0], second, affine, "")]
    put_steps(edit, again.inputs[0], again, affine, "some-pass")
    edit.done()
    verify(program)
    assert [node.op for node in program.graph.nodes] == [
        "Neg",
        *["Mul", "Mul", "Add", "Mul", "Add"],
        "Neg",
    ]


def test_a_weight_goes_with_the_last_of_its_readers() -> None:
    program = net("u = Mul(x, w) v = Add(u, w) t = Exp(v) y = Neg(x)")
    gone = program.graph.nodes[2::-1]
    assert remove_nodes(program, gone) == [0, 0, 16]
    assert [node.op for node in program.graph.nodes] == ["Neg"]


def test_nodes_in_a_long_row_are_sorted() -> None:
    count = 3000  # far beyond what recursion could follow
    steps = " ".join(f"v{i} = Relu({f'v{i - 1}' if i else 'x'})" for i in range(count))
    program = net(f"{steps} y = Neg(v{count - 1})")
    wanted = [node.name for node in program.graph.nodes]
    program.graph.nodes.reverse()
    sort_nodes(program)
    assert [node.name for node in program.graph.nodes] == wanted
    verify(program)


def test_nodes_of_a_level_stay_as_they_were() -> None:
    program = net("b = Relu(x) a = Neg(x) c = Add(a, b) y = Add(c, a)")
    order = [node.op for node in program.graph.nodes]
    sort_nodes(program)
    assert [node.op for node in program.graph.nodes] == order


def test_nodes_in_a_circle_are_refused() -> None:
    program = net("b = Relu(x) a = Neg(b) y = Add(a, b)")
    program.graph.nodes[0].inputs[0] = program.values()["a/a"]
    with pytest.raises(ValueError, match="circle"):
        sort_nodes(program)
