"""Models of older opsets, raised: they compute what they did."""

from __future__ import annotations

import onnx
import pytest

from repsimc.compiler.graph.export import to_proto
from tests.frontends.given_models import SMALL
from tests.programs import (
    assert_close,
    assert_same_outputs,
    feeds_for,
    joined,
    model_of_text,
    program_of,
    run,
)

OLD: dict[str, tuple[int, str]] = {
    "Relu": (9, "g (float[2,4,6,6] x) => (float[2,4,6,6] y) { y = Relu(x) }"),
    "Softmax over several axes": (
        9,
        "g (float[2,4,6] x) => (float[2,4,6] y) { y = Softmax<axis=1>(x) }",
    ),
    "LogSoftmax": (11, "g (float[2,4] x) => (float[2,4] y) { y = LogSoftmax<axis=1>(x) }"),
    "Hardmax": (11, "g (float[2,4,3] x) => (float[2,4,3] y) { y = Hardmax<axis=1>(x) }"),
    "BatchNormalization": (
        9,
        """g (float[2,4,6,6] x) => (float[2,4,6,6] y) <float[4] s = {1, 2, 3, 4},
        float[4] b = {1, 2, 3, 4}, float[4] m = {0, 0, 1, 1}, float[4] v = {1, 2, 1, 2}>
        { y = BatchNormalization(x, s, b, m, v) }""",
    ),
    "Upsample nearest": (
        9,
        """g (float[1,2,3,3] x) => (float[1,2,6,6] y) <float[4] s = {1, 1, 2, 2}>
        { y = Upsample<mode="nearest">(x, s) }""",
    ),
    "Upsample by 2.5": (
        9,
        """g (float[1,2,4,4] x) => (float[1,2,10,10] y) <float[4] s = {1, 1, 2.5, 2.5}>
        { y = Upsample<mode="nearest">(x, s) }""",
    ),
    "Upsample linear": (
        9,
        """g (float[1,2,3,3] x) => (float[1,2,6,6] y) <float[4] s = {1, 1, 2, 2}>
        { y = Upsample<mode="linear">(x, s) }""",
    ),
    "Resize linear": (
        10,
        """g (float[1,2,3,3] x) => (float[1,2,6,6] y) <float[4] s = {1, 1, 2, 2}>
        { y = Resize<mode="linear">(x, s) }""",
    ),
    "Resize smaller": (
        10,
        """g (float[1,2,5,5] x) => (float[1,2,3,3] y) <float[4] s = {1, 1, 0.6, 0.6}>
        { y = Resize<mode="nearest">(x, s) }""",
    ),
    "Resize of opset 11": (
        11,
        """g (float[1,2,3,3] x) => (float[1,2,6,6] y) <float[4] s = {1, 1, 2, 2}, float[0] r = {}>
        { y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, r, s) }""",
    ),
    "Clip": (9, "g (float[2,4] x) => (float[2,4] y) { y = Clip<min = -0.5, max = 0.5>(x) }"),
    "Clip without bounds": (9, "g (float[2,4] x) => (float[2,4] y) { y = Clip<max = 0.5>(x) }"),
    "Clip of half precision": (
        9,
        """g (float16[2,4] x) => (float16[2,4] y) { y = Clip<min = -0.5, max = 0.5>(x) }""",
    ),
    "Pad": (
        9,
        """g (float[2,4] x) => (float[4,6] y)
        { y = Pad<pads = [1, 1, 1, 1], value = 2.0>(x) }""",
    ),
    "Pad of float64": (
        9,
        "g (double[2,4] x) => (double[4,6] y) { y = Pad<pads = [1, 1, 1, 1]>(x) }",
    ),
    "Squeeze and Unsqueeze": (
        9,
        """g (float[2,1,4] x) => (float[1,2,4] y)
        { h = Squeeze<axes = [1]>(x)  y = Unsqueeze<axes = [0]>(h) }""",
    ),
    "ReduceSum": (9, "g (float[2,4] x) => (float[2,1] y) { y = ReduceSum<axes = [1]>(x) }"),
    "ReduceMean of all": (9, "g (float[2,4] x) => (float[1,1] y) { y = ReduceMean(x) }"),
    "Split": (
        9,
        """g (float[2,6] x) => (float[2,2] y, float[2,4] z)
        { y, z = Split<axis = 1, split = [2, 4]>(x) }""",
    ),
    "Slice": (
        9,
        """g (float[2,6] x) => (float[2,2] y)
        { y = Slice<axes = [1], starts = [1], ends = [3]>(x) }""",
    ),
    "TopK": (
        9,
        """g (float[2,6] x) => (float[2,2] y, int64[2,2] i) { y, i = TopK<k = 2>(x) }""",
    ),
    "Dropout": (9, "g (float[2,6] x) => (float[2,6] y) { y = Dropout<ratio = 0.4>(x) }"),
    "Scatter": (
        9,
        """g (float[2,3] x) => (float[2,3] y) <int64[1,2] i = {0, 2}, float[1,2] u = {7, 8}>
        { y = Scatter<axis = 1>(x, i, u) }""",
    ),
    "Gemm": (
        9,
        """g (float[2,3] x) => (float[2,2] y) <float[3,2] w = {1, 2, 3, 4, 5, 6},
        float[2] b = {1, 2}> { y = Gemm<alpha = 0.5>(x, w, b) }""",
    ),
    "Flatten, Cast, Concat and Transpose": (
        9,
        """g (float[2,3,2] x) => (float[6,4] y)
        { f = Flatten<axis = 1>(x)  i = Cast<to = 6>(f)  c = Cast<to = 1>(i)
          k = Concat<axis = 0>(f, c)  y = Transpose<perm = [1, 0]>(k) }""",
    ),
    "AveragePool and MaxPool": (
        9,
        """g (float[1,2,6,6] x) => (float[1,2,3,3] y, float[1,2,3,3] z)
        { y = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)
          z = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }""",
    ),
    "Upsample by attribute": (
        7,
        """g (float[1,2,3,3] x) => (float[1,2,6,6] y)
        { y = Upsample<mode="nearest", scales = [1.0, 1.0, 2.0, 2.0]>(x) }""",
    ),
    "Split and Unsqueeze of opset 11": (
        11,
        """g (float[2,6] x) => (float[2,1,3] y, float[2,3] z)
        { h, z = Split<axis = 1>(x)  y = Unsqueeze<axes = [1]>(h) }""",
    ),
    "reductions of opset 13": (
        13,
        """g (float[2,6] x) => (float[2] y, float[2,1] z, float[1,6] u)
        { y = ReduceL2<axes = [1], keepdims = 0>(x)  z = ReduceMax<axes = [1]>(x)
          u = ReduceLogSumExp<axes = [0]>(x) }""",
    ),
    "Pad of opset 11": (
        11,
        """g (float[2,4] x) => (float[4,6] y) <int64[4] p = {1, 1, 1, 1}, float v = {2}>
        { y = Pad(x, p, v) }""",
    ),
    "Clip of opset 11": (
        11,
        "g (float[2,4] x) => (float[2,4] y) <float h = {0.5}> { y = Clip(x, , h) }",
    ),
    "GridSample": (
        16,
        """g (float[1,2,4,4] x, float[1,3,3,2] u) => (float[1,2,3,3] y)
        { y = GridSample<mode="bilinear">(x, u) }""",
    ),
    "recurrent": (
        9,
        """g (float[2,1,1] x) => (float[2,1,1,1] y, float[1,1,1] h, float[1,1,1] c)
        <float[1,4,1] w = {1, 2, 3, 4}, float[1,4,1] r = {3, 2, 1, 0}>
        { y, h, c = LSTM<hidden_size = 1>(x, w, r) }""",
    ),
    "quantised per channel": (
        13,
        """g (float[2,3] x) => (float[2,3] y)
        <float[3] s = {0.1, 0.2, 0.3}, int8[3] z = {0, 1, 2}>
        { q = QuantizeLinear<axis = 1>(x, s, z)  y = DequantizeLinear<axis = 1>(q, s, z) }""",
    ),
    "indices": (
        9,
        """g (float[2,4] x) => (int64[2,1] y, float[2,4] z)
        <int64[2] i = {1, 0}, float[1,4] k = {1, 2, 3, 4}>
        { y = ArgMax<axis = 1>(x)  g1 = Gather<axis = 0>(x, i)  c = Greater(x, k)
          w = Where(c, g1, k)  z = Sub(w, x) }""",
    ),
    "DFT": (
        17,
        "g (float[1,4,1] x) => (float[1,4,2] y) { y = DFT<axis = 1>(x) }",
    ),
    "shapes": (
        9,
        """g (float[2,3,4] x) => (float[2,12] y, float[2,3,4] z) <int64[2] t = {0, -1}>
        { y = Reshape(x, t)  s = Shape(x)  o = ConstantOfShape(s)  z = Add(x, o) }""",
    ),
    "activations": (
        9,
        """g (float[2,3] x) => (float[2,3] y)
        { a = LeakyRelu<alpha = 0.2>(x)  b = Elu(a)  c = Selu(b)  d = HardSigmoid(c)
          e = Softplus(d)  f = PRelu(e, x)  y = Erf(f) }""",
    ),
    "ConvTranspose and InstanceNormalization": (
        9,
        """g (float[1,1,3,3] x) => (float[1,1,6,6] y)
        <float[1,1,2,2] w = {1, 2, 3, 4}, float[1] s = {2}, float[1] b = {1}>
        { h = ConvTranspose<kernel_shape = [2, 2], strides = [2, 2]>(x, w)
          y = InstanceNormalization(h, s, b) }""",
    ),
    "inside a body": (
        11,
        """g (bool c, float[2,4,3] x) => (float[2,4,3] y)
        { y = If (c) <
            then_branch = t () => (float[2,4,3] o) { o = Softmax<axis = 1>(x) },
            else_branch = e () => (float[2,4,3] p) { p = Clip(x) }> }""",
    ),
    "inside a function": (
        11,
        """g (float[2,4,3] x) => (float[2,4] y) { y = own.f<a = 0.5>(x) }
        <domain: "own", opset_import: ["" : 11]>
        f <a> (v) => (r) { s = Softmax<axis = 1>(v)  l = LeakyRelu<alpha: float = @a>(s)
                           r = ReduceSum<axes = [2], keepdims = 0>(l) }""",
    ),
}


