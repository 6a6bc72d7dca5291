"""Features from one pass over the frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from repsimc.compiler.similarity.extraction import extract
from repsimc.compiler.similarity.features import Recipe
from repsimc.compiler.similarity.layers import layers_of
from tests.nets.networks import strided
from tests.programs import program_of


def test_how_many_frames_run_at_a_time_changes_nothing() -> None:
    program = program_of(strided())
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
