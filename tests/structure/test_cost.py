from __future__ import annotations

import numpy as np
import onnx
import pytest

from repsimc.compiler.graph.dequantising import dequantising
from repsimc.compiler.structure.cost import (
    NODE_NBYTES,
    SESSION_NBYTES,
    model_cost,
    node_macs,
    predicted_memory,
    program_cost,
)
from tests.nets.few_bits import per_channel, put
from tests.programs import joined, program_of

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def macs_of(text: str, batch: int = 1) -> int:
    return sum(node_macs(node, batch) for node in program_of(HEADER + text).graph.nodes)


OPERATORS = [
    # out 8x6x6, each from 4 * 3 * 3 products
    (
        "g (float[N,4,8,8] x, float[8,4,3,3] w) => (float[N,8,6,6] y) { y = Conv (x, w) }",
        8 * 6 * 6 * 4 * 9,
    ),
    (
        "g (float[N,4,8,8] x, float[4,1,3,3] w) => (float[N,4,6,6] y)"
        "{ y = Conv <group = 4> (x, w) }",
        4 * 6 * 6 * 9,
    ),
    (
        "g (float[N,4,8,8] x, float[4,2,3,3] w) => (float[N,2,10,10] y)"
        "{ y = ConvTranspose (x, w) }",
        4 * 8 * 8 * 2 * 9,
    ),
    (
        "g (float[N,5] x, float[7,5] w) => (float[N,7] y) { y = Gemm <transB = 1> (x, w) }",
        5 * 7,
    ),
    (
        "g (float[5,1] x, float[5,7] w) => (float[1,7] y) { y = Gemm <transA = 1> (x, w) }",
        5 * 7,
    ),
    (
        "g (float[N,2,6,5] x, float[N,2,5,7] w) => (float[N,2,6,7] y) { y = MatMul (x, w) }",
        2 * 6 * 7 * 5,
    ),
    (
        "g (float[N,2,6,5] x, float[N,2,7,5] w) => (float[N,2,6,7] y)"
        '{ y = Einsum <equation = "bhid, bhjd -> bhij"> (x, w) }',
        2 * 6 * 7 * 5,
    ),
    ("g (float[N,5] x) => (float[N,5] y) { y = Relu (x) }", 0),
]


@pytest.mark.parametrize(("text", "macs"), OPERATORS)
def test_multiply_accumulates(text: str, macs: int) -> None:
    assert macs_of(text) == macs
    # Where no size is free there is but one number of frames.
    assert macs_of(text, batch=4) == (4 if "N" in text else 1) * macs


def test_operators_of_other_domains_are_not_counted() -> None:
    program = program_of(HEADER + OPERATORS[0][0])
    program.graph.nodes[0].domain = "com.example"
    assert node_macs(program.graph.nodes[0]) == 0


def test_of_two_branches_the_dearer_counts() -> None:
    text = """
    g (bool on, float[2,5] x) => (float[2,5] y)
    {
      y = If (on) <
        then_branch = one () => (float[2,5] p) { p = MatMul (x, w) },
        else_branch = two () => (float[2,5] q) { r = MatMul (x, v)  q = MatMul (r, u) }
      >
    }
    """
    program = program_of(with_weights(text, w=(5, 5), v=(5, 1), u=(1, 5)))
    assert program_cost(program).macs == 2 * 5 * 5
    assert program_cost(program).weights_nbytes == 4 * (25 + 5 + 5)


CHAIN = """
g (float[N,100] x) => (float[N,10] y)
{
  a = MatMul (x, w)
  b = Relu (a)
  y = MatMul (b, v)
}
"""
CHAIN_WEIGHTS = 4 * (100 * 50 + 50 * 10)


def test_a_chain() -> None:
    cost = program_cost(program_of(chain()))
    assert cost.weights_nbytes == CHAIN_WEIGHTS
    assert cost.macs == 100 * 50 + 50 * 10
    assert cost.nodes == 3
    assert cost.unknown == ()
    # b takes a's place; then b and y
    assert cost.activations_peak_nbytes == 4 * (50 + 10)
    assert cost.predicted_nbytes == (
        CHAIN_WEIGHTS + 4 * (50 + 10) + SESSION_NBYTES + 3 * NODE_NBYTES
    )


def test_a_batch_scales_activations_and_macs_but_not_weights() -> None:
    one, four = (program_cost(program_of(chain()), batch) for batch in (1, 4))
    assert four.activations_peak_nbytes == 4 * one.activations_peak_nbytes
    assert four.macs == 4 * one.macs
    assert four.weights_nbytes == one.weights_nbytes


