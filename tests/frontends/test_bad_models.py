"""Files and graphs that are no usable model: refused with the model, the place and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from repsimc.compiler.errors import ModelError, UsageError
from repsimc.compiler.frontends.read import read_model
from tests.programs import program_of

GOOD = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x) => (float[N,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
{ h = MatMul(x, w)  y = Relu(h) }"""


def refused(path: Path, name: str = "net") -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_model(path, name)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    return caught.value


def good() -> onnx.ModelProto:
    return onnx.parser.parse_model(GOOD)


# -- files -------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path):
    assert "there is no file" in refused(tmp_path / "none.onnx").message


def test_folder(tmp_path: Path):
    assert "is a folder" in refused(tmp_path).message


def test_empty_file(tmp_path: Path):
    (tmp_path / "m.onnx").touch()
    assert "m.onnx' is empty" in refused(tmp_path / "m.onnx").message


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


def test_names_that_cannot_be_a_models():
    for name in ("", "a/b"):
        with pytest.raises(UsageError):
            program_of(GOOD, name)


# -- graphs ------------------------------------------------------------------------------


def undefined(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nowhere"


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


def made_twice(model: onnx.ModelProto) -> None:
    model.graph.node.add().CopyFrom(model.graph.node[0])


def weight_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])


def output_of_nothing(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nothing"


def no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def custom_domain_not_imported(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "acme"


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Frobnicate"
    model.graph.node[1].name = "the_node"


def unknown_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[1].attribute.append(helper.make_attribute("strength", 3))


def too_few_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[1]


def shapes_that_do_not_fit(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


def types_that_do_not_fit(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def too_few_bytes(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight), "w"))
    weight.raw_data = weight.raw_data[:-4]


def too_few_elements(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 40


def negative_dimension(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -4


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def far_future(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9999


def sparse_bomb(model: onnx.ModelProto) -> None:
    del model.graph.initializer[:]
    values = numpy_helper.from_array(np.array([1], np.float32), "w")
    places = numpy_helper.from_array(np.array([0], np.int64), "w_at")
    sparse = helper.make_sparse_tensor(values, places, [1 << 20, 1 << 20])
    model.graph.sparse_initializer.append(sparse)


def sparse_out_of_range(model: onnx.ModelProto) -> None:
    del model.graph.initializer[:]
    values = numpy_helper.from_array(np.array([1], np.float32), "w")
    places = numpy_helper.from_array(np.array([77], np.int64), "w_at")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 3]))


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "undefined tensor": (undefined, "nowhere"),
    "cycle": (cycle, "y"),
    "value made twice": (made_twice, "h"),
    "weight twice": (weight_twice, "two weights named 'w'"),
    "output of nothing": (output_of_nothing, "nothing"),
    "no outputs": (no_outputs, "output"),
    "no opset": (no_opset, "opset"),
    "custom domain not imported": (custom_domain_not_imported, "acme"),
    "unknown operator": (unknown_operator, "node 'the_node'.*Frobnicate"),
    "unknown attribute": (unknown_attribute, "strength"),
    "too few inputs": (too_few_inputs, "MatMul"),
    "shapes": (shapes_that_do_not_fit, "MatMul"),
    "types": (types_that_do_not_fit, "MatMul|Type"),
    "too few bytes": (too_few_bytes, "weight 'w'.*44 bytes instead of 48"),
    "too few elements": (too_few_elements, "weight 'w'"),
    "negative dimension": (negative_dimension, "weight 'w'"),
    "unknown type": (unknown_type, "weight 'w'"),
    "opset of the future": (far_future, "opset"),
    "sparse bomb": (sparse_bomb, "weight 'w'.*too large"),
    "sparse out of range": (sparse_out_of_range, "weight 'w'"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_broken_graph(case: str):
    damage, message = GRAPHS[case]
    model = good()
    damage(model)
    with pytest.raises(ModelError, match=message) as caught:
        program_of(model, "net")
    assert "model 'net' (net.onnx)" in caught.value.message
    assert caught.value.hint


def test_operator_without_a_conversion_is_named():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 10]>
        g (float[1,1,4,8] x) => (float[1,1,8,4] y) <float[4] s = {1, 1, 2, 0.5}>
        { y = Resize(x, s) }"""
    )
    model.graph.node[0].name = "grow"
    with pytest.raises(ModelError, match="node 'grow' of model 'a'") as caught:
        program_of(model)
    assert "opset 11" in caught.value.hint


# -- numbers -----------------------------------------------------------------------------


def with_number(number: float, op: str, dtype: str = "float32") -> onnx.ModelProto:
    array = np.ones((3, 3), np.float32)
    array[1, 2] = number
    tensor = numpy_helper.from_array(array.astype(dtype), "w")
    kind = tensor.data_type
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [3, 3])],
        [helper.make_tensor_value_info("y", kind, [3, 3])],
        [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("op", ["MatMul", "Add"])
def test_nan_in_a_weight(op: str, dtype: str):
    with pytest.raises(ModelError, match=r"weight 'w' of model 'a' \(a.onnx\) holds NaN"):
        program_of(with_number(np.nan, op, dtype))


@pytest.mark.parametrize("number", [np.inf, -np.inf])
def test_infinity_in_a_weight(number: float):
    with pytest.raises(ModelError, match=r"weight 'w'.*infinity"):
        program_of(with_number(number, "MatMul"))
    assert "a/w" in program_of(with_number(number, "Add")).weights()


def test_nan_inside_a_body():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}>
        { y = If (c) < then_branch = t () => (float[2] o) { o = Add(x, w) },
                       else_branch = e () => (float[2] p) { p = Neg(x) }> }"""
    )
    array = np.array([1, np.nan], np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    with pytest.raises(ModelError, match=r"weight 'w'.*NaN"):
        program_of(model)


# -- external data -----------------------------------------------------------------------


def external(folder: Path, **entries: str) -> Path:
    """A model in `folder` whose weight (48 bytes) lies where the entries say."""
    folder.mkdir(exist_ok=True)
    model = good()
    weight = model.graph.initializer[0]
    weight.Clear()
    weight.name, weight.data_type = "w", TensorProto.FLOAT
    weight.dims.extend([4, 3])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def test_external_data_that_is_there_is_read(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(48))
    read_model(external(tmp_path, location="sub/w.bin", offset="0", length="48"), "net")
    read_model(external(tmp_path, location="./sub/../sub/w.bin"), "net")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "none.bin"}, "none.bin', which is missing"),
        ({"location": ""}, "in no file"),
        ({}, "in no file"),
        ({"location": "."}, "missing"),
        ({"location": "w.bin", "offset": "4"}, "w.bin' is truncated"),
        ({"location": "w.bin", "offset": "-4"}, "offset -4"),
        ({"location": "w.bin", "offset": "here"}, "no number"),
        ({"location": "w.bin", "length": "44"}, "needs 48 bytes"),
        ({"location": "w.bin", "length": "1000000000000"}, "needs 48 bytes"),
        ({"location": "w.bin", "offset": "9" * 30}, "truncated"),
    ],
)
def test_external_data_that_is_not_there(tmp_path: Path, entries: dict[str, str], message: str):
    (tmp_path / "w.bin").write_bytes(bytes(48))
    error = refused(external(tmp_path, **entries))
    assert message in error.message
    assert "'w'" in error.message


