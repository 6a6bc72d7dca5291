"""Regions: found from the dataflow alone, and refused with a reason."""

from __future__ import annotations

import onnx
from onnx import helper

from repsimc.compiler.graph.program import Program, own_name
from repsimc.compiler.graph.regions import Region, find_regions
from tests.nets.networks import Net
from tests.nets.residual import CHANNELS, block, residual_net
from tests.programs import program_of


def ends(regions: list[Region]) -> list[tuple[str, str]]:
    return [(own_name(r.entry), own_name(r.exit)) for r in regions]


def blocks_of(program: Program) -> list[Region]:
    return [r for r in find_regions(program).found if r.skipped and r.same_shape]


def test_residual_blocks_reach_from_activation_to_activation() -> None:
    found = blocks_of(program_of(residual_net(3)))
    assert ends(found) == [("stem", "b0"), ("b0", "b1"), ("b1", "b2")]
    assert all(region.whole and region.depth == 0 for region in found)
    assert [len(region.nodes) for region in found] == [5, 5, 5]


def test_branches_are_nested_in_their_block() -> None:
    program = program_of(residual_net(2))
    inner = [r for r in find_regions(program).found if r.depth == 1]
    assert ("b0_h", "b0_d") in ends(inner)  # the second convolution
    assert ("stem", "b0_h") in ends(inner)  # the first, with its activation
    assert not next(r for r in inner if r.exit == "a/b0_h").whole  # the skip goes around it


def test_a_plain_run_is_a_region_per_convolution() -> None:
    net = Net()
    x = net.relu(net.conv("x", 3, 4), out="r0")
    for index in range(1, 3):
        x = net.relu(net.conv(x, 4, 4), out=f"r{index}")
    net.head(x, 4, 5)
    found = [r for r in find_regions(program_of(net.model(x=["N", 3, 8, 8]))).found if r.same_shape]
    assert ends(found) == [("r0", "r1"), ("r1", "r2")]
    assert not any(region.skipped for region in found)


def test_an_inverted_residual_is_one_region() -> None:
    net = Net()
    x = net.conv("x", 3, 4, 1, out="in")
    wide = net.relu(net.conv(x, 4, 12, 1))
    deep = net.relu(net.conv(wide, 12, 12, group=12))
    net.head(net.node("Add", net.conv(deep, 12, 4, 1), x, out="out"), 4, 5)
    found = blocks_of(program_of(net.model(x=["N", 3, 8, 8])))
    assert ends(found) == [("in", "out")]


def transformer(net: Net, x: str, width: int, name: str) -> str:
    """Attention and MLP halves; attention with one head and no softmax scale."""
    normed = normalised(net, x, width)
    q, k, v = (net.linear(normed, width, width) for _ in range(3))
    scores = net.node("Softmax", net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1])))
    mixed = net.linear(net.node("MatMul", scores, v), width, width)
    x = net.node("Add", x, mixed, out=f"{name}_attention")
    hidden = net.relu(net.linear(normalised(net, x, width), width, 2 * width))
    return net.node("Add", x, net.linear(hidden, 2 * width, width), out=f"{name}_mlp")


def normalised(net: Net, x: str, width: int) -> str:
    ones, zeros = net.weight([1.0] * width), net.weight([0.0] * width)
    return net.node("LayerNormalization", x, ones, zeros)


def test_transformer_halves_are_regions() -> None:
    net = Net()
    x = net.linear("x", 6, 8, out="embedded")
    for name in ("t0", "t1"):
        x = transformer(net, x, 8, name)
    net.gemm(net.node("ReduceMean", x, axes=[1], keepdims=0), 8, 5, out="y")
    found = blocks_of(program_of(net.model(x=["N", 4, 6])))
    assert ends(found) == [
        ("embedded", "t0_attention"),
        ("t0_attention", "t0_mlp"),
        ("t0_mlp", "t1_attention"),
        ("t1_attention", "t1_mlp"),
    ]


def test_a_strided_block_changes_the_shape() -> None:
    net = Net()
    x = net.relu(net.conv("x", 3, 4), out="in")
    left = net.conv(net.relu(net.conv(x, 4, 8, strides=[2, 2])), 8, 8)
    right = net.conv(x, 4, 8, 1, strides=[2, 2], pads=[0] * 4)
    net.head(net.relu(net.node("Add", left, right), out="out"), 8, 5)
    program = program_of(net.model(x=["N", 3, 8, 8]))
    found = [r for r in find_regions(program).found if own_name(r.exit) == "out"]
    assert ends(found) == [("in", "out")]
    assert found[0].whole
    assert not found[0].same_shape


def reasons(program: Program) -> dict[tuple[str, str], str]:
    return {(own_name(r.entry), own_name(r.exit)): r.reason for r in find_regions(program).refused}


def test_an_output_inside_a_region_is_refused() -> None:
    net = Net()
    x = block(net, net.relu(net.conv("x", 3, CHANNELS), out="stem"), CHANNELS, "b0")
    net.head(x, CHANNELS, 5)
    program = program_of(net.model(("y", "b0_h"), x=["N", 3, 8, 8]))
    assert ends(blocks_of(program)) == []
    assert "b0_h inside it is a model's output" in reasons(program)["stem", "b0_s"]


def test_weights_shared_with_the_outside_are_refused() -> None:
    net = Net()
    weight = net.weight(net.normal(CHANNELS, CHANNELS, 3, 3, scale=0.1), "shared")
    x = net.relu(net.conv("x", 3, CHANNELS), out="stem")
    for name in ("b0", "b1"):
        branch = net.node("Conv", x, weight, pads=[1] * 4)
        x = net.relu(net.node("Add", branch, x, out=f"{name}_s"), out=name)
    net.head(x, CHANNELS, 5)
    program = program_of(net.model(x=["N", 3, 8, 8]))
    assert ends(blocks_of(program)) == []
    assert "weight a/shared inside it is shared with a/n_conv" in str(reasons(program))


def with_condition(value: str) -> onnx.ModelProto:
    """A residual net whose `value` is read by the branch of an If."""
    proto = residual_net(2)
    branch = helper.make_graph(
        [helper.make_node("Identity", [value], ["taken"], name="inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("taken", onnx.TensorProto.FLOAT, None)],
    )
    condition = helper.make_tensor("c", onnx.TensorProto.BOOL, [], [True])
    proto.graph.initializer.append(condition)
    proto.graph.node.append(
        helper.make_node("If", ["c"], ["picked"], name="if", then_branch=branch, else_branch=branch)
    )
    proto.graph.output.append(helper.make_tensor_value_info("picked", onnx.TensorProto.FLOAT, None))
    return proto


def test_a_region_that_feeds_control_flow_is_refused() -> None:
    program = program_of(with_condition("b0_h"))
    assert ends(blocks_of(program)) == [("b0", "b1")]
    assert "feeds the subgraph of" in reasons(program)["stem", "b0_s"]


def test_finding_regions_changes_nothing_and_is_deterministic() -> None:
    program = program_of(residual_net(3))
    assert find_regions(program) == find_regions(program.copy())
