"""Sizes that a model states are held against what it may take, before anything is allocated."""

from __future__ import annotations

import onnx
import pytest

from repsimc.compiler.errors import ModelError
from repsimc.compiler.frontends.declared_sizes import check_sizes
from repsimc.compiler.isolation.allowance import ModelAllowance, ParseLimits
from tests.programs import model_of_text, program_of


def model(inputs: str, value: str = "float[2] h") -> onnx.ModelProto:
    return model_of_text(f"""<ir_version: 8, opset_import: ["" : 17]>
    g ({inputs}) => (float[A] y) <{value}> {{ h = Relu(x)  y = Neg(h) }}""")


def check(proto: onnx.ModelProto, weights: tuple[str, ...] = ()) -> None:
    limits = ParseLimits(memory_nbytes=1000)
    check_sizes(proto, weights, ModelAllowance("model 'net' (net.onnx)", 1, limits))


def test_a_value_may_have_what_a_model_may_take_and_64_times_its_inputs() -> None:
    check(model("float[10] x", "float[890] h"))  # 1000 + 64 * 40
    with pytest.raises(ModelError, match=r"value 'h' of model 'net' \(net.onnx\) takes 3.48 KiB"):
        check(model("float[10] x", "float[891] h"))


def test_an_input_may_have_what_a_model_may_take() -> None:
    check(model("float[250] x"))
    with pytest.raises(ModelError, match="input 'x' of model 'net'"):
        check(model("float[251] x"))


def test_free_sizes_and_sizes_of_zero_count_one() -> None:
    check(model("float[N] x", "float[N,0,100] h"))
    with pytest.raises(ModelError, match=r"value 'h'"):
        check(model("float[N] x", "float[0,4611686018427387904] h"))


def test_weights_that_were_taken_out_are_no_inputs() -> None:
    check(model("float[2] x, float[1000000] w"), ("w",))


def test_values_of_bodies_count() -> None:
    with pytest.raises(ModelError, match=r"value 'p' of model 'a' .* by its shape"):
        program_of(
            """<ir_version: 8, opset_import: ["" : 17]>
        g (bool on, float[1] x) => (float[Q] y) {
          y = If (on) <
            then_branch = one () => (float[Q] p) {
              size = Constant <value_ints = [1099511627776]> ()
              p = ConstantOfShape (size)
            },
            else_branch = two () => (float[1] q) { q = Neg (x) }
          > }"""
        )


def test_a_convolution_with_pads_without_end_is_refused() -> None:
    with pytest.raises(ModelError, match=r"value 'z' of model 'a' .* by its shape"):
        program_of("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,1,8,8] x) => (float[A,B,C,D] y) <float[1,1,3,3] w = {1,1,1,1,1,1,1,1,1}>
        { z = Conv <pads = [1099511627776,1,1,1]> (x, w)  y = Relu(z) }""")
