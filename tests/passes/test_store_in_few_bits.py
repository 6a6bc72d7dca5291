"""Weights in few bits as a pass: every form of layer, several readers, what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.fitting.operators import linear_operator
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.stored_weight import StoredWeight
from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import verify
from repsimc.passes.base import Change
from repsimc.passes.store_in_few_bits import StoreInFewBits
from tests.nets.foldable import error, images
from tests.nets.layers import LAYERS, frames_of, of_numbers, weight_read_twice
from tests.nets.networks import Array, ArrayFrames, Net
from tests.programs import program_of

LAYER = (("a/n_layer", 8),)


def run(
    program: Program, stored: tuple[tuple[str, int], ...], frames: ArrayFrames
) -> tuple[list[Change], Program]:
    """The changes and the program before."""
    original = program.copy()
    changes = StoreInFewBits(stored, Reference(original, frames)).run(program)
    verify(program)
    return changes, original


def all_of(program: Program, bits: int) -> tuple[tuple[str, int], ...]:
    return tuple((node.name, bits) for node in program.graph.nodes if linear_operator(node))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_any_form_makes_what_it_made(name: str) -> None:
    model = LAYERS[name]()
    program = program_of(model)
    changes, original = run(program, LAYER, frames_of(model))
    (change,) = changes
    weight, before = (one.node("a/n_layer").inputs[1] for one in (program, original))
    assert isinstance(weight, StoredWeight) and weight.bits == 8
    assert weight.values.shape == before.values.shape
    operator = linear_operator(program.node("a/n_layer"))
    assert operator is not None and len(weight.scales) == operator.fan_out
    assert change.nbytes_saved == before.values.nbytes - weight.nbytes
    assert error(program, original, frames_of(model, 64, seed=1)) < 1e-3


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_written_is_what_the_fit_made(name: str) -> None:
    """Codes and scales in a node's own layout are the map: sign, factor and axis are right."""
    model = LAYERS[name]()
    program = program_of(model)
    run(program, all_of(program, 8), frames_of(model))
    for node in program.graph.nodes:
        operator = linear_operator(node)
        if operator is None:
            continue
        weight = operator.weight
        assert isinstance(weight, StoredWeight)
        largest = np.abs(weight.codes.astype(int)).max()
        assert 64 <= largest <= 127


def test_transposed_layers_in_groups_stay_as_they_are() -> None:
    net = Net(2)
    weight = net.weight(net.normal(8, 4, 3, 3, scale=0.2))
    x = net.relu(net.conv("x", 3, 8))
    net.head(net.node("ConvTranspose", x, weight, group=2, out="layer"), 8, 5)
    program = program_of(net.model(x=("N", 3, 8, 8)))
    before = text(program)
    changes, _ = run(program, LAYER, images(64))
    assert changes == [] and text(program) == before


def test_of_several_readers_of_one_weight_all_read_the_rounded_one() -> None:
    program = program_of(weight_read_twice())
    stored = (("a/n_s0", 8), ("a/n_s1", 8))
    changes, original = run(program, stored, images())
    assert [change.node for change in changes] == ["a/n_s0"]
    first, second = (program.node(name).inputs[1] for name, _ in stored)
    assert first is second and isinstance(first, StoredWeight)
    assert error(program, original, images(64, seed=1)) < 1e-3


def test_what_is_stored_or_is_not_there_is_left_alone() -> None:
    model = LAYERS["convolution"]()
    program = program_of(model)
    run(program, LAYER, frames_of(model))
    before = text(program)
    for stored in (LAYER, (("a/n_layer", 4),), (("a/none", 8),), (("a/n_relu1", 8),), ()):
        assert run(program, stored, frames_of(model))[0] == []
        assert text(program) == before


def test_twice_the_same_is_the_same_to_the_byte() -> None:
    model = LAYERS["in groups"]()
    programs = [program_of(model) for _ in range(2)]
    for program in programs:
        run(program, all_of(program, 4), frames_of(model))
    assert text(programs[0]) == text(programs[1])


def test_the_walk_makes_up_for_much_of_what_the_nearest_loses() -> None:
    """Four bits everywhere, against each weight rounded alone."""
    model = LAYERS["convolution"]()
    program = program_of(model)
    _, original = run(program, all_of(program, 4), frames_of(model))
    plain = original.copy()
    for node in plain.graph.nodes:
        operator = linear_operator(node)
        if operator is not None:
            values = operator.weight.values
            axes = tuple(range(1, values.ndim))
            scales = np.abs(values).max(axes, keepdims=True) / np.float32(7)
            operator.weight.values = np.rint(values / scales) * scales
    test = frames_of(model, 64, seed=1)
    walked, nearest = (error(one, original, test) for one in (program, plain))
    assert walked < 0.5 * nearest


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("value", [0.0, 0.3, -1e-30])
def test_weights_that_are_all_equal(value: float, bits: int) -> None:
    model = of_numbers(lambda weight: np.full_like(weight, value))
    program = program_of(model)
    changes, original = run(program, (("a/n_layer", bits),), frames_of(model))
    assert len(changes) == 1
    found, wanted = (one.node("a/n_layer").inputs[1].values for one in (program, original))
    assert np.isfinite(found).all()
    # Of a layer that makes nothing but its bias a fit finds float noise.
    assert np.abs(found - wanted).max() <= 0.2 * abs(value) + 1e-9


def test_an_outlier_of_a_million_is_kept() -> None:
    def with_outlier(weight: Array) -> Array:
        weight[3, 4, 1, 1] = 1e6
        return weight

    model = of_numbers(with_outlier)
    program = program_of(model)
    changes, original = run(program, LAYER, frames_of(model))
    assert len(changes) == 1
    assert error(program, original, frames_of(model, 64, seed=1)) < 1e-3
