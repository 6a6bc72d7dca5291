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
from repsimc.compiler.similarity.layers import layers_of
from repsimc.compiler.similarity.reduction import Reduced, ReducedRun, positions, reduce_array
from tests.nets.networks import strided
from tests.programs import program_of

TOKENS = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 7, 4] x) => (float[N, 4] y) {
        r = Tanh(x)
        q = Sigmoid(r)
        y = ReduceMean<axes = [1], keepdims = 0>(q)
    }
"""


def whole(program: Program, names: list[str], frames: NDArray[Any]) -> list[NDArray[Any]]:
    proto = to_proto(program, outputs=names)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: frames})


@pytest.mark.parametrize(
    ("program", "shape", "dtype"),
    [
        (program_of(strided()), (6, 3, 8, 6), np.float32),
        (program_of(strided(np.float16)), (6, 3, 8, 6), np.float16),
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


def test_a_model_that_does_not_run_is_an_error() -> None:
    program = program_of(strided())
    layers, _ = layers_of(program, "a")
    run = ReducedRun(program, "a", layers, False)
    with pytest.raises(ModelError, match="running the graph"):
        run({run.inputs[0]: np.zeros((2, 4, 8, 6), np.float32)}, np.zeros((2, 1, 3)))
