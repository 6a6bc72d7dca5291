from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings

from repsimc.compiler.errors import RepsimcError
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.verifier import RULES, VerificationError, verify
from tests.nets.random_graphs import siblings
from tests.programs import joined, program_of

MODEL = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N,4] x, bool flag) => (float[N,4] y, float[N,4] z)
<float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}, float[4] b = {1,2,3,4}>
{
  [fc] h = Gemm(x, w, b)
  [relu] r = Relu(h)
  [add] y = Add(r, x)
  [choose] z = If (flag) <
    then_branch = then () => (float[N,4] t) { t = Neg(r) },
    else_branch = other () => (float[N,4] e) { e = Abs(r) }
  >
}
"""


def node(program: Program, name: str) -> Any:
    return program.node(f"a/{name}")


def rename_node(program: Program) -> None:
    node(program, "relu").name = "a/fc"


def nameless_node(program: Program) -> None:
    node(program, "relu").name = ""
    program.metadata.clear()


def rename_value(program: Program) -> None:
    node(program, "fc").outputs[0].name = "a/x"


def weight_called_as_a_value(program: Program) -> None:
    node(program, "fc").inputs[1].name = "a/r"


def list_an_output_twice(program: Program) -> None:
    program.graph.outputs.append(program.graph.outputs[0])


def weight_as_input(program: Program) -> None:
    program.graph.inputs.append(node(program, "fc").inputs[1])


def weight_as_output(program: Program) -> None:
    program.graph.outputs[0].inputs.clear()
    program.graph.outputs[0].to_constant(np.zeros(4, np.float32))


def weight_without_array(program: Program) -> None:
    node(program, "fc").inputs[1].values = [1.0, 2.0]


def computed_weight(program: Program) -> None:
    node(program, "relu").outputs.append(node(program, "fc").inputs[1])


def two_producers(program: Program) -> None:
    relu = node(program, "relu")
    twin = gs.Node("Relu", "a/twin", {}, [relu.inputs[0]], [relu.outputs[0]])
    program.graph.nodes.insert(2, twin)


def produced_input(program: Program) -> None:
    made = gs.Node("Relu", "a/made", {}, [node(program, "relu").outputs[0]])
    made.outputs.append(program.graph.inputs[0])
    program.graph.nodes.append(made)


def removed_but_linked(program: Program) -> None:
    stale = gs.Node("Neg", "a/stale", {}, [program.graph.inputs[0]], [gs.Variable("a/stale_out")])
    assert stale.inputs


def unlinked_reader(program: Program) -> None:
    list.clear(program.graph.inputs[0].outputs)


def read_of_nothing(program: Program) -> None:
    node(program, "add").inputs[1] = gs.Variable("a/ghost", np.float32, ["N", 4])


def body_reads_nothing(program: Program) -> None:
    body = next(iter(node(program, "choose").subgraphs()))
    body.nodes[0].inputs[0] = gs.Variable("a/ghost", np.float32, ["N", 4])


def wrong_order(program: Program) -> None:
    program.graph.nodes = program.graph.nodes[::-1]


def body_reads_too_early(program: Program) -> None:
    nodes = program.graph.nodes
    program.graph.nodes = [nodes[0], nodes[3], nodes[1], nodes[2]]


def cycle(program: Program) -> None:
    node(program, "fc").inputs[0] = node(program, "relu").outputs[0]


def output_of_nothing(program: Program) -> None:
    program.graph.outputs[0] = gs.Variable("a/y", np.float32, ["N", 4])
    node(program, "add").outputs[0].name = "a/y_before"


def model_without_its_output(program: Program) -> None:
    program.models["a"].outputs["y"] = "a/r"


def model_without_its_input(program: Program) -> None:
    program.graph.inputs.append(gs.Variable("a/new", np.float32, [1]))
    program.models["a"].inputs["new"] = "a/newer"


def input_of_no_model(program: Program) -> None:
    program.graph.inputs.append(gs.Variable("a/new", np.float32, [1]))


def model_under_another_name(program: Program) -> None:
    program.models["b"] = program.models.pop("a")


def metadata_of_nothing(program: Program) -> None:
    program.metadata["a/gone"] = {"key": "value"}


def doc_of_nothing(program: Program) -> None:
    program.docs["a/gone"] = "once upon a time"


def unknown_operator(program: Program) -> None:
    node(program, "relu").op = "Rleu"


def too_many_inputs(program: Program) -> None:
    node(program, "relu").inputs.append(program.graph.inputs[0])


def mixed_types(program: Program) -> None:
    node(program, "fc").inputs[2].values = np.zeros(4, np.float64)


def wrong_result_type(program: Program) -> None:
    node(program, "relu").outputs[0].dtype = np.dtype(np.int64)


def wrong_fixed_type(program: Program) -> None:
    fc = node(program, "fc")
    fc.op, fc.attrs = "Reshape", {}
    fc.inputs = fc.inputs[:2]


def rows_that_do_not_fit(program: Program) -> None:
    node(program, "fc").inputs[1].values = np.zeros((5, 4), np.float32)


def shapes_that_do_not_broadcast(program: Program) -> None:
    program.graph.inputs[0].shape = ["N", 3]
    node(program, "fc").inputs[1].values = np.zeros((3, 4), np.float32)


BROKEN: list[tuple[str, Callable[[Program], None]]] = [
    ("unique-names", rename_node),
    ("unique-names", nameless_node),
    ("unique-names", rename_value),
    ("unique-names", weight_called_as_a_value),
    ("unique-names", list_an_output_twice),
    ("weights-are-constants", weight_as_input),
    ("weights-are-constants", weight_as_output),
    ("weights-are-constants", weight_without_array),
    ("weights-are-constants", computed_weight),
    ("single-producer", two_producers),
    ("single-producer", produced_input),
    ("links-agree", removed_but_linked),
    ("links-agree", unlinked_reader),
    ("no-dangling-value", read_of_nothing),
    ("no-dangling-value", body_reads_nothing),
    ("topological-order", wrong_order),
    ("topological-order", body_reads_too_early),
    ("topological-order", cycle),
    ("outputs-exist", output_of_nothing),
    ("models-map-to-graph", model_without_its_output),
    ("models-map-to-graph", model_without_its_input),
    ("models-map-to-graph", input_of_no_model),
    ("models-map-to-graph", model_under_another_name),
    ("metadata-for-existing-nodes", metadata_of_nothing),
    ("metadata-for-existing-nodes", doc_of_nothing),
    ("operators-known", unknown_operator),
    ("operators-known", too_many_inputs),
    ("types-agree", mixed_types),
    ("types-agree", wrong_result_type),
    ("types-agree", wrong_fixed_type),
    ("shapes-agree", rows_that_do_not_fit),
    ("shapes-agree", shapes_that_do_not_broadcast),
]


@pytest.mark.parametrize(("rule", "break_it"), BROKEN, ids=[b.__name__ for _, b in BROKEN])
def test_broken_rule_is_named(rule: str, break_it: Callable[[Program], None]) -> None:
    program = program_of(MODEL)
    verify(program)
    break_it(program)
    with pytest.raises(VerificationError) as raised:
        verify(program)
    assert raised.value.rule == rule
    assert rule in str(raised.value)
    assert isinstance(raised.value, RepsimcError)
    assert raised.value.exit_code == 1


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)


def test_message_says_where() -> None:
    program = program_of(MODEL)
    rows_that_do_not_fit(program)
    with pytest.raises(VerificationError, match=r"'a/fc' \(Gemm\).*4 columns times 5 rows"):
        verify(program)


CONVOLUTION = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N,4,8,8] x, float[2,{channels},3,3] w) => (float[N,2,6,6] y) {{
  y = Conv<group = {groups}>(x, w)
}}
"""


