"""Hidden layers: two operators with nothing but a function per unit between them."""

from __future__ import annotations

import pytest

from repsimc.compiler.fitting.hidden_layers import HiddenLayer, hidden_layer
from repsimc.compiler.fitting.operators import linear_operator
from tests.nets.networks import Net
from tests.programs import program_of


def layer_of(net: Net, reader: str) -> HiddenLayer | None:
    program = program_of(net.model(x=["N", 3, 8, 8]))
    operator = linear_operator(program.node(f"a/n_{reader}"))
    assert operator is not None
    return hidden_layer(operator, {"a/y"})


def test_a_hidden_layer_is_read_through_functions_of_one_unit() -> None:
    net = Net()
    x = net.conv("x", 3, 4, out="maker")
    gated = net.node("Mul", x, net.node("Sigmoid", x))  # SiLU as exporters write it
    net.head(net.conv(gated, 4, 6, out="reader"), 6, 5)
    layer = layer_of(net, "reader")
    assert layer is not None
    assert layer.width == 4
    assert [node.op for node in layer.between] == ["Sigmoid", "Mul"]


@pytest.mark.parametrize("between", ["Softmax", "GlobalAveragePool"])
def test_units_that_see_each_other_are_no_hidden_layer(between: str) -> None:
    net = Net()
    x = net.node(between, net.conv("x", 3, 4, out="maker"))
    net.head(net.conv(x, 4, 6, 1, out="reader"), 6, 5)
    assert layer_of(net, "reader") is None


def test_units_that_others_read_are_no_hidden_layer() -> None:
    net = Net()
    x = net.relu(net.conv("x", 3, 4, out="maker"), out="h")
    one = net.conv(x, 4, 4, out="reader")
    net.head(net.node("Add", one, "h"), 4, 5)
    assert layer_of(net, "reader") is None
