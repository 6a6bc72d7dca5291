"""The shipped example: what it promises about its networks and frames."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
LABELS = {"digit": "digit_label", "parity": "parity_label", "digit_deep": "digit_label"}


def read(model: str) -> onnx.ModelProto:
    return onnx.load(DIGITS / f"{model}.onnx")


def frames(file: str) -> dict[str, np.ndarray]:
    with np.load(DIGITS / file, allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize("model", LABELS)
def test_networks_are_plain_onnx(model: str) -> None:
    proto = read(model)
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.ir_version, [(o.domain, o.version) for o in proto.opset_import]) == (
        8,
        [("", 17)],
    )
    assert not proto.metadata_props and not proto.producer_name and not proto.doc_string
    [image], [logits] = proto.graph.input, proto.graph.output
    shape = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, shape) == ("image", ["N", 1, 8, 8])
    assert logits.name == "logits"


@pytest.mark.parametrize("model", LABELS)
def test_networks_are_right_on_unseen_digits(model: str) -> None:
    data = frames("labelled.npz")
    session = ort.InferenceSession(DIGITS / f"{model}.onnx", providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {"image": data["image"]})
    assert (np.asarray(logits).argmax(1) == data[LABELS[model]]).mean() >= 0.97


def test_no_calibration_frame_is_labelled() -> None:
    known = {frame.tobytes() for frame in frames("frames.npz")["image"]}
    assert set(frames("frames.npz")) == {"image"}
    assert not [frame for frame in frames("labelled.npz")["image"] if frame.tobytes() in known]


def test_digit_and_parity_share_the_frozen_layers() -> None:
    weights = {
        model: Counter(
            {
                (array.shape, array.tobytes()): array.nbytes
                for array in map(numpy_helper.to_array, read(model).graph.initializer)
            }
        )
        for model in LABELS
    }
    shared = sum((weights["digit"] & weights["parity"]).values())
    assert 0.5 < shared / sum(weights["parity"].values()) < 0.8
    assert not weights["digit"] & weights["digit_deep"]


def test_deep_network_keeps_its_norms() -> None:
    kinds = {model: Counter(node.op_type for node in read(model).graph.node) for model in LABELS}
    assert kinds["digit_deep"]["BatchNormalization"] > 0
    assert kinds["digit"]["BatchNormalization"] == kinds["parity"]["BatchNormalization"] == 0
    assert kinds["digit_deep"]["Conv"] > 1.5 * kinds["digit"]["Conv"]


def test_all_of_it_is_small() -> None:
    assert sum(file.stat().st_size for file in DIGITS.iterdir() if file.is_file()) < 2_000_000


def test_training_script_states_the_same_split() -> None:
    tree = ast.parse((DIGITS / "train.py").read_text())
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert len(frames("labelled.npz")["image"]) == constants["HELD_OUT"]
    assert len(frames("frames.npz")["image"]) == constants["CALIBRATION"]
