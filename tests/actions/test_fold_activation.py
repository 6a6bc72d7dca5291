"""Activations that are nearly affine: found, folded, and repaired by the refit."""

from __future__ import annotations

from repsimc.compiler.actions import fold_activation
from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.fold_activation import FoldActivationAction
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.text import text
from repsimc.compiler.structure.cost import program_cost
from tests.nets.evidence import GivenEvidence, free_sites_of
from tests.nets.foldable import (
    always_on,
    carried_out,
    error,
    gelu_mlp,
    images,
    tokens,
)
from tests.nets.networks import (
    Net,
)
from tests.passes.checking import ops
from tests.programs import program_of


def test_a_relu_that_is_always_on_goes_and_its_neighbours_merge() -> None:
    program = program_of(always_on())
    original, frames = program.copy(), images()
    (site,) = free_sites_of(program, frames, "fold-activation")
    assert site.damage == 0
    before = program_cost(program)
    carried_out(program, site.action, frames)
    assert ops(program) == ["Conv", "Tanh", "GlobalAveragePool", "Flatten", "Gemm"]
    after = program_cost(program)
    assert before.weights_nbytes - after.weights_nbytes == site.saved.weights_nbytes
    assert before.macs - after.macs == site.saved.macs
    assert error(program, original, images(seed=1)) < 1e-6


def test_a_gelu_is_folded_and_refitted() -> None:
    program = program_of(gelu_mlp(0.15))
    original, frames = program.copy(), tokens()
    action = FoldActivationAction("a", "a/h", "a/g")
    (site,) = [s for s in free_sites_of(program, frames, "fold-activation") if s.action == action]
    assert 0 < site.damage < 0.5 and site.saved.macs > 0
    before = program_cost(program)
    changes = carried_out(program, site.action, frames)
    assert "Erf" not in ops(program) and ops(program).count("MatMul") == 2
    after = program_cost(program)
    assert before.weights_nbytes - after.weights_nbytes == site.saved.weights_nbytes
    assert before.macs - after.macs == site.saved.macs
    assert changes[0].what.startswith("the activation that makes 'g' became affine")
    fitted = [node for node, note in program.notes.items() if note.made_by]
    assert fitted
    assert error(program, original, tokens(seed=1)) < 0.05


def test_the_refit_repairs_what_the_fold_lost() -> None:
    plain = program_of(gelu_mlp(0.3))
    original, frames = plain.copy(), tokens()
    action = FoldActivationAction("a", "a/h", "a/g")
    reference = Reference(plain.copy(), frames)
    for step in passes_of([action], lambda act: reference)[:-1]:
        step.run(plain)
    repaired = original.copy()
    carried_out(repaired, action, frames)
    test = tokens(seed=1)
    assert error(repaired, original, test) < 0.7 * error(plain, original, test)


def test_a_site_needs_a_merge_that_pays() -> None:
    net = Net()
    x = net.relu(net.conv("x", 3, 8, out="c1"), out="r")
    net.head(net.relu(net.conv(x, 8, 8)), 8, 5)
    program = program_of(net.model(x=("N", 3, 8, 8)))
    found = fold_activation.find(GivenEvidence(program, images()), ("a",))
    assert not found.found
    assert found.refused["a/r"].startswith("the second pads what the first")


def test_the_same_action_gives_the_same_bytes() -> None:
    def after() -> str:
        program = program_of(gelu_mlp(0.15))
        carried_out(program, FoldActivationAction("a", "a/h", "a/g"), tokens())
        return text(program)

    assert after() == after()
