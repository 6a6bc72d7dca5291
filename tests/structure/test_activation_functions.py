"""Activation functions in a graph: single nodes, and those made of several steps."""

from __future__ import annotations

from repsimc.compiler.structure.activation_functions import activations_of
from tests.nets.foldable import gelu_mlp, statistics_of, tokens
from tests.nets.networks import Net
from tests.programs import program_of


def test_activations_of_several_steps_are_one() -> None:
    program = program_of(gelu_mlp())
    found = {a.value: a for a in activations_of(program, program.graph.nodes)}
    assert found["a/g"].given == "a/h" and len(found["a/g"].nodes) == 5
    assert statistics_of(program, tokens()).activations["a/g"].damage < 0.5


def test_a_silu_is_one_activation() -> None:
    net = Net()
    x = net.conv("x", 3, 4, out="h")
    net.conv(net.node("Mul", x, net.node("Sigmoid", x), out="s"), 4, 5, out="y")
    program = program_of(net.model(x=("N", 3, 8, 8)))
    (found,) = activations_of(program, program.graph.nodes)
    assert (found.given, found.value) == ("a/h", "a/s")


def test_a_sum_of_two_values_is_no_activation() -> None:
    net = Net()
    x = net.node("Add", net.conv("x", 3, 4), net.node("Exp", net.conv("x", 3, 4)))
    net.conv(x, 4, 5, out="y")
    program = program_of(net.model(x=("N", 3, 8, 8)))
    assert activations_of(program, program.graph.nodes) == []
