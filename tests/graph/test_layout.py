"""Which axis carries the channels, and where an activation function starts."""

from __future__ import annotations

import pytest

from repsimc.compiler.graph.layout import Layout, layout_of, pre_activation
from tests.programs import program_of

MATRIX = f"float[6,6] w = {{{','.join('1' * 36)}}}"
FIRST, LAST = Layout.CHANNELS_FIRST, Layout.CHANNELS_LAST


def network(shape: str, body: str, constants: str = "") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[{shape}] x) => (float[{shape}] y)
    <{constants}>
    {{ {body} }}"""


@pytest.mark.parametrize(
    ("shape", "body", "constants", "value", "layout"),
    [
        ("N,4,6,6", "t = Relu (x) y = MaxPool<kernel_shape=[1,1]> (t)", "", "t", FIRST),
        ("N,4,6", "t = MaxPool<kernel_shape=[1]> (x) u = Relu (t) y = Tanh (u)", "", "u", FIRST),
        ("N,4,6", "t = Relu (x) y = MatMul (t, w)", MATRIX, "t", LAST),
        ("N,4,6,6", "t = Relu (x) y = MatMul (t, w)",
         MATRIX, "t", LAST),
        ("N,4,6", "t = Relu (x) u = Add (t, t) y = LayerNormalization (u, s)",
         "float[6] s = {1,1,1,1,1,1}", "t", LAST),
        ("N,6", "t = Relu (x) y = Tanh (t)", "", "t", LAST),
        ("N,4,6", "t = Relu (x) y = Tanh (t)", "", "t", LAST),  # no word of it: tokens
        ("N,4,6,6", "t = Relu (x) y = Tanh (t)", "", "t", FIRST),  # no word of it: an image
        # A transposition may change what an axis means: nothing is learned from behind it.
        ("N,6,6", "t = Relu (x) u = Transpose<perm=[0,2,1]> (t) y = MaxPool<kernel_shape=[1]> (u)",
         "", "t", LAST),
    ],
)  # fmt: skip
def test_layout_is_told_by_the_operators_around_a_value(
    shape: str, body: str, constants: str, value: str, layout: Layout
) -> None:
    program = program_of(network(shape, body, constants))
    assert layout_of(program.values()[f"a/{value}"]) is layout


def test_an_adapter_goes_before_the_activation_function() -> None:
    values = program_of(
        network("N,4", "t = Abs (x) u = Relu (t) v = Tanh (t) w = Exp (u) y = Relu (w)")
    ).values()
    u, y = values["a/u"], values["a/y"]
    assert pre_activation(u, set()) is u  # t is read by Tanh too
    assert pre_activation(y, set()) is values["a/w"]
    assert pre_activation(y, {"a/y"}) is y  # an output stays what it is
    assert pre_activation(values["a/w"], set()) is values["a/w"]  # Exp is no activation function
    assert pre_activation(values["a/x"], set()) is values["a/x"]
