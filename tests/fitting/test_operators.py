"""Linear operators as rows times weights: what ONNX Runtime computes, and new weights written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.execution.rows import sample_positions, value_rows
from repsimc.compiler.fitting.operators import LinearOperator, linear_operator
from repsimc.compiler.fitting.regression import Affine
from repsimc.compiler.graph.program import Program
from tests.nets.networks import Array, Net
from tests.programs import assert_close, program_of, run


@dataclass(frozen=True)
class Case:
    """`build(net)` adds the operator that reads 'x' of the shape and gives 'y'."""

    shape: tuple[int, ...]
    build: Callable[[Net], Any]
    inner: str | None = None  # set where the operator's own output is not 'y'
    feeds: dict[str, tuple[int, ...]] = field(default_factory=dict)


def conv(net: Net, weight: tuple[int, ...], bias: bool = True, **attrs: Any) -> str:
    weights = [net.weight(net.normal(*weight))]
    if bias:
        weights.append(net.weight(net.normal(weight[0])))
    return net.node("Conv", "x", *weights, out="y", **attrs)


def transposed(net: Net, weight: tuple[int, ...], bias: int | None = None, **attrs: Any) -> str:
    """A ConvTranspose; `weight` is [inputs, outputs / groups, *kernel], `bias` all outputs."""
    weights = [net.weight(net.normal(*weight))]
    if bias is not None:
        weights.append(net.weight(net.normal(bias)))
    return net.node("ConvTranspose", "x", *weights, out="y", **attrs)


def gemm(net: Net, bias: tuple[int, ...] | None = (5,), trans: int = 0, **attrs: Any) -> str:
    weights = [net.weight(net.normal(*((5, 4) if trans else (4, 5))))]
    if bias is not None:
        weights.append(net.weight(net.normal(*bias)))
    return net.node("Gemm", "x", *weights, out="y", transB=trans, **attrs)


def matmul(net: Net, bias: tuple[int, ...] | None = None, first: bool = False) -> str:
    weight = net.weight(net.normal(4, 5))
    if bias is None:
        return net.node("MatMul", "x", weight, out="y")
    product = net.node("MatMul", "x", weight)
    offset = net.weight(net.normal(*bias))
    return net.node("Add", *((offset, product) if first else (product, offset)), out="y")


IMAGE = (3, 4, 7, 6)
CASES = {
    "conv 1x1": Case(IMAGE, lambda n: conv(n, (5, 4, 1, 1))),
    "conv without bias": Case(IMAGE, lambda n: conv(n, (5, 4, 3, 3), bias=False)),
    "conv padded": Case(IMAGE, lambda n: conv(n, (5, 4, 3, 3), pads=[1, 1, 1, 1])),
    "conv pads differ": Case(IMAGE, lambda n: conv(n, (5, 4, 3, 2), pads=[0, 1, 2, 3])),
    "conv stride": Case(IMAGE, lambda n: conv(n, (5, 4, 3, 3), strides=[2, 3], pads=[1] * 4)),
    "conv dilated": Case(
        IMAGE, lambda n: conv(n, (5, 4, 3, 3), dilations=[2, 1], pads=[2, 1, 2, 1])
    ),
    "conv groups": Case(IMAGE, lambda n: conv(n, (6, 2, 3, 3), group=2, pads=[1] * 4)),
    "conv depthwise": Case(IMAGE, lambda n: conv(n, (4, 1, 3, 3), group=4, pads=[1] * 4)),
    "conv depthwise x2": Case(IMAGE, lambda n: conv(n, (8, 1, 3, 3), group=4, strides=[2, 2])),
    "conv same upper": Case(
        IMAGE, lambda n: conv(n, (5, 4, 4, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    ),
    "conv same lower": Case(
        IMAGE, lambda n: conv(n, (5, 4, 4, 3), auto_pad="SAME_LOWER", strides=[2, 2])
    ),
    "conv same stride 3": Case(
        IMAGE, lambda n: conv(n, (5, 4, 2, 2), auto_pad="SAME_UPPER", strides=[3, 3])
    ),
    "conv valid": Case(IMAGE, lambda n: conv(n, (5, 4, 3, 3), auto_pad="VALID")),
    "conv not set": Case(IMAGE, lambda n: conv(n, (5, 4, 3, 3), auto_pad="NOTSET", pads=[1] * 4)),
    "conv 1-D": Case((3, 4, 9), lambda n: conv(n, (5, 4, 3), strides=[2], pads=[2, 1])),
    "conv 1-D groups": Case((3, 4, 9), lambda n: conv(n, (4, 2, 3), group=2, dilations=[2])),
    "transposed conv 1x1": Case(IMAGE, lambda n: transposed(n, (4, 5, 1, 1), 5)),
    "transposed conv without bias": Case(IMAGE, lambda n: transposed(n, (4, 5, 3, 3))),
    "transposed conv padded": Case(IMAGE, lambda n: transposed(n, (4, 5, 3, 3), 5, pads=[1] * 4)),
    "transposed conv stride 2": Case(
        IMAGE, lambda n: transposed(n, (4, 5, 2, 2), 5, strides=[2, 2])
    ),
    "transposed conv stride 3": Case(
        IMAGE, lambda n: transposed(n, (4, 5, 4, 5), 5, strides=[3, 3], pads=[1, 2, 0, 1])
    ),
    "transposed conv gaps": Case(IMAGE, lambda n: transposed(n, (4, 5, 1, 2), 5, strides=[3, 3])),
    "transposed conv strides differ": Case(
        IMAGE, lambda n: transposed(n, (4, 5, 3, 4), 5, strides=[1, 2], pads=[0, 1, 2, 3])
    ),
    "transposed conv output padding": Case(
        IMAGE,
        lambda n: transposed(
            n, (4, 5, 3, 3), 5, strides=[2, 3], pads=[1] * 4, output_padding=[1, 2]
        ),
    ),
    "transposed conv dilated": Case(
        IMAGE,
        lambda n: transposed(n, (4, 5, 3, 3), 5, strides=[2, 2], dilations=[3, 2], pads=[2] * 4),
    ),
    "transposed conv groups": Case(
        IMAGE, lambda n: transposed(n, (4, 3, 3, 3), 6, group=2, strides=[2, 2], pads=[1] * 4)
    ),
    "transposed conv depthwise": Case(
        IMAGE, lambda n: transposed(n, (4, 1, 4, 4), 4, group=4, strides=[2, 2], pads=[1] * 4)
    ),
    "transposed conv valid": Case(
        IMAGE, lambda n: transposed(n, (4, 5, 3, 3), 5, auto_pad="VALID", strides=[2, 2])
    ),
    "transposed conv 1-D": Case(
        (3, 4, 9),
        lambda n: transposed(n, (4, 5, 4), 5, strides=[2], pads=[1, 2], output_padding=[1]),
    ),
    "transposed conv 1-D groups": Case(
        (3, 4, 9), lambda n: transposed(n, (4, 2, 3), group=2, dilations=[2], strides=[3])
    ),
    "gemm": Case((9, 4), gemm),
    "gemm transposed": Case((9, 4), lambda n: gemm(n, trans=1)),
    "gemm alpha beta": Case((9, 4), lambda n: gemm(n, alpha=0.5, beta=3.0)),
    "gemm scalar bias": Case((9, 4), lambda n: gemm(n, bias=(), beta=2.0)),
    "gemm bias of one": Case((9, 4), lambda n: gemm(n, bias=(1,), trans=1)),
    "gemm bias row": Case((9, 4), lambda n: gemm(n, bias=(1, 5))),
    "gemm without bias": Case((9, 4), lambda n: gemm(n, bias=None, trans=1)),
    "matmul": Case((3, 7, 4), matmul),
    "matmul rank 2": Case((9, 4), matmul),
    "matmul add": Case((3, 7, 4), lambda n: matmul(n, (5,))),
    "add matmul": Case((3, 7, 4), lambda n: matmul(n, (5,), first=True)),
    "matmul add of rank 3": Case((3, 7, 4), lambda n: matmul(n, (1, 1, 5))),
    "matmul rank 4": Case((3, 2, 7, 4), lambda n: matmul(n, (5,))),
}


def program(case: Case, dtype: type[np.floating[Any]] = np.float32) -> Program:
    net = Net(dtype=dtype)
    case.build(net)
    return program_of(net.model(x=case.shape))


def operator_of(program: Program) -> LinearOperator:
    found = [op for node in program.graph.nodes if (op := linear_operator(node)) is not None]
    assert len(found) == 1
    return found[0]


def frames(case: Case, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(5).standard_normal(case.shape).astype(dtype)


def predicted(operator: LinearOperator, affine: Affine, x: Array, y: Array) -> tuple[Array, Array]:
    """Rows times weights, and what y holds, at sampled positions: [rows, channels] each."""
    size = int(np.prod(y.shape[1:-1] if operator.channels_last else y.shape[2:], dtype=int))
    positions = sample_positions(len(x), size, len(x) * max(size - 2, 1), seed=3)
    rows = affine(operator.rows(x, positions))
    return rows.reshape(len(rows), -1), value_rows(y, positions, operator.channels_last)


@pytest.mark.parametrize("name", CASES)
def test_rows_times_weights_are_the_operators_output(name: str) -> None:
    case = CASES[name]
    found = program(case)
    operator = operator_of(found)
    x = frames(case)
    y = run(found, {"a/x": x})["a/y"]
    assert operator.result.name == "a/y"
    assert operator.source.name == "a/x"
    actual, expected = predicted(operator, operator.affine(), x, y)
    assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert operator.affine().weight.shape[1:] == (
        operator.fan_in,
        operator.fan_out // len(operator.affine().weight),
    )


DOUBLE = [name for name in CASES if "conv" not in name]  # ONNX Runtime has no Conv in float64


@pytest.mark.parametrize(
    ("name", "dtype"), [(n, np.float32) for n in CASES] + [(n, np.float64) for n in DOUBLE]
)
def test_written_weights_are_read_back_and_used(name: str, dtype: type[np.floating[Any]]) -> None:
    case = CASES[name]
    found = program(case, dtype)
    operator = operator_of(found)
    old = operator.affine()
    random = np.random.default_rng(7)
    without_bias = operator.node.op == "MatMul" and operator.bias is None
    bias = np.zeros_like(old.bias) if without_bias else random.standard_normal(old.bias.shape)
    wanted = Affine(random.standard_normal(old.weight.shape), bias)
    operator.write(found, wanted)

    again = operator_of(found)
    np.testing.assert_allclose(again.affine().weight, wanted.weight, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(again.affine().bias, wanted.bias, rtol=1e-5, atol=1e-7)
    assert again.weight.dtype == dtype
    x = frames(case, dtype)
    actual, expected = predicted(again, wanted, x, run(found, {"a/x": x})["a/y"])
    assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["Gemm", "Conv", "MatMul"])
def test_who_shares_the_old_weights_keeps_them(kind: str) -> None:
    net = Net()
    if kind == "Conv":
        weights = [net.weight(net.normal(4, 4, 1, 1)), net.weight(net.normal(4))]
    else:
        weights = [net.weight(net.normal(4, 4)), net.weight(net.normal(4))]
    outs: list[str] = []
    for out in ("y", "z"):
        if kind == "MatMul":
            outs.append(net.node("Add", net.node("MatMul", "x", weights[0]), weights[1], out=out))
        else:
            outs.append(net.node(kind, "x", *weights, out=out))
    shape = (3, 4, 2, 2) if kind == "Conv" else (3, 4)
    found = program_of(net.model(outs, x=shape))
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before = run(found, {"a/x": x})
    first = linear_operator(next(n for n in found.graph.nodes if n.op == kind))
    assert first is not None
    old = first.affine()
    values = [tensor.values.copy() for tensor in found.weights().values()]
    first.write(found, Affine(old.weight + 1, old.bias + 1))
    after = run(found, {"a/x": x})
    assert_close(after["a/z"], before["a/z"])
    assert np.abs(after["a/y"] - before["a/y"]).max() > 0.1
    kept = [first.weight.values, first.bias.values if first.bias else values[1]]
    for value, then in zip(kept, values, strict=True):
        np.testing.assert_array_equal(value, then)


def test_a_bias_is_only_added_where_it_is_not_zero() -> None:
    found = program(CASES["conv without bias"])
    operator = operator_of(found)
    operator.write(found, operator.affine())
    assert len(operator.node.inputs) == 2
    old = operator.affine()
    operator.write(found, Affine(old.weight, old.bias + 1))
    assert len(operator.node.inputs) == 3


@pytest.mark.parametrize(
    "build",
    [
        lambda n: n.node("Gemm", "x", n.weight(n.normal(9, 5)), out="y", transA=1),
        lambda n: gemm(n, beta=0.0),
        lambda n: gemm(n, alpha=0.0),
        lambda n: gemm(n, bias=(9, 1)),
        lambda n: n.node("MatMul", n.weight(n.normal(5, 9)), "x", out="y"),
        lambda n: n.node("MatMul", "x", n.weight(n.normal(4)), out="y"),
        lambda n: n.node("Gemm", "x", n.node("Abs", n.weight(n.normal(4, 5))), out="y"),
        lambda n: n.node("Mul", "x", n.weight(n.normal(4)), out="y"),
    ],
)
def test_what_a_fit_cannot_write_is_no_linear_operator(build: Callable[[Net], Any]) -> None:
    net = Net()
    build(net)
    found = program_of(net.model(x=(9, 4)))
    assert [linear_operator(node) for node in found.graph.nodes] == [None] * len(found.graph.nodes)


@pytest.mark.parametrize(
    "build",
    [
        lambda n: transposed(n, (4, 5, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
        lambda n: transposed(n, (4, 5, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
        lambda n: transposed(n, (4, 5, 3, 3), strides=[2, 2], output_shape=[13, 14]),
        lambda n: n.node(
            "ConvTranspose", "x", n.node("Abs", n.weight(n.normal(4, 5, 3, 3))), out="y"
        ),
        lambda n: n.node(
            "ConvTranspose", n.weight(n.normal(*IMAGE)), n.weight(n.normal(4, 5, 3, 3)), out="y"
        ),
    ],
)
def test_a_transposed_convolution_of_a_wished_size_is_left_alone(
    build: Callable[[Net], Any],
) -> None:
    found = program(Case(IMAGE, build))
    assert [linear_operator(node) for node in found.graph.nodes] == [None] * len(found.graph.nodes)


def test_a_matmul_that_others_read_too_does_not_own_the_add() -> None:
    net = Net()
    product = net.node("MatMul", "x", net.weight(net.normal(4, 5)))
    net.node("Add", product, net.weight(net.normal(5)), out="y")
    net.node("Abs", product, out="z")
    operator = operator_of(program_of(net.model(("y", "z"), x=(2, 3, 4))))
    assert operator.bias is None
    assert operator.result.name == f"a/{product}"


def test_patches_of_folded_frames_are_those_of_their_items() -> None:
    case = CASES["conv pads differ"]
    found = program(Case((6, *IMAGE[1:]), case.build))
    operator = operator_of(found)
    x = np.random.default_rng(0).standard_normal((6, *IMAGE[1:])).astype(np.float32)
    y = run(found, {"a/x": x})["a/y"]
    positions = sample_positions(2, 3 * y[0, 0].size, 50, seed=0)
    rows = operator.affine()(operator.rows(x, positions))
    expected = value_rows(y, positions, channels_last=False)
    assert_close(rows.reshape(len(rows), -1), expected, rtol=1e-4, atol=1e-5)
