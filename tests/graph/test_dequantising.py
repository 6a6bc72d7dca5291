"""Programs whose stored weights are made by nodes, as files have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from repsimc.compiler.errors import ModelError
from repsimc.compiler.graph.dequantising import dequantising, opset_of_stored, stored_weights
from repsimc.compiler.graph.export import to_proto, write_model
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.verifier import verify
from tests.nets.few_bits import Storing, per_block, per_channel, per_tensor, put
from tests.programs import assert_close, feeds_for, joined, model_of_text, program_of, run

RANDOM = np.random.default_rng(0)


def net(opset: int = 17) -> onnx.ModelProto:
    """A Conv, a Gemm and a MatMul, whose weights are w, v and u."""
    model = model_of_text(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[N, 2, 8, 8] x) => (float[N, 6] y)
        {{
          t = Conv <pads = [1, 1, 1, 1]> (x, w)
          r = Relu (t)
          p = GlobalAveragePool (r)
          f = Flatten (p)
          h = Gemm <transB = 1> (f, v)
          s = Relu (h)
          y = MatMul (s, u)
        }}"""
    )
    for name, shape in {"w": (8, 2, 3, 3), "v": (12, 8), "u": (12, 6)}.items():
        array = RANDOM.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def written(program: Program, folder: Path, **options: int) -> onnx.ModelProto:
    path, *_ = write_model(program, folder, **options)  # type: ignore[arg-type]
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(path)


FORMS = {
    "a scale each": (17, per_tensor(8), per_tensor(8), per_tensor(8)),
    "per channel": (17, per_channel(8, 0), per_channel(8, 0), per_channel(8, 1)),
    "4 bits per channel": (21, per_channel(4, 0), per_channel(4, 0), per_channel(4, 1)),
    "4 bits, one scale": (21, per_tensor(4), per_tensor(4), per_tensor(4)),
    "blocks": (21, per_block(8, 0, 4), per_block(8, 1, 4), per_block(8, 0, 2)),
    "4 bits in blocks": (21, per_block(4, 1, 2), per_block(4, 1, 8), per_block(4, 0, 3)),
}


@pytest.mark.parametrize("limit", [1 << 20, 0], ids=["inline", "data file"])
@pytest.mark.parametrize("form", FORMS)
def test_the_file_computes_what_the_program_does(tmp_path: Path, form: str, limit: int) -> None:
    opset, *storing = FORMS[form]
    assert isinstance(opset, int)
    program = program_of(net(opset))
    for name, store in zip(("a/w", "a/v", "a/u"), storing):
        put(program, name, store)  # type: ignore[arg-type]
    model = written(program, tmp_path, inline_limit_nbytes=limit)
    assert ops(model)[:3] == ["DequantizeLinear"] * 3
    assert model.ir_version == 10
    made = {node.output[0] for node in model.graph.node[:3]}
    assert made == {"a/w", "a/v", "a/u"}
    feeds = {"a/x": RANDOM.standard_normal((4, 2, 8, 8)).astype(np.float32)}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sorted(made))
    found = run(model, feeds)
    for name in made:  # bit by bit
        np.testing.assert_array_equal(found[name], program.weights()[name].values)
    np.testing.assert_array_equal(found["a/y"], run(program, feeds)["a/y"])


def test_large_codes_lie_in_the_data_file(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 21]>
    g (float[N, 128] x) => (float[N, 128] y) { y = MatMul (x, w) }"""
    model = model_of_text(text)
    weight = RANDOM.standard_normal((128, 128)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    sizes: dict[int, int] = {}
    for bits in (8, 4):
        program = program_of(model)
        put(program, "a/w", per_channel(bits, 1))
        path, data = write_model(program, tmp_path, f"in{bits}", inline_limit_nbytes=0)
        sizes[bits] = data.stat().st_size
        feeds = feeds_for(model, sizes={"N": 3})
        assert_close(
            run(path, {"a/x": feeds["x"]})["a/y"], run(program, {"a/x": feeds["x"]})["a/y"]
        )
    assert sizes == {8: 128 * 128, 4: 128 * 128 // 2}


def test_floats_where_they_are_asked_for(tmp_path: Path) -> None:
    program = program_of(net())
    put(program, "a/w", per_channel(8, 0))
    put(program, "a/u", per_channel(8, 1))
    (path,) = write_model(program, tmp_path, in_floats=True)
    assert path.read_bytes() == to_proto(program).SerializeToString(deterministic=True)
    for limit in (0, 1 << 20):
        write_model(program, tmp_path, "parts", inline_limit_nbytes=limit, in_floats=True)
        feeds = {"a/x": np.ones((1, 2, 8, 8), np.float32)}
        assert "DequantizeLinear" not in ops(onnx.load(tmp_path / "parts.onnx"))
        found = run(tmp_path / "parts.onnx", feeds)["a/y"]
        np.testing.assert_array_equal(found, run(program, feeds)["a/y"])


def shared_pair() -> Program:
    """Two models that read one weight, stored in 8 bits."""
    layer = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul (x, w) }"""
    program = joined(a=layer, b=layer)
    weight = put(program, "a/w", per_channel(8, 1))
    program.replace_uses(program.weights()["b/w"], weight)
    return program