@pytest.mark.parametrize(
    ("channels", "groups", "fits"), [(4, 1, True), (3, 1, False), (2, 2, True)]
)
def test_channels_fit_the_filter(channels: int, groups: int, fits: bool) -> None:
    program = program_of(CONVOLUTION.format(channels=4 // groups, groups=groups))
    program.graph.inputs[1].shape = [2, channels, 3, 3]
    if fits:
        verify(program)
    else:
        with pytest.raises(VerificationError, match="4 channels into a filter for 3"):
            verify(program)


def test_unknown_dimensions_and_custom_operators_are_not_judged() -> None:
    verify(
        program_of("""
        <ir_version: 8, opset_import: ["": 17, "acme": 1]>
        net (float[N,M] x, float[K,4] z) => (float y, float[P] v) {
          u = MatMul(x, z)
          t = acme.Odd(u, x, z)
          y = acme.Sum(t)
          v = Add(t, x)
        }""")
    )


def test_mixed_types_that_the_operator_allows() -> None:
    verify(
        program_of("""
        <ir_version: 8, opset_import: ["": 17]>
        net (float[N,4] x, bool[N,4] c, int64[3] i) => (float[N,4] y, float[3,4] z)
        <int64 two = {2}, float one = {1.0}> {
          p = Pow(x, two)
          y = Where(c, p, one)
          z = Gather(x, i)
        }""")
    )


@settings(max_examples=15, deadline=None)
@given(siblings())
def test_random_programs_verify(models: list[Any]) -> None:
    names = "abc"[: len(models)]
    tied = [[(name, "x") for name in names]]
    verify(joined(tied, **dict(zip(names, models, strict=True))))
