"""Which operators a target's integer kernels take, and what they need in 8 bits."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.graph.program import Program
from repsimc.compiler.structure.integer_kernels import (
    CPU,
    TENSORRT,
    is_product,
    most_of,
    supported,
    units_of,
    why_no_kernel,
)
from tests.nets.few_bits import per_channel, put
from tests.nets.networks import Net
from tests.nets.residual import residual_net
from tests.programs import program_of


def stored_everywhere(program: Program, bits: int = 8) -> Program:
    """Every weight of a product in few bits, but for small ones of one axis."""
    for node in list(program.graph.nodes):
        if is_product(node):
            axis = 1 if node.op in ("MatMul", "ConvTranspose") else 0
            put(program, node.inputs[1].name, per_channel(bits, axis))
    return program


def needs(program: Program, target: str) -> dict[str, tuple[tuple[str, ...], str]]:
    return {
        unit.node.outputs[0].name: (unit.reads, unit.makes) for unit in units_of(program, target)
    }


def test_a_processor_wants_what_is_read_and_made_behind_the_relu() -> None:
    found = needs(stored_everywhere(program_of(residual_net(1))), CPU)
    assert found["a/b0_c"] == (("a/stem",), "a/b0_h")
    assert found["a/b0_d"] == (("a/b0_h",), "a/b0_d")
    assert found["a/b0_s"] == (("a/b0_d", "a/stem"), "a/b0")
    assert "a/y" not in found  # a Gemm


def test_tensorrt_wants_what_is_read_and_the_shortcut() -> None:
    found = needs(stored_everywhere(program_of(residual_net(1))), TENSORRT)
    assert found["a/b0_d"] == (("a/b0_h",), "")
    assert found["a/b0_s"] == (("a/stem",), "")
    assert "a/y" in found


def test_what_has_no_kernel_says_why() -> None:
    net = Net()
    x = net.relu(net.conv("x", 8, 8))
    x = net.node("ConvTranspose", x, net.weight(net.normal(8, 8, 2, 2)), strides=[2, 2])
    flat = net.node("Flatten", net.node("GlobalAveragePool", x))
    net.gemm(net.linear(flat, 8, 8), 8, 8, out="y")
    program = stored_everywhere(program_of(net.model(x=["N", 8, 8, 8])))
    nodes = {node.op: node for node in program.graph.nodes}
    assert why_no_kernel(nodes["Conv"], CPU) == ""
    assert why_no_kernel(nodes["ConvTranspose"], CPU) == "no integer kernel of ConvTranspose"
    assert why_no_kernel(nodes["MatMul"], CPU) == "no integer kernel of MatMul with a bias"
    assert why_no_kernel(nodes["Gemm"], CPU) == "no integer kernel of Gemm"
    assert all(why_no_kernel(node, TENSORRT) == "" for node in nodes.values() if is_product(node))


def test_weights_in_float_and_in_four_bits_are_not_computed_with_in_eight() -> None:
    program = program_of(residual_net(1))
    node = next(node for node in program.graph.nodes if is_product(node))
    assert why_no_kernel(node, CPU) == "weight in float"
    stored_everywhere(program, 4)
    node = next(node for node in program.graph.nodes if is_product(node))
    assert why_no_kernel(node, CPU) == "weight in 4 bits"
    assert [unit for unit in units_of(program, CPU) if unit.product] == []


def test_without_one_value_its_neighbours_are_of_no_use() -> None:
    program = stored_everywhere(program_of(residual_net(2)))
    units = units_of(program, CPU)
    values = {value for unit in units for value in unit.values}
    everything, kept = supported(units, values, CPU)
    assert set(kept) == values and len(everything) == len(units)
    alive, kept = supported(units, values - {"a/b0"}, CPU)
    assert 0 < len(alive) < len(units) and "a/b0" not in kept
    assert set(kept) == {value for unit in alive for value in unit.values}


def test_a_product_alone_stays_in_float() -> None:
    program = stored_everywhere(program_of(residual_net(1)))
    units = units_of(program, CPU)
    assert supported(units, {"a/stem", "a/b0_h"}, CPU) == ([], [])
    (unit,), values = supported(units_of(program, TENSORRT), {"a/b0_h"}, TENSORRT)
    assert values == ["a/b0_h"] and unit.node.outputs[0].name == "a/b0_d"


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 1.0)])
def test_a_clip_goes_into_the_rounding_where_it_begins_at_zero(low: float, high: float) -> None:
    net = Net()
    ends = [net.weight(np.array(end)) for end in (low, high)]
    x = net.node("Clip", net.conv("x", 8, 8, out="c"), *ends, out="k")
    net.head(net.conv(x, 8, 8), 8, 5)
    program = stored_everywhere(program_of(net.model(x=["N", 8, 8, 8])))
    assert needs(program, CPU)["a/c"] == (("a/x",), "a/k" if low == 0 else "a/c")
    assert most_of(program.values()["a/k"]) == high
    assert most_of(program.values()["a/c"]) == most_of(program.values()["a/x"]) == float("inf")


def test_a_value_that_is_an_output_keeps_its_maker_in_float() -> None:
    net = Net()
    x = net.conv("x", 8, 8, out="mid")
    net.head(net.conv(net.conv(x, 8, 8), 8, 8), 8, 5)
    program = stored_everywhere(program_of(net.model(("mid", "y"), x=["N", 8, 8, 8])))
    assert "a/mid" not in needs(program, CPU)
