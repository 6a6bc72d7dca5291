"""Models read from ONNX: what they compute, and everything they say of themselves, is kept."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from repsimc.compiler.errors import ModelError, UsageError
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.graph.export import any_rank_allowed, to_proto
from repsimc.compiler.graph.weights import array_of
from repsimc.compiler.isolation.allowance import ParseLimits
from tests.frontends.given_models import SMALL, good, refused
from tests.programs import (
    assert_close,
    assert_same_outputs,
    feeds_for,
    joined,
    model_of_text,
    program_of,
    run,
)


def test_names_carry_the_model():
    program = program_of(SMALL, "net")
    assert program.models["net"].inputs == {"x": "net/x"}
    assert program.models["net"].outputs == {"y": "net/y"}
    assert [node.name for node in program.graph.nodes] == ["net/MatMul_0", "net/Relu_1"]
    assert set(program.values()) == {"net/x", "net/h", "net/y"}
    assert set(program.weights()) == {"net/w"}


def test_the_given_model_is_not_changed():
    model = model_of_text(SMALL)
    before = model.SerializeToString(deterministic=True)
    program_of(model)
    assert model.SerializeToString(deterministic=True) == before


def test_annotations_survive_reading_joining_and_writing():
    model = model_of_text(SMALL)
    model.graph.node[1].metadata_props.add(key="stage", value="2")
    model.graph.node[1].doc_string = "the activation"
    model.graph.node[1].name = "act"
    model.metadata_props.add(key="names", value="{0: 'cat'}")
    program = joined(a=model, b=SMALL)
    assert program.metadata["a/act"] == {"stage": "2"}
    assert program.notes["a/act"].sources == ("a/act",)
    assert program.docs == {"a/act": "the activation"}
    assert program.models["a"].metadata == {"names": "{0: 'cat'}"}
    proto = to_proto(program)
    node = next(node for node in proto.graph.node if node.name == "a/act")
    assert node.doc_string == "the activation"
    assert {e.key: e.value for e in node.metadata_props}["stage"] == "2"
    assert {e.key: e.value for e in proto.metadata_props} == {"repsimc.model.a.names": "{0: 'cat'}"}


def test_annotations_survive_a_newer_opset():
    model = model_of_text(
        """<ir_version: 8, opset_import: ["" : 9]>
        g (float[2,3] x) => (float[2,3] y) { h = Clip<min = 0.0, max = 1.0>(x)  y = Relu(h) }"""
    )
    for node in model.graph.node:
        node.name = f"my_{node.op_type}"
        node.metadata_props.add(key="stage", value=node.op_type)
        node.doc_string = f"doc of {node.op_type}"
    program = program_of(model)
    assert [node.name for node in program.graph.nodes] == ["a/my_Clip", "a/my_Relu"]
    assert program.metadata["a/my_Clip"]["stage"] == "Clip"
    assert program.docs["a/my_Clip"] == "doc of Clip"


MODELS = {
    "several inputs and outputs": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x, float[N,4] u) => (float[N,4] y, float[N,4] z)
        { y = Add(x, u)  z = Mul(x, u) }""",
    "fixed batch": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[3,4] x) => (float[3,4] y) { y = Softmax<axis=-1>(x) }""",
    "omitted optional inputs": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[4] x) => (float[4] y) <float m = {0.5}> { y = Clip(x, , m) }""",
    "omitted optional outputs": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2,1,1] x) => (float[1,1,1] h)
        <float[1,3,1] w = {1, 2, 3}, float[1,3,1] r = {3, 2, 1}>
        { , h = GRU<hidden_size = 1>(x, w, r) }""",
    "an input handed out": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[4] x, float[4] u) => (float[4] x, float[4] y) { y = Add(x, u) }""",
    "a constant handed out": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y, float[2] c) <float[2] c = {1, 2}> { y = Add(x, c) }""",
    "one value read twice": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[4] x) => (float[4] y) { y = Mul(x, x) }""",
    "If with captured values": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}, float zero = {0}>
        { s = ReduceSum<keepdims=0>(x)  c = Greater(s, zero)  h = Mul(x, w)
          y = If (c) <
            then_branch = t () => (float[3] o) { k = Constant<value = float[3] {5, 5, 5}>()
                                                 o = Add(h, k) },
            else_branch = e () => (float[3] p) { k = Constant<value = float[3] {7, 7, 7}>()
                                                 q = Mul(h, k)  p = Sub(q, w) }> }""",
    "If that hands out a constant": """<ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[1] x) => (float[1] y)
        { v = If (c) <
            then_branch = t () => (float[1] o) { o = Constant<value = float[1] {5}>() },
            else_branch = e () => (float[1] p) { p = Neg(x) }>
          y = Add(v, x) }""",
    "Loop with a carried value": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y, float[s,2] all) <int64 n = {3}, bool go = {1}>
        { y, all = Loop (n, go, x) <
            body = b (int64 i, bool c, float[2] v) => (bool c, float[2] w, float[2] w2)
            { w = Add(v, x)  w2 = Neg(w) }> }""",
    "Scan": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] s, float[3,2] x) => (float[2] e, float[3,2] y)
        { e, y = Scan <num_scan_inputs = 1,
            body = b (float[2] a, float[2] v) => (float[2] r, float[2] o)
            { r = Add(a, v)  o = Identity(r) }> (s, x) }""",
    "quantised": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2,3] x) => (float[2,2] y)
        <float s = {0.1}, int8 z = {0}, int8[3,2] w = {1, 2, 3, 4, 5, 6}, float sw = {0.5}>
        { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
          f = DequantizeLinear(w, sw, z)  y = MatMul(d, f) }""",
    "sequences": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[4,2] x) => (float[2,2] y) <int64 one = {1}, int64[2] parts = {2, 2}>
        { s = SplitToSequence<axis=0>(x, parts)  y = SequenceAt(s, one) }""",
    "local functions": """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[2] x) => (float[2] y) { h = own.twice(x)  y = own.leaky<alpha = 0.5>(h) }
        <domain: "own", opset_import: ["" : 17, "own" : 1]>
        twice (v) => (r) { two = Constant<value = float {2}>()  r = Mul(v, two) }
        <domain: "own", opset_import: ["" : 17]>
        leaky <alpha> (v) => (r) { r = LeakyRelu<alpha: float = @alpha>(v) }""",
    "optional": """<ir_version: 8, opset_import: ["" : 18]>
        g (float[2] x) => (float[2] y) { o = Optional(x)  y = OptionalGetElement(o) }""",
}


@pytest.mark.parametrize("case", MODELS)
def test_model_passes_through(case: str):
    model = model_of_text(MODELS[case])
    assert_same_outputs(model)


@pytest.mark.parametrize("case", MODELS)
def test_model_passes_through_copies_and_joins(case: str):
    model = model_of_text(MODELS[case])
    program = joined(a=model, b=model).copy()
    for name in ("a", "b"):
        assert_same_outputs(model, program, name)
    proto = to_proto(program)
    with any_rank_allowed(proto):
        onnx.checker.check_model(proto, full_check=True)


def test_values_of_bodies_do_not_clash():
    model = model_of_text(MODELS["If with captured values"])
    program = joined(a=model, b=model)
    inner = [
        tensor.name
        for body in program.graph.subgraphs(recursive=True)
        for node in body.nodes
        for tensor in node.outputs
    ]
    assert len(inner) == len(set(inner)) == 2 * 5
    assert all(name.startswith(("a/", "b/")) for name in inner)


def test_nodes_of_bodies_have_unique_names_and_a_source():
    program = joined(a=MODELS["If with captured values"], b=MODELS["If with captured values"])
    found = [n.name for body in program.graph.subgraphs(recursive=True) for n in body.nodes]
    assert len(found) == len(set(found))
    assert all(program.notes[name].sources == (name,) for name in found)


def test_opaque_operators_keep_everything():
    model = model_of_text(
        """<ir_version: 8, opset_import: ["" : 11, "acme" : 3]>
        g (float[2] x) => (float[2] y) { h = Relu(x)  y = acme.Plugin<n = 3>(h) }"""
    )
    blob = model.graph.node[1].attribute.add(name="blob", type=onnx.AttributeProto.STRING)
    blob.s = b"\xff\x00\xfe"
    kind = model.graph.node[1].attribute.add(name="kind", type=onnx.AttributeProto.TYPE_PROTO)
    kind.tp.tensor_type.elem_type = TensorProto.FLOAT16
    empty = model.graph.node[1].attribute.add(name="none", type=onnx.AttributeProto.FLOATS)
    proto = to_proto(program_of(model).copy())
    found = {attribute.name: attribute for attribute in proto.graph.node[1].attribute}
    assert proto.graph.node[1].domain == "acme"
    assert found["n"].i == 3
    assert (found["blob"], found["kind"], found["none"]) == (blob, kind, empty)
    assert {e.domain: e.version for e in proto.opset_import} == {"": 17, "acme": 3}


def test_infinite_masks_are_kept():
    program = program_of(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y) { m = Constant<value = float[2] {0, -1}>()
          z = Constant<value = float {0}>()  l = Log(z)  n = Mul(m, x)  y = Max(n, l) }"""
    )
    masked = to_proto(program)
    mask = next(t for t in masked.graph.initializer if t.name == "a/z")
    mask.raw_data = np.array(-np.inf, np.float32).tobytes()
    again = program_of(masked, "b")
    assert np.isneginf(array_of(again.weights()["b/a/z"]))


