"""Layers of one shape that are alike: found, given one weight, left alone where that fits none."""

from __future__ import annotations

import pytest

from repsimc.compiler.actions import tie_weights
from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.text import text
from repsimc.compiler.structure.cost import program_cost
from repsimc.passes.pipeline import run_passes
from repsimc.passes.tie_weights import TieWeights
from tests.nets.evidence import GivenEvidence
from tests.nets.foldable import (
    carried_out,
    error,
    images,
    twins,
)
from tests.nets.residual import residual_net
from tests.programs import program_of


def test_layers_that_are_alike_share_a_weight() -> None:
    program, frames = program_of(twins(0.1)), images()
    original = program.copy()
    changes = carried_out(program, TieWeightsAction("a", ("a/n_t0", "a/n_t1")), frames)
    first, second = (program.node(f"a/n_t{k}") for k in range(2))
    assert first.inputs[1] is second.inputs[1] and first.inputs[2] is not second.inputs[2]
    assert sum(change.nbytes_saved for change in changes) == 8 * 8 * 9 * 4
    saved = program_cost(original).weights_nbytes - program_cost(program).weights_nbytes
    assert saved == 8 * 8 * 9 * 4
    assert error(program, original, images(seed=1)) < 0.02


def test_tying_is_done_once() -> None:
    program, frames = program_of(twins(0.1)), images()
    action = TieWeightsAction("a", ("a/n_t0", "a/n_t1"))
    carried_out(program, action, frames)
    before = text(program)
    assert TieWeights(action.nodes, Reference(program.copy(), frames)).run(program) == []
    assert text(program) == before


@pytest.mark.parametrize("name", ["a/n_conv0", "a/n_y"])
def test_layers_of_another_shape_are_not_tied(name: str) -> None:
    program = program_of(twins(0.1))
    before = text(program)
    step = TieWeights((name, "a/n_t1"), Reference(program, images()))
    assert step.run(program) == [] and text(program) == before


def test_layers_that_are_alike_are_found() -> None:
    for apart, alike in ((0.1, True), (3.0, False)):
        program = program_of(twins(apart))
        frames = images()
        sites = tie_weights.find(GivenEvidence(program, frames), ("a",)).found
        assert bool(sites) == alike
        assert all(site.saved.weights_nbytes == 8 * 8 * 9 * 4 for site in sites)


def test_a_layer_that_chose_its_units_anew_is_not_tied() -> None:
    """Block b0 takes over what b1 did: its hidden layer makes what no value of the original was."""
    program, frames = program_of(residual_net(3)), images()
    original = program.copy()
    reference = Reference(original, frames)
    run_passes(program, passes_of([CollapseAction("a", "a/b0", "a/b1")], lambda act: reference))
    before = text(program)
    for nodes in (("a/n_b0_c", "a/n_b2_c"), ("a/n_b0_d", "a/n_b2_d")):
        assert TieWeights(nodes, reference).run(program) == []
    assert text(program) == before
