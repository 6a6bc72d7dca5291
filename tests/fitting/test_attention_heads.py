"""Heads behind an attention map: which channels they are, however they were cut; or why not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.fitting.attention_heads import Attention, Heads, attention_behind
from repsimc.compiler.graph.program import Program
from tests.nets.attention import DIMS, HEADS, TOKENS, WAYS, attention_layer
from tests.nets.foldable import attention_net
from tests.nets.networks import Array, Net
from tests.programs import program_of


def behind(program: Program, value: str = "a/s") -> Attention:
    found = attention_behind(program, value)
    assert isinstance(found, Attention), found
    return found


def arrays_of(program: Program, *names: str) -> list[Array]:
    x = np.random.default_rng(0).standard_normal((3, TOKENS, 10)).astype(np.float32)
    return Executable(program, None, list(names))({"a/x": x})


def same_heads(program: Program, heads: Heads, last: int) -> bool:
    """Whether the heads' channels of their projection are what the value holds.

    Both are laid out [heads, frames, dims, tokens] or [heads, frames, tokens, dims].
    """
    result, value = arrays_of(program, heads.operator.result.name, heads.value.name)
    apart = heads.apart(value).swapaxes(-1, last)
    if result.shape[0] == TOKENS:  # tokens first
        result = result.swapaxes(0, 1)
    wanted = result[:, :, heads.columns].transpose(2, 0, 1, 3) * heads.factor
    return apart.shape == wanted.shape and np.allclose(apart, wanted, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_heads_are_channels_of_their_projections(way: str) -> None:
    program = program_of(attention_layer(way))
    found = behind(program)
    assert found.logits.outputs[0].name == "a/l"
    assert (found.queries.count, found.queries.dims) == (HEADS, DIMS)
    assert same_heads(program, found.queries, -1) and same_heads(program, found.keys, -2)
    # Values are cut anew only where queries or keys come from the same operator.
    assert (found.values is None) == (way in ("apart", "tokens_first"))
    assert len(found.operators) == {"apart": 2, "tokens_first": 2, "two": 2}.get(way, 1)
    assert sum(len(heads) for _, heads in found.operators) == len(found.reads)


def test_one_head_needs_no_cut() -> None:
    found = behind(program_of(attention_net()), "a/s1")
    assert (found.queries.count, found.queries.dims, found.queries.view) == (1, 16, ())
    assert [node.op for node in found.gone] == ["Transpose"]


def attending(
    q: Callable[[Net, str], str] = lambda net, x: net.linear(x, 10, 8),
    k: Callable[[Net, str], str] = lambda net, x: net.linear(x, 10, 8),
    logits: Callable[[Net, str], str] = lambda net, x: x,
    after: Callable[[Net, str, str], str] = lambda net, x, q: x,
) -> Program:
    """One head over tokens [N, 6, 10], made, scored and ended in these ways; its map is s."""
    net = Net(1)
    query = q(net, "x")
    key = net.node("Transpose", k(net, "x"), perm=[0, 2, 1])
    score = logits(net, net.node("MatMul", query, key))
    mixed = net.node("MatMul", net.node("Softmax", score, axis=-1, out="s"), net.linear("x", 10, 8))
    mixed = after(net, mixed, query)
    net.gemm(net.node("ReduceMean", mixed, axes=[1], keepdims=0), 8, 5, out="y")
    return program_of(net.model(x=("N", TOKENS, 10)))


def normalised(net: Net, x: str) -> str:
    ones = net.weight(np.ones(8))
    return net.node("LayerNormalization", net.linear(x, 10, 8), ones, axis=-1)


def per_channel(net: Net, x: str) -> str:
    return net.node("Mul", net.linear(x, 10, 8), net.weight(net.normal(8)))


def half_used(net: Net, x: str) -> str:
    # As keys of other positions: the second half of the channels is turned round.
    parts = net.split(net.linear(x, 10, 8), 4, 4)
    return net.node("Concat", *reversed(parts), axis=-1)


def turned(net: Net, x: str) -> str:
    # Tokens and channels change places: what looks like heads mixes tokens.
    shape = net.weight(np.array([0, 8, TOKENS], np.int64))
    return net.node("Transpose", net.node("Reshape", net.linear(x, 10, 8), shape), perm=[0, 2, 1])


REFUSED: dict[str, tuple[Program, str]] = {
    "normalised queries": (attending(normalised), "LayerNormalization stands between"),
    "a factor per channel": (attending(per_channel), "Mul stands between"),
    "turned channels": (attending(half_used), "Concat stands between"),
    "mixed tokens": (attending(turned), "its heads are no groups of channels"),
    "no projection": (attending(lambda net, x: x, lambda net, x: x), "no linear operator makes"),
    "heads of another width": (
        attending(
            logits=lambda net, x: net.node(
                "Add", x, net.node("MatMul", "x", net.node("Transpose", "x", perm=[0, 2, 1]))
            )
        ),
        "its logits are more than one product",
    ),
    "a function of the logits": (
        attending(logits=lambda net, x: net.node("Tanh", x)), "its logits are more than one product"
    ),
    "queries read by others": (
        attending(after=lambda net, x, q: net.node("Add", x, q)), "others read its heads, too"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_plain_attention_is_refused(case: str) -> None:
    program, why = REFUSED[case]
    told = attention_behind(program, "a/s")
    assert isinstance(told, str) and told.startswith("'s': ") and why in told


def test_projections_and_weights_of_others_are_refused() -> None:
    net = Net(2)
    weight = net.weight(net.normal(10, 8))
    q, k = (net.node("MatMul", "x", weight) for _ in range(2))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]))
    mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1, out="s"), "x", out="y")
    program = program_of(net.model((mixed,), x=("N", TOKENS, 10)))
    assert attention_behind(program, "a/s") == (
        "'s': others read the weights of its projections, too"
    )


def test_a_projection_that_is_an_output_is_refused() -> None:
    net = Net(2)
    shape = net.weight(np.array([0, -1, 2, 4], np.int64))
    q, k = (net.linear("x", 10, 8, out=name) for name in ("q", "k"))
    q = net.node("Transpose", net.node("Reshape", q, shape), perm=[0, 2, 1, 3])
    k = net.node("Transpose", net.node("Reshape", k, shape), perm=[0, 2, 3, 1])
    attended = net.node("Softmax", net.node("MatMul", q, k), axis=-1, out="s")
    v = net.node("Reshape", net.linear("x", 10, 8), shape)
    net.node("MatMul", attended, net.node("Transpose", v, perm=[0, 2, 1, 3]), out="y")
    program = program_of(net.model(("y", "k"), x=("N", TOKENS, 10)))
    assert attention_behind(program, "a/s") == "'s': others read its projections, too"
    program = program_of(net.model(("y",), x=("N", TOKENS, 10)))
    assert behind(program).queries.count == 2