@pytest.mark.parametrize(
    "location", ["../secret.bin", "{}/secret.bin", "link.bin", "linked/secret.bin", "C:\\x.bin"]
)
def test_external_data_outside_the_models_folder(tmp_path: Path, location: str):
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    error = refused(external(folder, location=location.format(tmp_path)))
    assert "outside the model's folder" in error.message


def test_external_data_of_a_model_in_memory(tmp_path: Path):
    model = onnx.load(external(tmp_path, location="w.bin"), load_external_data=False)
    with pytest.raises(ModelError, match="not read from a file"):
        program_of(model)


def test_external_data_hidden_in_a_node_is_checked_too(tmp_path: Path):
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    path = external(tmp_path / "model", location="../secret.bin")
    model = onnx.load(path, load_external_data=False)
    weight = model.graph.initializer.pop()
    node = helper.make_node("Constant", [], ["w"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(weight)
    model.graph.node.insert(0, node)
    path.write_bytes(model.SerializeToString())
    assert "outside the model's folder" in refused(path).message


def test_external_data_hidden_in_a_function_is_checked_too(tmp_path: Path):
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[2] x) => (float[2] y) { y = own.f(x) }
        <domain: "own", opset_import: ["" : 17]>
        f (v) => (r) { k = Constant<value = float[2] {1, 2}>()  r = Add(v, k) }"""
    )
    tensor = model.functions[0].node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.onnx").write_bytes(model.SerializeToString())
    assert "outside the model's folder" in refused(tmp_path / "model" / "m.onnx").message