UNARY = ["Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity"]


BINARY = ["Add", "Mul", "Sub", "Max"]


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Small graphs over [N, 3] values: any wiring, weights, names and opset."""
    values, nodes, weights = ["x0", "x1"], [], []
    for index in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["unary", "binary", "matmul"]))
        read = [draw(st.sampled_from(values)) for _ in range(2)]
        name = draw(st.sampled_from(["", "Add_1", f"n{index}"])) if index == 1 else ""
        if kind == "unary":
            op, inputs = draw(st.sampled_from(UNARY)), read[:1]
        elif kind == "binary":
            op, inputs = draw(st.sampled_from(BINARY)), read
        else:
            array = np.random.default_rng(index).standard_normal((3, 3)).astype(np.float32)
            weights.append(numpy_helper.from_array(array, f"w{index}"))
            op, inputs = "MatMul", [read[0], f"w{index}"]
        nodes.append(helper.make_node(op, inputs, [f"v{index}"], name))
        values.append(f"v{index}")
    made = values[2:]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, 1, ["N", 3]) for name in ("x0", "x1")],
        [helper.make_tensor_value_info(name, 1, ["N", 3]) for name in outputs],
        weights,
    )
    opset = draw(st.sampled_from([9, 11, 13, 17, 19, 21]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(first=models(), second=models())
def test_random_models_compute_the_same_alone_and_joined(
    first: onnx.ModelProto, second: onnx.ModelProto
):
    program = joined(a=first, b=second)
    proto = to_proto(program)
    onnx.checker.check_model(proto, full_check=True)
    feeds = feeds_for(first)
    actual = run(proto, {f"{m}/{key}": v for m in "ab" for key, v in feeds.items()})
    for name, model in (("a", first), ("b", second)):
        for output, expected in run(model, feeds).items():
            assert_close(actual[f"{name}/{output}"], expected, rtol=1e-6, atol=1e-6)
    assert len({node.name for node in program.graph.nodes}) == len(program.graph.nodes)
    assert all(isinstance(tensor, gs.Constant) for tensor in program.weights().values())


def test_missing_file(tmp_path: Path):
    assert "there is no file" in refused(tmp_path / "none.onnx").message


def test_folder(tmp_path: Path):
    assert "is a folder" in refused(tmp_path).message


def test_empty_file(tmp_path: Path):
    (tmp_path / "m.onnx").touch()
    assert "m.onnx' is empty" in refused(tmp_path / "m.onnx").message


def test_what_has_no_end_is_not_read(tmp_path: Path):
    os.mkfifo(tmp_path / "m.onnx")
    assert "no regular file" in refused(tmp_path / "m.onnx").message
    assert "no regular file" in refused(Path(os.devnull)).message


@pytest.mark.parametrize(
    "content",
    [
        np.random.default_rng(0).bytes(5000),
        b"this is a text file\n" * 40,
        b"\x80\x02}q\x00.",
        b"PK\x03\x04" + bytes(100),
        bytes(64),
    ],
    ids=["random", "text", "pickle", "zip", "zeros"],
)
def test_not_onnx(tmp_path: Path, content: bytes):
    (tmp_path / "m.onnx").write_bytes(content)
    assert "m.onnx' is not an ONNX model" in refused(tmp_path / "m.onnx").message


def test_truncated_file_is_refused_wherever_it_ends(tmp_path: Path):
    content = good().SerializeToString()
    for length in range(1, len(content), 7):
        (tmp_path / "m.onnx").write_bytes(content[:length])
        refused(tmp_path / "m.onnx")


def test_flipped_bytes_never_escape_as_other_errors(tmp_path: Path):
    content = bytearray(good().SerializeToString())
    random = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), 3):
            damaged[place] = random.integers(0, 256)
        (tmp_path / "m.onnx").write_bytes(damaged)
        try:
            read_model(tmp_path / "m.onnx", "net")
        except ModelError as error:
            assert "m.onnx" in error.message


BOMBS = {
    "a constant of gigabytes": """g (float[1] x) => (float[Q] y)
    <float[1] one = {1}, int64[1] s = {8589934592}>
    { k = Expand(one, s)  y = Add(x, k) }""",
    "a constant that takes hours": """g (float[1] x) => (float[2] y) <int64[4] a = {1,5,6,7}>
    { k = TfIdfVectorizer <max_gram_length = 2, max_skip_count = 1099511627776,
        min_gram_length = 1, mode = "TF", ngram_counts = [0, 1], ngram_indexes = [0, 1],
        pool_int64s = [1, 5, 6]> (a)
      y = Add(x, k) }""",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_takes_more_than_it_may_is_refused_in_one_sentence(tmp_path: Path, bomb: str):
    text = f'<ir_version: 8, opset_import: ["" : 17]>\n{BOMBS[bomb]}'
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of_text(text).SerializeToString())
    with pytest.raises(ModelError) as caught:
        read_model(path, "net", ParseLimits(memory_nbytes=64 << 20, seconds=0.5))
    assert re.fullmatch(
        r"(inferring the shapes of|opening) model 'net' \(.*m.onnx\) takes more than "
        r"(64 MiB of memory|0.5 s of processor time)",
        caught.value.message,
    )


def test_functions_that_call_each_other_twice_are_refused(tmp_path: Path):
    functions = "\n".join(
        f"""<domain: "f", opset_import: ["" : 17, "f" : 1]>
        F{k + 1} (a) => (b) {{ t = f.F{k}(a)  b = f.F{k}(t) }}"""
        for k in range(40)
    )
    model = model_of_text(
        f"""<ir_version: 10, opset_import: ["" : 17, "f" : 1]>
        g (float[1] x) => (float[1] y) {{ y = f.F40(x) }}
        <domain: "f", opset_import: ["" : 17]> F0 (a) => (b) {{ b = Relu(a) }}
        {functions}"""
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="takes more than"):
        read_model(tmp_path / "m.onnx", "net", ParseLimits(seconds=0.3))


def test_a_fault_while_reading_is_the_models_where_onnx_runtime_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object) -> None:
        raise KeyError(99)

    monkeypatch.setattr("repsimc.compiler.frontends.onnx.prepare", fails)
    path = tmp_path / "m.onnx"
    model = good()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(KeyError):  # ONNX Runtime opens it: the fault is ours, and told so
        read_model(path, "net")
    model.graph.node[0].input[0] = "nothing"
    path.write_bytes(model.SerializeToString())
    assert "ONNX Runtime cannot run model 'net'" in refused(path).message


def test_an_output_listed_twice_with_two_types_is_refused():
    model = good()
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ModelError, match="output 'y' is listed twice"):
        program_of(model)


def test_a_graph_that_breaks_a_rule_is_refused_when_it_is_read():
    model = good()
    model.graph.node.add(op_type="Relu", input=["h"], output=["z"])
    model.graph.node[0].input[:] = ["z", "w"]
    with pytest.raises(ModelError, match="model 'a'"):
        program_of(model)


def test_names_that_cannot_be_a_models():
    for name in ("", "a/b"):
        with pytest.raises(UsageError):
            program_of(SMALL, name)