PEAKS = [
    # a Softmax keeps its size, a Transpose does not work in place
    ("y = Transpose <perm = [1, 0]> (x)", 100),
    ("a = Transpose <perm = [1, 0]> (x)  y = Transpose <perm = [1, 0]> (a)", 200),
    ("a = Neg (x)  b = Neg (a)  y = Neg (b)", 100),
    # a is read again later, so b needs room of its own
    ("a = Neg (x)  b = Exp (a)  y = Add (a, b)", 200),
    # a result that no one reads is freed
    ("a = Neg (x)  b = Transpose (a)  y = Exp (a)", 100),
]


@pytest.mark.parametrize(("nodes", "elements"), PEAKS)
def test_live_values(nodes: str, elements: int) -> None:
    program = program_of(f"{HEADER} g (float[10,10] x) => (float[10,10] y) {{ {nodes} }}")
    assert program_cost(program).activations_peak_nbytes == 4 * elements


def test_a_weight_in_few_bits_takes_its_floats_while_it_is_read() -> None:
    text = """g (float[N,8] x) => (float[N,4] y) <float[8,8] w = {SOME}, float[8,4] v = {FEW}>
    { t = MatMul (x, w)  y = MatMul (t, v) }"""
    for name, count in (("SOME", 64), ("FEW", 32)):
        text = text.replace(name, ",".join(str(index) for index in range(count)))
    program = program_of(HEADER + text)
    put(program, "a/v", per_channel(8, 1))
    found = program_cost(program)
    assert found.activations_peak_nbytes == (8 + 4 + 32) * 4
    assert found.weights_nbytes == 64 * 4 + 32 + 4 * 4
    put(program, "a/w", per_channel(8, 1))  # the largest decides, not all of them
    for one in (program, dequantising(program)):
        assert program_cost(one).activations_peak_nbytes == (8 + 64) * 4


def test_outputs_stay_to_the_end() -> None:
    text = "g (float[10,10] x) => (float[10,10] y, float[10,10] z) { y = Neg (x)  z = Exp (y) }"
    assert program_cost(program_of(HEADER + text)).activations_peak_nbytes == 4 * 200


def test_a_value_without_a_shape_is_named() -> None:
    program = program_of(chain())
    values = program.values()
    values["a/a"].shape = None
    cost = program_cost(program)
    assert cost.unknown == ("a/a",)
    assert cost.activations_peak_nbytes == 4 * (50 + 10)
    assert cost.macs == 50 * 10


def test_shared_weights_and_nodes_count_once_in_the_program_and_in_full_per_model() -> None:
    program = joined([[("a", "x"), ("b", "x")]], a=chain(), b=chain())
    assert program_cost(program).weights_nbytes == CHAIN_WEIGHTS  # equal by content
    assert program_cost(program).nodes == 6
    values = program.values()
    program.replace_uses(values["b/b"], values["a/b"])
    assert program_cost(program).nodes == 4
    for model in ("a", "b"):
        cost = model_cost(program, model)
        assert (cost.nodes, cost.weights_nbytes) == (3, CHAIN_WEIGHTS)


def test_different_weights_count_each() -> None:
    program = joined([[("a", "x"), ("b", "x")]], a=chain(), b=chain(2.0))
    assert program_cost(program).weights_nbytes == 2 * CHAIN_WEIGHTS


def test_the_memory_part_of_a_manifest() -> None:
    models = {"a": chain(), "b": chain()}
    apart = [program_of(model, name) for name, model in models.items()]
    merged = joined([[("a", "x"), ("b", "x")]], **models)
    memory = predicted_memory(merged, apart)
    assert memory["merged_weights_nbytes"] == CHAIN_WEIGHTS
    assert memory["apart_weights_nbytes"] == 2 * CHAIN_WEIGHTS
    assert memory["apart_nbytes"] == 2 * program_cost(apart[0]).predicted_nbytes
    assert memory["merged_nbytes"] == program_cost(merged).predicted_nbytes


def chain(scale: float = 1.0) -> onnx.ModelProto:
    return with_weights(CHAIN, scale, w=(100, 50), v=(50, 10))


def with_weights(text: str, scale: float = 1.0, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """The model, with constant weights of these names and shapes."""
    model = onnx.parser.parse_model(HEADER + text)
    for name, shape in shapes.items():
        array = np.full(shape, scale, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model
