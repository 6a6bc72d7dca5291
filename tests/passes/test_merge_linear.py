"""Merging adjacent linear operators: the same numbers from fewer operators, or left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.compiler.structure.cost import program_cost
from repsimc.compiler.structure.linear_maps import linear_at
from repsimc.compiler.structure.merging import merged
from repsimc.passes.merge_linear import MergeLinear
from tests.nets.networks import Net, smooth_images
from tests.passes.checking import changed, ops, same_outputs, unchanged
from tests.programs import program_of, run

MERGE = MergeLinear()
ANY_SIZE = MergeLinear(growth_nbytes=1 << 30)


def convs(net: Net, *layers: dict[str, Any], size: int = 9) -> Any:
    """Convolutions after one another from x [N, channels of the first, size, size]."""
    x = "x"
    for layer in layers:
        x = net.conv(x, **layer)
    net.node("Identity", x, out="y")
    return net.model(x=("N", layers[0]["channels"], size, size))


def layer(channels: int, filters: int, kernel: int, **more: Any) -> dict[str, Any]:
    return {"channels": channels, "filters": filters, "kernel": kernel, **more}


# -- convolutions ---------------------------------------------------------------------------

MERGED = {
    "1x1 with 1x1": [layer(3, 8, 1), layer(8, 4, 1)],
    "1x1 with 3x3 without padding": [layer(3, 8, 1), layer(8, 4, 3, pads=[0] * 4)],
    "3x3 with 1x1": [layer(3, 8, 3), layer(8, 4, 1)],
    "padded 3x3 with 1x1": [layer(3, 8, 3, pads=[1] * 4), layer(8, 4, 1)],
    "1x1 without bias with padded 3x3": [layer(3, 8, 1, bias=False), layer(8, 4, 3)],
    "strided 3x3 with 1x1": [layer(3, 8, 3, strides=[2, 2]), layer(8, 4, 1)],
    "strided 1x1 with padded strided 3x3": [
        layer(3, 8, 1, bias=False, strides=[2, 2]), layer(8, 4, 3, strides=[2, 2])],
    "3x3 with 3x3": [layer(2, 16, 3), layer(16, 2, 3, pads=[0] * 4)],
    "depthwise 1x1 with pointwise": [layer(8, 8, 1, group=8), layer(8, 4, 1)],
    "depthwise with a narrow pointwise": [layer(8, 8, 3, group=8), layer(8, 1, 1)],
    "pointwise with depthwise": [layer(1, 8, 1, bias=False), layer(8, 8, 3, group=8)],
    "groups with groups": [layer(4, 8, 3, group=2), layer(8, 4, 1, group=2)],
}  # fmt: skip


@pytest.mark.parametrize("case", MERGED)
def test_two_convolutions_become_one(case: str) -> None:
    model = convs(Net(), *MERGED[case])
    program = changed(ANY_SIZE, model)
    assert ops(program) == ["Conv", "Identity"]
    assert program_cost(program).macs < program_cost(program_of(model)).macs
    node = program.graph.nodes[0]
    assert len(program.notes[node.name].sources) == 2


REFUSED = {
    "bias before padding": [layer(3, 8, 1), layer(8, 4, 3)],
    "3x3 before padding": [layer(2, 16, 3), layer(16, 2, 3)],
    "padded 1x1 before padding": [layer(2, 8, 1, bias=False, pads=[1] * 4), layer(8, 2, 3)],
    "a bottleneck": [layer(8, 1, 1), layer(1, 8, 1)],
    "depthwise with pointwise": [layer(8, 8, 3, group=8), layer(8, 8, 1)],
    "two 3x3 as wide as their input": [layer(4, 4, 3), layer(4, 4, 3, pads=[0] * 4)],
}


@pytest.mark.parametrize("case", REFUSED)
def test_must_not_merge(case: str) -> None:
    unchanged(ANY_SIZE, convs(Net(), *REFUSED[case]))


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("bias before padding", "the second pads what the first adds a bias to"),
        ("3x3 before padding", "the second pads what the first, wider than 1x1, makes"),
        ("a bottleneck", "one operator would take 64 MACs a place, the two take 16"),
    ],
)
def test_a_refusal_has_a_reason(case: str, reason: str) -> None:
    program = program_of(convs(Net(), *REFUSED[case]))
    first, second = (linear_at(node, set(), True) for node in program.graph.nodes[:2])
    assert first is not None and second is not None
    assert merged(first, second) == reason


def test_one_that_holds_more_bytes_needs_leave() -> None:
    model = convs(Net(), layer(1, 8, 3, strides=[2, 2]), layer(8, 8, 3, group=8, pads=[0] * 4))
    unchanged(MERGE, model)
    assert ops(changed(ANY_SIZE, convs(Net(), layer(1, 9, 1), layer(9, 1, 3, pads=[0] * 4)))) == [
        "Conv",
        "Identity",
    ]


def test_a_shared_weight_frees_nothing() -> None:
    net = Net()
    weight = net.weight(net.normal(8, 3, 1, 1))
    first = net.node("Conv", "x", weight)
    net.conv(first, 8, 4, 1, out="y")
    net.node("Conv", "x", weight, out="z")
    model = net.model(("y", "z"), x=("N", 3, 6, 6))
    assert ops(changed(MERGE, model)) == ["Conv", "Conv"]  # 4x3 is less than 4x8


@pytest.mark.parametrize("end", ["another reader", "an output"])
def test_what_else_is_read_stays(end: str) -> None:
    net = Net()
    first = net.conv("x", 3, 8, 1, out="h")
    net.conv(first, 8, 4, 1, out="y")
    if end == "another reader":
        net.relu("h", out="z")
    outputs = ("y", "z") if end == "another reader" else ("y", "h")
    unchanged(MERGE, net.model(outputs, x=("N", 3, 6, 6)))


def test_what_a_body_reads_stays() -> None:
    model = """<ir_version: 8, opset_import: ["": 17]> net (float[N,2] x, bool c) => (float[N,2] y)
    <float[2] w = {2, 3}, float[2] v = {4, 5}> {
        m = Mul(x, w)
        y = If (c) <
            then_branch = t () => (float[N,2] a) { a = Mul(m, v) },
            else_branch = e () => (float[N,2] b) { b = Neg(x) }
        >
    }"""
    unchanged(MERGE, model)


def test_an_activation_between_stays() -> None:
    net = Net()
    net.conv(net.relu(net.conv("x", 3, 8, 1)), 8, 4, 1, out="y")
    unchanged(MERGE, net.model(x=("N", 3, 6, 6)))


def test_three_convolutions_become_one() -> None:
    model = convs(Net(), layer(3, 8, 1), layer(8, 8, 3, pads=[0] * 4), layer(8, 2, 1))
    assert ops(changed(MERGE, model)) == ["Conv", "Identity"]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two convolutions that fit each other, of any geometry."""
    group = draw(st.sampled_from([1, 2, 4]))
    middle = 4 * draw(st.integers(1, 2))

    def geometry() -> dict[str, Any]:
        axis = st.tuples(st.integers(1, 3), st.integers(1, 3))
        return {
            "kernel_shape": list(draw(axis)),
            "strides": list(draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))),
            "dilations": list(draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))),
            "pads": draw(st.lists(st.integers(0, 2), min_size=4, max_size=4)),
            "bias": draw(st.booleans()),
        }

    first = {**geometry(), "shape": (middle, 4 // group), "group": group}
    other = draw(st.sampled_from([1, 2, 4]))
    second = {**geometry(), "shape": (4, middle // other), "group": other}
    return first, second


@settings(max_examples=120, deadline=None)
@given(pairs(), st.booleans())
def test_any_two_convolutions_that_merge_give_the_same(
    pair: tuple[dict[str, Any], dict[str, Any]], plain: bool
) -> None:
    net = Net()
    x = "x"
    for index, given_ in enumerate(pair):
        given_ = dict(given_)
        shape, bias = given_.pop("shape"), given_.pop("bias")
        if plain and index:  # padding is what most often stands against it
            given_["pads"] = [0] * 4
        weights = [net.weight(net.normal(*shape, *given_["kernel_shape"]))]
        weights += [net.weight(net.normal(shape[0]))] if bias else []
        x = net.node("Conv", x, *weights, out=f"c{index}", **given_)
    model = net.model(("c1",), x=("N", 4, 15, 14))
    program, before = program_of(model), program_of(model)
    ANY_SIZE.run(program)
    assert len(program.graph.nodes) in (1, 2)
    same_outputs(program, before, {"a/x": smooth_images(2, 4, 15)[..., :14]}, 1e-5)


@pytest.mark.parametrize("same", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding(same: str) -> None:
    net = Net()
    x = net.conv("x", 3, 8, 1, auto_pad=same)
    net.conv(x, 8, 2, 3, pads=[0] * 4, out="y")
    assert ops(changed(MERGE, net.model(x=("N", 3, 6, 6)))) == ["Conv"]


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int) -> None:
    net = Net()
    weight = net.weight(net.normal(8, 3, *[1] * rank))
    other = net.weight(net.normal(2, 8, *[3] * rank))
    net.node("Conv", net.node("Conv", "x", weight), other, pads=[1] * (2 * rank), out="y")
    assert ops(changed(MERGE, net.model(x=("N", 3, *[5] * rank)))) == ["Conv"]


# -- features and tokens --------------------------------------------------------------------


def test_gemms_become_one() -> None:
    net = Net()
    net.gemm(net.gemm("x", 10, 30), 30, 5, out="y")
    program = changed(MERGE, net.model(x=("N", 10)))
    assert ops(program) == ["Gemm"]
    assert program.graph.nodes[0].name == "a/n_y"


def test_scaled_gemms_become_one() -> None:
    net = Net()
    first = net.node(
        "Gemm", "x", net.weight(net.normal(10, 30)), net.weight(net.normal(30)), alpha=0.5, beta=2.0
    )
    net.node(
        "Gemm", first, net.weight(net.normal(5, 30)), net.weight(net.normal(1, 5)),
        alpha=0.1, beta=0.5, transB=1, out="y",
    )  # fmt: skip
    assert ops(changed(MERGE, net.model(x=("N", 10)))) == ["Gemm"]


@pytest.mark.parametrize("shape", [(7, 10), ()])
def test_linear_layers_become_one(shape: tuple[int, ...]) -> None:
    net = Net()
    net.linear(net.linear("x", 10, 30), 30, 5, out="y")
    dims = ("N", *shape) if shape else ("N", 10)
    assert ops(changed(MERGE, net.model(x=dims))) == ["MatMul", "Add"]


def test_products_become_one() -> None:
    net = Net()
    first = net.node("MatMul", "x", net.weight(net.normal(10, 30)))
    net.node("MatMul", first, net.weight(net.normal(30, 5)), out="y")
    assert ops(changed(MERGE, net.model(x=("N", 7, 10)))) == ["MatMul"]


def test_a_gemm_takes_a_product_and_its_bias() -> None:
    net = Net()
    net.gemm(net.linear("x", 10, 30), 30, 5, out="y")
    assert ops(changed(MERGE, net.model(x=("N", 10)))) == ["Gemm"]


def test_a_gemm_with_a_bias_per_frame_stays() -> None:
    net = Net()
    first = net.node("Gemm", "x", net.weight(net.normal(10, 30)), net.weight(net.normal(2, 30)))
    net.gemm(first, 30, 5, out="y")
    unchanged(MERGE, net.model(x=(2, 10)))


def test_a_low_rank_pair_stays() -> None:
    net = Net()
    net.gemm(net.gemm("x", 20, 2), 2, 20, out="y")
    unchanged(MERGE, net.model(x=("N", 20)))


def test_the_first_bias_of_a_low_rank_pair_goes_into_the_second() -> None:
    net = Net()
    net.linear(net.linear("x", 20, 2), 2, 20, out="y")
    assert ops(changed(MERGE, net.model(x=("N", 6, 20)))) == ["MatMul", "MatMul", "Add"]


def test_a_weight_with_its_own_batch_stays() -> None:
    net = Net()
    first = net.node("MatMul", "x", net.weight(net.normal(3, 10, 30)))
    net.node("MatMul", first, net.weight(net.normal(30, 5)), out="y")
    unchanged(MERGE, net.model(x=(3, 7, 10)))


def test_half_precision_stays() -> None:
    net = Net(dtype=np.float16)
    net.gemm(net.gemm("x", 10, 30), 30, 5, out="y")
    unchanged(MERGE, net.model(x=("N", 10)))


def test_products_that_are_not_finite_stay() -> None:
    net = Net()
    first = net.node("MatMul", "x", net.weight(np.full((10, 30), 1e25)))
    net.node("MatMul", first, net.weight(np.full((30, 5), 1e25)), out="y")
    unchanged(MERGE, net.model(x=("N", 10)))


# -- per-channel steps ----------------------------------------------------------------------


def steps(net: Net, x: str, channels: int, shape: tuple[int, ...] = (1, 1)) -> str:
    """Mul, Sub, Div and Add by a number per channel."""
    size = (channels, *shape)
    for op in ("Mul", "Sub", "Div", "Add"):
        x = net.node(op, x, net.weight(net.random.uniform(0.5, 2, size)))
    return x


def test_steps_go_into_the_convolution_before() -> None:
    net = Net()
    net.relu(steps(net, net.conv("x", 3, 4), 4), out="y")
    assert ops(changed(MERGE, net.model(x=("N", 3, 6, 6)))) == ["Conv", "Relu"]


def test_steps_go_into_the_convolution_after() -> None:
    net = Net()
    net.conv(steps(net, net.relu("x"), 4), 4, 6, 3, pads=[0] * 4, group=2, out="y")
    assert ops(changed(MERGE, net.model(x=("N", 4, 6, 6)))) == ["Relu", "Conv"]


def test_an_offset_before_padding_stays() -> None:
    net = Net()
    net.conv(net.node("Add", net.relu("x"), net.weight(net.normal(4, 1, 1))), 4, 6, 3, out="y")
    unchanged(MERGE, net.model(x=("N", 4, 6, 6)))


def test_a_factor_before_padding_goes() -> None:
    net = Net()
    net.conv(net.node("Mul", net.relu("x"), net.weight(net.normal(4, 1, 1))), 4, 6, 3, out="y")
    assert ops(changed(MERGE, net.model(x=("N", 4, 6, 6)))) == ["Relu", "Conv"]


def norm(net: Net, x: str, channels: int) -> str:
    """A BatchNormalization."""
    given_ = [net.normal(channels) for _ in range(3)] + [net.random.uniform(0.5, 2, channels)]
    return net.node("BatchNormalization", x, *map(net.weight, given_))


def test_a_norm_before_a_convolution_goes() -> None:
    net = Net()
    net.conv(norm(net, "x", 4), 4, 6, 1, out="y")
    assert ops(changed(ANY_SIZE, net.model(x=("N", 4, 6, 6)))) == ["Conv"]


def test_a_norm_before_and_after_linear_layers_goes() -> None:
    net = Net()
    x = net.node("MatMul", norm(net, "x", 10), net.weight(net.normal(10, 20)))
    net.relu(norm(net, x, 20), out="y")
    assert ops(changed(ANY_SIZE, net.model(x=("N", 10)))) == ["MatMul", "Add", "Relu"]


def test_the_scale_of_tokens_goes_into_the_product() -> None:
    net = Net()
    x = steps(net, "x", 10, ())
    net.linear(x, 10, 5, out="y")
    assert ops(changed(MERGE, net.model(x=("N", 6, 10)))) == ["MatMul", "Add"]


def test_a_norm_over_the_wrong_axis_stays() -> None:
    net = Net()
    net.linear(norm(net, "x", 10), 10, 5, out="y")
    unchanged(ANY_SIZE, net.model(x=("N", 10, 10)))


def test_a_run_of_steps_becomes_two() -> None:
    net = Net()
    net.relu(steps(net, net.relu("x"), 4), out="y")
    assert ops(changed(MERGE, net.model(x=("N", 4, 6, 6)))) == ["Relu", "Mul", "Add", "Relu"]


def test_steps_that_change_nothing_go() -> None:
    net = Net()
    x = net.node("Mul", net.relu("x"), net.weight(np.ones((4, 1, 1))))
    x = net.node("Add", x, net.weight(np.float32(0)))
    net.relu(x, out="y")
    assert ops(changed(MERGE, net.model(x=("N", 4, 6, 6)))) == ["Relu", "Relu"]


def test_a_step_that_makes_an_output_stays() -> None:
    net = Net()
    net.node("Mul", net.relu("x"), net.weight(np.ones((4, 1, 1))), out="y")
    unchanged(MERGE, net.model(x=("N", 4, 6, 6)))


@pytest.mark.parametrize("shape", [(4, 6, 6), (1, 6, 1), (3, 4, 1, 1), (2, 1, 4, 1, 1)])
def test_constants_that_are_more_than_a_number_per_channel_stay(shape: tuple[int, ...]) -> None:
    net = Net()
    x = net.node("Mul", net.conv("x", 3, 4), net.weight(net.normal(*shape)))
    net.relu(x, out="y")
    unchanged(MERGE, net.model(x=(3, 3, 6, 6)))


def test_a_division_of_a_constant_stays() -> None:
    net = Net()
    net.relu(net.node("Div", net.weight(net.normal(4, 1, 1)), net.conv("x", 3, 4)), out="y")
    unchanged(MERGE, net.model(x=("N", 3, 6, 6)))


def test_square_images_are_read_on_the_right_axis() -> None:
    net = Net()
    x = steps(net, net.relu("x"), 6)
    net.relu(x, out="y")
    assert ops(changed(MERGE, net.model(x=(6, 6, 6, 6)))) == ["Relu", "Mul", "Add", "Relu"]


def test_a_wrong_merge_would_be_seen() -> None:
    model = convs(Net(), layer(3, 8, 1), layer(8, 4, 1))
    program, before = program_of(model), program_of(model)
    MERGE.run(program)
    weight = program.graph.nodes[0].inputs[1]
    assert isinstance(weight, gs.Constant)
    weight.values = weight.values * np.float32(1.01)
    with pytest.raises(AssertionError):
        same_outputs(program, before, {"a/x": smooth_images(2, 3, 9)})


@pytest.mark.parametrize(("factor", "made"), [(4.0, np.inf), (0.25, 0.0)])
def test_steps_merge_as_far_as_their_product_is_a_number(factor: float, made: float) -> None:
    net = Net()
    x = "x"
    for _ in range(200):
        x = net.node("Mul", x, net.weight(np.full((1, 3), factor)))
    net.node("Identity", x, out="y")
    program = program_of(net.model(x=("N", 3)))
    MERGE.run(program)
    weights = [weight.values for weight in program.weights().values()]
    assert all(np.isfinite(array).all() and np.all(array != 0) for array in weights)
    assert 2 < len(program.graph.nodes) < 10
    given = np.array([[0, 1, 1]], np.float32)
    assert np.array_equal(run(program, {"a/x": given})["a/y"], [[0, made, made]])
