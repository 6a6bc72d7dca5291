"""New weights for operators from what the original produced: batches, spilling, skip paths."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.execution.executable import Activations, Executable
from repsimc.compiler.fitting import reference, walk
from repsimc.compiler.fitting.operators import linear_operator
from repsimc.compiler.fitting.reconstruction import Target, downstream, reconstruct
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.program import Program
from tests.nets.networks import Array, smooth_images
from tests.nets.two_blocks import frames, residual


def reconstructed(program: Program, reference: Reference) -> list[Array]:
    """New weights of the two convolutions of block q after conv1 was halved."""
    conv1 = linear_operator(program.node("a/n_conv1"))
    assert conv1 is not None
    affine = conv1.affine()
    conv1.write(program, type(affine)(affine.weight / 2, affine.bias))
    operators: list[Any] = []
    for name, target in (
        ("q1", Target("a/q1", None, True)),
        ("q3", Target("a/q4", "a/p5", True)),
    ):
        operator = linear_operator(program.node(f"a/n_{name}"))
        assert operator is not None
        operators.append((operator, target))
    reconstruct(program, operators, reference, ["a/y"])
    return [
        found.weight.values
        for name in ("q1", "q3")
        if (found := linear_operator(program.node(f"a/n_{name}")))
    ]


def test_spilling_to_disk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = reconstructed(residual(), Reference(residual(), frames()))
    for module in (reference, walk):
        monkeypatch.setattr(module, "Activations", partial(Activations, 1000))
    on_disk = reconstructed(residual(), Reference(residual(), frames()))
    for first, second in zip(in_memory, on_disk, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_size_of_batches_hardly_matters() -> None:
    few = reconstructed(residual(), Reference(residual(), frames(batch=40)))
    many = reconstructed(residual(), Reference(residual(), frames(batch=7)))
    for first, second in zip(few, many, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-4)


def test_the_skip_path_is_repaired_by_the_operator_before_the_add() -> None:
    # With the sum as target and the damaged addend taken into account, the sum comes out right;
    # with its own output as target the operator would leave the skip path's damage in place.
    original, test = residual(), smooth_images(30, seed=9)
    wanted = Executable(original, None, ["a/q4"])({"a/x": test})[0]

    def error(target: Target) -> float:
        program = residual()
        conv1 = linear_operator(program.node("a/n_conv1"))
        last = linear_operator(program.node("a/n_q3"))
        assert conv1 is not None and last is not None
        affine = conv1.affine()
        conv1.write(program, type(affine)(affine.weight * 0.7, affine.bias))
        reconstruct(program, [(last, target)], Reference(original, frames(200)), ["a/y"])
        found = Executable(program, None, ["a/q4"])({"a/x": test})[0]
        return float(np.mean((found - wanted) ** 2))

    assert error(Target("a/q4", "a/p5")) < 0.4 * error(Target("a/q3"))


def test_downstream_follows_the_order_of_the_graph() -> None:
    names = [node.name for node in downstream(residual(), ["a/q2"])]
    assert names[:3] == ["a/n_q3", "a/n_q4", "a/n_q5"]
    assert names[-1] == "a/n_y"
    assert downstream(residual(), ["a/y"]) == []
