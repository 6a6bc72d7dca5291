"""Rounding in a walk: what is fed and what is wanted, means, weights rounded as they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.fitting.operators import LinearOperator, linear_operator
from repsimc.compiler.fitting.reconstruction import Target
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.fitting.rounding import WeightGrid, round_to_nearest
from repsimc.compiler.fitting.storing import round_alone, round_in_a_walk
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.stored_weight import StoredWeight
from repsimc.compiler.graph.verifier import verify
from tests.nets.foldable import error, images
from tests.nets.layers import LAYERS, weight_read_twice
from tests.nets.networks import Array
from tests.programs import program_of


def operators_of(program: Program) -> dict[str, LinearOperator]:
    found = (linear_operator(node) for node in program.graph.nodes)
    return {one.node.name: one for one in found if one is not None}


def walked(program: Program, bits: Mapping[str, int], frames: int = 192) -> list[str]:
    """The names of the operators that were rounded, each fitted to what it makes itself."""
    reference = Reference(program.copy(), images(frames))
    fitted = [
        (operator, Target(operator.result.name, None, False))
        for name, operator in operators_of(program).items()
        if name in bits
    ]
    grids = {name: WeightGrid(width) for name, width in bits.items()}
    outputs = [value.name for value in program.graph.outputs]
    done = round_in_a_walk(program, fitted, grids, reference, outputs)
    verify(program)
    return [operator.node.name for operator in done]


def run(program: Program, value: str, x: Array) -> Array:
    return np.asarray(Executable(program, None, [value])({"a/x": x})[0])


def test_bits_go_by_operator_and_others_keep_their_weights() -> None:
    program = program_of(LAYERS["convolution"]())
    first, layer, last = operators_of(program)
    kept = operators_of(program)[first].weight
    assert walked(program, {layer: 4, last: 8}) == [layer, last]
    found = operators_of(program)
    assert found[first].weight is kept
    for name, bits in ((layer, 4), (last, 8)):
        weight = found[name].weight
        assert isinstance(weight, StoredWeight) and weight.bits == bits


def test_biases_keep_the_means_of_what_layers_make() -> None:
    program = program_of(LAYERS["convolution"]())
    original = program.copy()
    names = list(operators_of(program))
    walked(program, dict.fromkeys(names, 4))
    x = images().arrays["a/x"]
    for name in names:
        value = operators_of(original)[name].result.name
        wanted, found = run(original, value, x), run(program, value, x)
        axes = (0, *range(2, wanted.ndim))
        off = np.abs(found.mean(axes) - wanted.mean(axes)) / wanted.std(axes)
        assert off.max() < 0.01


def test_a_later_layer_makes_up_for_what_an_earlier_one_lost() -> None:
    """The last two rounded in a walk, against each for itself in the network as it was."""
    together = program_of(LAYERS["convolution"]())
    original, apart = together.copy(), together.copy()
    names = list(operators_of(together))
    walked(together, dict.fromkeys(names, 4))
    for name in names:
        alone = original.copy()
        walked(alone, {name: 4})
        node, own = apart.node(name), alone.node(name)
        node.inputs = [node.inputs[0], *(tensor.copy() for tensor in own.inputs[1:])]
    verify(apart)
    test = images(64, seed=1)
    assert error(together, original, test) < 0.8 * error(apart, original, test)


def test_a_weight_rounded_as_it_is_is_so_for_all_that_read_it() -> None:
    program = program_of(weight_read_twice())
    operator = operators_of(program)["a/n_s0"]
    biases = [program.node(f"a/n_s{index}").inputs[2] for index in range(2)]
    wanted = round_to_nearest(operator.affine().weight, WeightGrid(8))
    assert round_alone(program, operator, WeightGrid(8))
    verify(program)
    first, second = (program.node(f"a/n_s{index}") for index in range(2))
    assert first.inputs[1] is second.inputs[1]
    assert isinstance(first.inputs[1], StoredWeight)
    assert [first.inputs[2], second.inputs[2]] == biases
    found = operators_of(program)["a/n_s0"].affine().weight
    np.testing.assert_array_equal(found, wanted.weight)


@pytest.mark.parametrize("name", ["Gemm, turned, with factors", "Gemm with a negative factor"])
def test_factors_of_a_node_are_in_its_scales(name: str) -> None:
    program = program_of(LAYERS[name]())
    operator = operators_of(program)["a/n_layer"]
    wanted = round_to_nearest(operator.affine().weight, WeightGrid(4))
    assert round_alone(program, operator, WeightGrid(4))
    found = operators_of(program)["a/n_layer"]
    np.testing.assert_allclose(found.affine().weight, wanted.weight, rtol=1e-6)
    assert isinstance(found.weight, StoredWeight) and (found.weight.scales > 0).all()


def test_few_frames_do_no_harm() -> None:
    program = program_of(LAYERS["convolution"]())
    original = program.copy()
    walked(program, dict.fromkeys(operators_of(program), 8), frames=3)
    assert error(program, original, images(64, seed=1)) < 0.01
