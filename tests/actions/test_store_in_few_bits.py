"""Weights in few bits as actions: what can be stored, at what price, beside all other kinds."""

from __future__ import annotations

import random

import numpy as np
import pytest

from repsimc.compiler.actions import store_in_few_bits
from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.site import Site
from repsimc.compiler.actions.store_in_few_bits import StoreInFewBitsAction, why_in_float
from repsimc.compiler.fitting.operators import linear_operator
from repsimc.compiler.graph.program import Program
from repsimc.compiler.planning.formulation.candidates import Candidate
from repsimc.compiler.planning.formulation.combinations import Combinations
from repsimc.passes.pipeline import run_exact
from tests.actions.costs import cost_after
from tests.nets.candidates import PROGRAMS, candidates_of
from tests.nets.evidence import GivenEvidence
from tests.nets.few_bits import per_channel, put
from tests.nets.foldable import images
from tests.nets.layers import LAYERS, frames_of, weight_read_twice
from tests.nets.networks import ArrayFrames, Net
from tests.planning.formulation.test_linear_costs import some_together
from tests.programs import program_of

KIND = StoreInFewBitsAction.kind


def sites(program: Program, precision: str, frames: ArrayFrames | None = None) -> list[Site]:
    evidence = GivenEvidence(program, frames or images(), precision)
    return store_in_few_bits.find(evidence, ("a",)).found


def bits_of(site: Site) -> int:
    assert isinstance(site.action, StoreInFewBitsAction)
    return site.action.bits


# -- what can be stored -------------------------------------------------------------------------

