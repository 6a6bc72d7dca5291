"""Means and sampled places taken in the graph are those taken from the whole maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from repsimc.compiler.errors import ModelError
from repsimc.compiler.graph.export import to_proto
from repsimc.compiler.graph.program import Program
from repsimc.compiler.similarity.extraction import extract
from repsimc.compiler.similarity.features import Recipe
from repsimc.compiler.similarity.layers import layers_of
from repsimc.compiler.similarity.reduction import Reduced, ReducedRun, positions, reduce_array
from tests.nets.networks import Net
from tests.programs import program_of

TOKENS = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 7, 4] x) => (float[N, 4] y) {
        r = Tanh(x)
        q = Sigmoid(r)
        y = ReduceMean<axes = [1], keepdims = 0>(q)
    }
"""


def images(dtype: type[np.floating[Any]] = np.float32) -> Program:
    net = Net(0, dtype)
    x = net.node("Relu", net.conv("x", 3, 5, strides=[2, 1]))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    y = net.node("Softmax", net.node("Sigmoid", x))
    return program_of(net.model((y,), x=["N", 3, 8, 6]))


def whole(program: Program, names: list[str], frames: NDArray[Any]) -> list[NDArray[Any]]:
    proto = to_proto(program, outputs=names)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: frames})


@pytest.mark.parametrize(
    ("program", "shape", "dtype"),
    [
        (images(), (6, 3, 8, 6), np.float32),
        (images(np.float16), (6, 3, 8, 6), np.float16),
        (program_of(TOKENS.replace("float", "double")), (6, 7, 4), np.float64),
        (program_of(TOKENS), (6, 7, 4), np.float32),
    ],
    ids=["images", "half", "double tokens", "tokens"],
)
@pytest.mark.parametrize("maps", [False, True])
def test_reductions_in_the_graph_are_those_of_the_arrays(
    program: Program, shape: tuple[int, ...], dtype: type, maps: bool
) -> None:
    random = np.random.default_rng(1)
    frames = random.standard_normal(shape).astype(dtype)
    places = random.random((len(frames), 3, 3))
    layers, _ = layers_of(program, "a")
    assert any(layer.spatial for layer in layers)
    run = ReducedRun(program, "a", layers, maps)
    found = run({run.inputs[0]: frames}, places)
    # ONNX Runtime computes halves in single precision, and rounds or not as nodes fall together.
    close = {"atol": 1e-3 if dtype is np.float16 else 2e-6}
    arrays = whole(program, [layer.value for layer in layers], frames)
    for layer, part, array in zip(layers, found, arrays):
        assert isinstance(part, Reduced) and len(part) == 6
        expected = reduce_array(array, layer, places, maps)
        np.testing.assert_allclose(part.pooled, expected.pooled, **close)
        np.testing.assert_allclose(part.rows, expected.rows, **close)
        assert part.pooled.shape == (6, layer.channels)
        assert part.rows.shape == (6, 3 if layer.spatial else 1, layer.channels)
        if maps and layer.spatial:
            np.testing.assert_allclose(part.maps, array.astype(np.float32), **close)
        else:
            assert not part.maps.size


def test_a_place_is_the_same_corner_of_every_map() -> None:
    places = np.array([[[0.0, 0.0, 0.5], [0.999, 0.5, 0.5]]])
    assert positions(places, (8, 6)).tolist() == [[0, 7 * 6 + 3]]
    assert positions(places, (4, 2)).tolist() == [[0, 3 * 2 + 1]]
    assert positions(places, ()).tolist() == [[0]]


def test_how_many_frames_run_at_a_time_changes_nothing() -> None:
    program = images()
    layers, _ = layers_of(program, "a")
    frames = np.random.default_rng(2).standard_normal((20, 3, 8, 6)).astype(np.float32)
    [value] = program.models["a"].inputs.values()

    def features(batch: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        batches = ({value: frames[k : k + batch]} for k in range(0, 20, batch))
        found = extract(program, layers, batches, 20, Recipe(maps=False))
        return [(layer.pooled, layer.rows) for layer in found.layers]

    for one, other in zip(features(20), features(3)):
        np.testing.assert_allclose(one[0], other[0], atol=1e-6)
        np.testing.assert_allclose(one[1], other[1], atol=1e-6)


def test_a_model_that_does_not_run_is_an_error() -> None:
    program = images()
    layers, _ = layers_of(program, "a")
    run = ReducedRun(program, "a", layers, False)
    with pytest.raises(ModelError, match="running the graph"):
        run({run.inputs[0]: np.zeros((2, 4, 8, 6), np.float32)}, np.zeros((2, 1, 3)))
