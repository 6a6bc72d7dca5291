"""Bytes of weights: mapped where they lie beside the model, refused where they are not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from repsimc.compiler.errors import ModelError
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.graph.weights import array_of
from tests.frontends.given_models import SMALL, check_refused, good, refused
from tests.programs import assert_close, model_of_text, program_of, run


def mapped(tmp_path: Path, rows: int = 600) -> Path:
    """A model whose 1.2 MiB weight lies in a file beside it."""
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", rows])],
        [helper.make_tensor_value_info("y", 1, ["N", 512])],
        [numpy_helper.from_array(random.standard_normal((rows, 512)).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def test_external_weights_are_mapped(tmp_path: Path):
    path = mapped(tmp_path)
    program = read_model(path, "a")
    weight = array_of(program.weights()["a/w"])
    assert isinstance(weight, np.memmap)
    assert not weight.flags.writeable
    x = np.random.default_rng(1).standard_normal((2, 600)).astype(np.float32)
    assert_close(run(program, {"a/x": x})["a/y"], run(path, {"x": x})["y"])


def test_source_covers_all_files(tmp_path: Path):
    path = mapped(tmp_path)
    content = path.read_bytes() + (tmp_path / "m.data").read_bytes()
    source = read_model(path, "a").models["a"].source
    assert source.path == path
    assert source.nbytes == len(content)
    assert source.sha256 == hashlib.sha256(content).hexdigest()


READ_A_LARGE_MODEL = """
import sys
from pathlib import Path
from repsimc.compiler.frontends.join import join
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.graph.export import write_model

def resident():
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024

folder = Path(sys.argv[1])
read_model(folder / "small.onnx", "small")
before = resident()
program = join([read_model(folder / "m.onnx", name) for name in ("a", "b")])
write_model(program, folder / "out")
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_large_models_are_never_loaded_at_once(tmp_path: Path):
    """Two models of 150 MiB each (sparse files) are read, joined and written."""
    rows = 150 * 2**20 // (4 * 1024)
    weight = onnx.TensorProto(
        name="w", data_type=1, dims=[rows, 1024], data_location=TensorProto.EXTERNAL
    )
    weight.external_data.add(key="location", value="m.data")
    with (tmp_path / "m.data").open("wb") as stream:
        stream.truncate(rows * 1024 * 4)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", rows])],
        [helper.make_tensor_value_info("y", 1, ["N", 1024])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "small.onnx").write_bytes(model_of_text(SMALL).SerializeToString())
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READ_A_LARGE_MODEL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 60 * 2**20
    assert (tmp_path / "out" / "merged.onnx.data").stat().st_size >= 300 * 2**20


def test_sparse_weights_are_stored_dense():
    values = numpy_helper.from_array(np.array([2.0, -3.0], np.float32), "w")
    indices = numpy_helper.from_array(np.array([1, 5], np.int64), "w_at")
    model = model_of_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[3] x) => (float[2] y) { y = MatMul(w, x) }"""
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
    program = program_of(model)
    expected = np.array([[0, 2, 0], [0, 0, -3]], np.float32)
    np.testing.assert_array_equal(array_of(program.weights()["a/w"]), expected)
    x = np.array([1, 2, 3], np.float32)
    assert_close(run(program, {"a/x": x})["a/y"], expected @ x)


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


def many_sparse(model: onnx.ModelProto) -> None:
    """Each could be an honest one; together they would take gigabytes."""
    del model.graph.initializer[:]
    places = numpy_helper.from_array(np.array([7], np.int64), "at")
    for index in range(50):
        values = numpy_helper.from_array(np.array([1], np.float32), f"w{index or ''}")
        sparse = helper.make_sparse_tensor(values, places, [1 << 20])
        model.graph.sparse_initializer.append(sparse)


def empty_and_huge(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.dims[:] = [0, 1 << 62]
    tensor.ClearField("float_data")


def sparse_empty_and_huge(model: onnx.ModelProto) -> None:
    sparse_out_of_range(model)
    model.graph.sparse_initializer[0].dims[:] = [0, 1 << 62]


def attribute_of_unknown_type(model: onnx.ModelProto) -> None:
    value = onnx.TensorProto(dims=[1], data_type=99)
    model.graph.node.add(op_type="ConstantOfShape", input=["x"], output=["k"], name="fill")
    model.graph.node[-1].attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=value)


def nameless_constant(model: onnx.ModelProto) -> None:
    model.graph.node.add(op_type="Constant", name="k").attribute.add(
        name="value_float", type=onnx.AttributeProto.FLOAT, f=1
    )


def constant_of_another_type(model: onnx.ModelProto) -> None:
    model.graph.node.add(op_type="Constant", output=["k"]).attribute.add(
        name="value_float", type=onnx.AttributeProto.STRING, s=b""
    )


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "too few bytes": (too_few_bytes, "weight 'w'.*44 bytes instead of 48"),
    "too few elements": (too_few_elements, "weight 'w'"),
    "negative dimension": (negative_dimension, "weight 'w'"),
    "unknown type": (unknown_type, "weight 'w'"),
    "sparse bomb": (sparse_bomb, "weight 'w'.*too large"),
    "sparse out of range": (sparse_out_of_range, "weight 'w'"),
    "many sparse": (many_sparse, "sparse weight 'w16'.*too large"),
    "empty and huge": (empty_and_huge, "weight 'w'.*shape"),
    "sparse, empty and huge": (sparse_empty_and_huge, "weight 'w'.*shape"),
    "attribute of an unknown type": (
        attribute_of_unknown_type,
        "weight 'fill.value'.*unknown type 99",
    ),
    "constant without a name": (nameless_constant, "node 'k'.*constant without a name"),
    "constant of another type": (constant_of_another_type, "weight 'k'"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_broken_graph(case: str):
    check_refused(*GRAPHS[case])


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


def test_data_files_are_regular_files(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "itself").symlink_to("itself")
    for location in ("pipe", "itself"):
        assert "no regular file" in refused(external(tmp_path, location=location)).message


def test_a_name_that_no_file_system_takes_is_shown_in_part(tmp_path: Path):
    error = refused(external(tmp_path, location="a" * 5000))
    assert f"'{'a' * 100}...', which is missing" in error.message
    assert len(error.message) < 500


def test_weights_take_no_more_than_their_file_has(tmp_path: Path):
    """Tied weights may lie at one place; thousands that do would fill the memory."""
    (tmp_path / "w.bin").write_bytes(bytes(2**20))
    path = external(tmp_path, location="w.bin")
    model = onnx.load(path, load_external_data=False)
    weight = model.graph.initializer[0]
    for index in range(90):
        model.graph.initializer.add().CopyFrom(weight)
        model.graph.initializer[-1].name = f"w{index}"
        model.graph.initializer[-1].dims[:] = [2**18]
    path.write_bytes(model.SerializeToString())
    assert "take 80 MiB of 'w.bin', which has 1 MiB" in refused(path).message