SQUARE = ", ".join(f"{number:.3f}" for number in np.random.default_rng(0).normal(size=256))
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
# By the reason for which the weight w of the layer n stays as it is.
REFUSED: dict[str, str] = {
    "read by others, too": f"""{HEAD} g (float[N,16] x) => (float[N,16] y)
        <float[16,16] w = {{ {SQUARE} }}>
        {{ [n] a = MatMul(x, w)  b = Exp(w)  y = MatMul(a, b) }}""",
    "read by others, too ": f"""{HEAD} g (float[N,16] x) => (float[N,16] y)
        <float[16,16] w = {{ {SQUARE} }}>
        {{ [n] a = MatMul(x, w)  y = Gemm <transB = 1> (a, w) }}""",
    "read inside a body": f"""{HEAD} g (float[N,16] x, bool c) => (float[N,16] y)
        <float[16,16] w = {{ {SQUARE} }}>
        {{ [n] a = MatMul(x, w)  b = If (c) <
             then_branch = t () => (float[P,16] p) {{ p = MatMul(a, w) }},
             else_branch = e () => (float[P,16] q) {{ q = Neg(a) }}>
           y = Relu(b) }}""",
    "hardly any weights": f"""{HEAD} g (float[N,2] x) => (float[N,2] y)
        <float[2,2] w = {{ 1, 2, 3, 4 }}> {{ [n] y = MatMul(x, w) }}""",
    "numbers of float64": f"""{HEAD} g (double[N,16] x) => (double[N,16] y)
        <double[16,16] w = {{ {SQUARE} }}> {{ [n] y = MatMul(x, w) }}""",
    "groups that share scales": f"""{HEAD} g (float[N,8,H,W] x) => (float[N,16,H,W] y)
        <float[8,8,2,2] w = {{ {SQUARE} }}> {{ [n] y = ConvTranspose <group = 2> (x, w) }}""",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_stored_says_why(reason: str) -> None:
    program = program_of(REFUSED[reason])
    name = program.graph.nodes[0].name
    for one in (program, program.copy()):  # a copy's bodies have constants of their own
        told = StoreInFewBitsAction("a", (name,), 8).effect(one)
        assert told == f"the weight of 'n' stays as it is: {reason.strip()}"
        inside = {"a/w"} if "body" in reason else ()
        assert why_in_float(one.node(name), inside)["a/w"][1] == reason.strip()


def test_a_weight_is_stored_once() -> None:
    program = program_of(LAYERS["product"]())
    name = program.node("a/n_layer").inputs[1].name
    put(program, name, per_channel(8, 1))
    told = StoreInFewBitsAction("a", ("a/n_layer",), 4).effect(program)
    assert isinstance(told, str) and told.endswith("in few bits already")


def test_a_node_without_a_weight_is_none_to_store() -> None:
    program = program_of(LAYERS["product"]())
    for name in ("a/n_relu1", "a/none"):
        assert isinstance(StoreInFewBitsAction("a", (name,), 8).effect(program), str)


def test_all_that_read_a_weight_are_stored_with_it() -> None:
    program = program_of(weight_read_twice())
    for name in ("a/n_s0", "a/n_s1"):
        effect = StoreInFewBitsAction("a", (name,), 8).effect(program)
        assert not isinstance(effect, str)
        assert set(effect.stored) == {"a/n_s0", "a/n_s1"}


def test_more_nodes_in_as_few_bits_cover_fewer() -> None:
    few, more = (StoreInFewBitsAction("a", names, 8) for names in (("a/n",), ("a/n", "a/m")))
    assert more.covers(few) and not few.covers(more)
    lower = StoreInFewBitsAction("a", few.nodes, 4)
    assert lower.covers(few) and not few.covers(lower)
    assert not StoreInFewBitsAction("b", more.nodes, 4).covers(few)


# -- what is found ------------------------------------------------------------------------------


def test_sites_go_by_the_precision_that_is_asked_for() -> None:
    program = program_of(LAYERS["convolution"]())
    bits = {
        asked: {bits_of(site) for site in sites(program, asked)}
        for asked in ("fp32", "fp16", "int8", "auto")
    }
    assert bits == {"fp32": set(), "fp16": set(), "int8": {8}, "auto": {8, 4}}


def test_fewer_bits_are_expected_to_cost_more_and_save_more() -> None:
    program = program_of(LAYERS["convolution"]())
    found = {(site.nodes, bits_of(site)): site for site in sites(program, "auto")}
    for (nodes, bits), site in found.items():
        if bits == 8:
            lower = found[nodes, 4]
            assert lower.damage == pytest.approx(site.damage * (127 / 7) ** 2)
            assert lower.saved.weights_nbytes > site.saved.weights_nbytes
            assert lower.look == site.look


def test_what_is_expected_is_about_what_rounding_alone_loses() -> None:
    """The share of a layer's variance, within a factor of four."""
    for name in ("convolution", "in groups", "depthwise", "Gemm", "transposed", "of one axis"):
        model = LAYERS[name]()
        program = program_of(model)
        site = next(s for s in sites(program, "int8", frames_of(model)) if "a/n_layer" in s.nodes)
        operator = linear_operator(program.node("a/n_layer"))
        assert operator is not None
        weight = operator.affine().weight
        scales = np.abs(weight).max(axis=1, keepdims=True) / 127
        lost = np.rint(weight / scales) * scales - weight
        # Against the variance of the same map: inputs count alike in both.
        share = float((lost**2).sum() / (weight**2).sum())
        assert share / 4 < site.damage < share * 4, name


def test_small_layers_go_together() -> None:
    net = Net(4)
    x = net.relu(net.gemm("x", 64, 256))
    x = net.relu(net.gemm(x, 256, 256))
    x = net.relu(net.gemm(x, 256, 16))
    for _ in range(5):
        x = net.relu(net.gemm(x, 16, 16))
    net.gemm(x, 16, 5, out="y")
    program = program_of(net.model(x=("N", 64)))
    frames = ArrayFrames({"a/x": net.normal(64, 64).astype(np.float32)})
    together = [site for site in sites(program, "int8", frames) if len(site.nodes) > 1]
    (site,) = together
    assert len(site.nodes) == 6


def test_four_bits_are_not_offered_where_the_opset_cannot_be_raised() -> None:
    program = program_of(
        f"""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N,16] x) => (float[N,1] y) <float[16,16] w = {{ {SQUARE} }}>
        {{ t = MatMul (x, w)  y = own.mean <over = [1]> (t) }}
        <domain: "own", opset_import: ["" : 17]>
        mean <over> (t) => (m) {{ m = ReduceMean <axes: ints = @over> (t) }}
        """
    )
    frames = ArrayFrames({"a/x": np.random.default_rng(0).normal(size=(32, 16)).astype("f4")})
    assert {bits_of(site) for site in sites(program, "auto", frames)} == {8}
    assert program.graph.opset == 17


# -- the price ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", LAYERS)
def test_a_bill_is_what_the_program_costs_then(name: str, bits: int) -> None:
    model = LAYERS[name]()
    program, frames = program_of(model), frames_of(model, 64)
    action = StoreInFewBitsAction("a", ("a/n_layer",), bits)
    bill = GivenEvidence(program, frames).bills.bill([action])
    assert bill == cost_after(program, [action], frames)


def test_a_weight_of_two_readers_is_billed_once() -> None:
    program = program_of(weight_read_twice())
    action = StoreInFewBitsAction("a", ("a/n_s0",), 8)
    bill = GivenEvidence(program, images(64)).bills.bill([action])
    assert bill == cost_after(program, [action], images(64))


def is_stored(action: Action) -> bool:
    return action.kind == KIND


@pytest.mark.parametrize("name", ["residual", "one trunk", "cuts of two", "still", "twins"])
def test_beside_others_it_saves_what_it_was_billed(name: str) -> None:
    """Drawn combinations, with and without what is stored: the bills differ as programs do."""
    found = candidates_of(name)
    frames = PROGRAMS[name][1](found.program)
    space = Combinations(found.bills, [Candidate(site, {}) for site in found.sites], ())
    draws = random.Random(name)
    compared = 0
    while compared < 3:
        actions = [space.moves[move].action for move in some_together(space, draws)]
        others = [action for action in actions if not is_stored(action)]
        stored = [action for action in actions if is_stored(action)]
        bill, plain = found.bills.bill(actions), found.bills.bill(others)
        if not stored or bill is None or plain is None:
            continue
        compared += 1
        billed = bill - plain
        cost = cost_after(found.program, actions, frames) - cost_after(
            found.program, others, frames
        )
        # Biases that models have in common are each its own once they are fitted.
        nodes = [found.program.node(n) for action in stored for n in action.to_json()["nodes"]]
        biases = sum(4 * op.fan_out for node in nodes if (op := linear_operator(node)))
        assert billed.macs == cost.macs
        assert 0 <= cost.weights_nbytes - billed.weights_nbytes <= biases, actions


def test_equal_weights_of_two_models_are_stored_once() -> None:
    found = candidates_of("one trunk")
    stored = [site.action for site in found.sites if is_stored(site.action)]
    program = found.program
    run_exact(program)
    by_node = {node: action for action in stored for node in action.to_json()["nodes"]}
    # The trunk's layers belong to the first model: no other one has a site for them.
    trunk = {node.name for node in program.nodes_of("a")} & {n.name for n in program.nodes_of("b")}
    assert trunk & set(by_node)
    assert {by_node[node].models for node in trunk & set(by_node)} == {("a",)}