def test_one_node_makes_the_weight_of_all_models_and_bodies(tmp_path: Path) -> None:
    program = shared_pair()
    model = written(program, tmp_path)
    assert ops(model) == ["DequantizeLinear", "MatMul", "MatMul"]
    assert [node.input[1] for node in model.graph.node[1:]] == ["a/w", "a/w"]
    assert {tensor.name for tensor in model.graph.initializer} == {"a/w.codes", "a/w.scales"}


def test_a_body_reads_the_weight_from_outside(tmp_path: Path) -> None:
    program = program_of(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 2] x, bool c) => (float[2, 2] y) <float[2, 2] w = {1, 2, 3, 4}>
        {
          y = If (c) <
            then_branch = t () => (float[2, 2] p) { p = MatMul (x, w) },
            else_branch = e () => (float[2, 2] q) { q = Add (x, w) }>
        }"""
    )
    bodies = [body for node in program.graph.nodes for body in node.subgraphs()]
    (weight,) = {t.name: t for body in bodies for t in body.nodes[0].inputs[1:]}.values()
    new = per_channel(8, 1)(weight.name, weight.values)  # type: ignore[attr-defined]
    for body in bodies:
        body.nodes[0].inputs[1] = new
    assert stored_weights(program.graph.nodes) == [new]
    model = written(program, tmp_path)
    assert ops(model) == ["DequantizeLinear", "If"]
    feeds = {"a/x": np.float32([[1, 2], [3, 4]]), "a/c": np.array(True)}
    np.testing.assert_array_equal(run(model, feeds)["a/y"], run(program, feeds)["a/y"])


def test_names_that_are_taken_are_left_alone() -> None:
    program = program_of(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}>
        { t = Mul (x, w)  y = Add (t, v) }"""
    )
    program.graph.nodes[0].name = "a/w.dequantise"
    program.weights()["a/v"].name = "a/w.codes"
    program.values()["a/t"].name = "a/w.scales"
    program.notes = {}
    put(program, "a/w", per_tensor(8))
    lowered = dequantising(program)
    verify(lowered)
    x = {"a/x": np.float32([5, 6])}
    np.testing.assert_array_equal(run(lowered, x)["a/y"], run(program, x)["a/y"])


def test_the_program_stays_and_equal_ones_give_equal_bytes(tmp_path: Path) -> None:
    contents: list[bytes] = []
    for _ in range(2):
        program = shared_pair()
        assert dequantising(program) is not program
        assert len(stored_weights(program.graph.nodes)) == 1
        path, data = write_model(program, tmp_path, inline_limit_nbytes=0)
        contents.append(path.read_bytes() + data.read_bytes())
    assert contents[0] == contents[1]
    plain = program_of(net())
    assert dequantising(plain) is plain


@pytest.mark.parametrize(
    "storing", [per_channel(4, 0), per_block(8, 0, 4)], ids=["4 bits", "blocks"]
)
def test_an_opset_that_cannot_say_it_is_told(tmp_path: Path, storing: Storing) -> None:
    program = program_of(net())
    put(program, "a/w", per_channel(8, 0))
    assert opset_of_stored(program) == 13
    put(program, "a/v", storing)
    assert opset_of_stored(program) == 21
    with pytest.raises(ModelError, match=r"'a/v' is stored in .*opset 21 on.*has opset 17"):
        write_model(program, tmp_path)
    assert not list(tmp_path.iterdir())