@pytest.mark.parametrize("case", OLD)
def test_raised_models_compute_the_same(case: str):
    opset, graph = OLD[case]
    domains = ', "own" : 1' if "own" in graph else ""
    model = model_of_text(f'<ir_version: 8, opset_import: ["" : {opset}{domains}]>\n{graph}')
    program = program_of(model)
    assert program.graph.opset == 17
    onnx.checker.check_model(to_proto(program), full_check=True)
    assert_same_outputs(model, program, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("opset", [18, 19, 20, 21])
@pytest.mark.parametrize("case", OLD)
def test_joined_models_are_raised_to_the_newest(case: str, opset: int):
    old, graph = OLD[case]
    domains = ', "own" : 1' if "own" in graph else ""
    model = model_of_text(f'<ir_version: 8, opset_import: ["" : {old}{domains}]>\n{graph}')
    newer = model_of_text(
        f'<ir_version: 8, opset_import: ["" : {opset}]> n (float[1] q) => (float[1] r)'
        "{ r = Neg(q) }"
    )
    program = joined(a=model, b=newer)
    assert program.graph.opset == opset
    onnx.checker.check_model(to_proto(program), full_check=True)
    assert all(value.dtype is not None for value in program.values().values())
    own = program.models["a"]
    feeds = feeds_for(model)
    part = to_proto(program, outputs=list(own.outputs.values()))
    actual = run(part, {own.inputs[key]: array for key, array in feeds.items()})
    for output, array in run(model, feeds).items():
        assert_close(actual[own.outputs[output]], array, rtol=1e-6, atol=1e-6)


def test_newer_opsets_are_kept():
    program = program_of(SMALL.replace("17", "21"))
    assert program.graph.opset == 21
    assert to_proto(program).opset_import[0].version == 21
