"""Attention maps that are alike: found, and one serves twice."""

from __future__ import annotations

from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.structure.cost import program_cost
from tests.nets.evidence import free_sites_of
from tests.nets.foldable import (
    attention_net,
    carried_out,
    error,
    tokens,
)
from tests.passes.checking import ops
from tests.programs import program_of


def test_an_attention_map_serves_twice() -> None:
    program = program_of(attention_net())
    original, frames = program.copy(), tokens()
    (site,) = free_sites_of(program, frames, "reuse-attention")
    assert site.action == ReuseAttentionAction("a", "a/s0", "a/s1") and site.damage < 0.01
    before = program_cost(program)
    carried_out(program, site.action, frames)
    assert ops(program).count("Softmax") == 1
    after = program_cost(program)
    assert (
        before.weights_nbytes - after.weights_nbytes == site.saved.weights_nbytes == 2 * 16 * 16 * 4
    )
    assert before.macs - after.macs == site.saved.macs > 0
    assert error(program, original, tokens(seed=1)) < 1e-3


def test_a_later_map_cannot_serve_an_earlier_layer() -> None:
    program = program_of(attention_net())
    before = ops(program)
    carried_out(program, ReuseAttentionAction("a", "a/s1", "a/s0"), tokens())
    assert ops(program) == before
