from __future__ import annotations

from collections.abc import Callable

import onnx
from hypothesis import given, settings

from repsimc.compiler.graph.cuts import Cut, cuts
from repsimc.compiler.graph.program import Program, node_inputs
from tests.nets.random_graphs import siblings
from tests.programs import joined, program_of

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def model_of(inputs: str, outputs: str, *lines: str) -> str:
    """A model of unary and binary nodes; inputs and outputs are float [N, 4] unless typed."""

    def typed(names: str) -> str:
        return ", ".join(n if " " in n else f"float[N,4] {n}" for n in names.split(", "))

    return f"{HEAD} net ({typed(inputs)}) => ({typed(outputs)}) {{ {' '.join(lines)} }}"


def found(text: str, max_width: int = 4) -> list[tuple[str, ...]]:
    return [own(cut) for cut in cuts(program_of(text), "a", max_width)]


def own(cut: Cut) -> tuple[str, ...]:
    return tuple(value.removeprefix("a/") for value in cut.values)


def test_chain_is_cut_everywhere() -> None:
    text = model_of("x", "y", "p = Relu(x) q = Tanh(p) y = Neg(q)")
    assert cuts(program_of(text), "a") == [
        Cut(("a/p",), 1 / 3),
        Cut(("a/q",), 2 / 3),
        Cut(("a/y",), 1.0),
    ]


def test_residual_block_is_cut_before_and_after() -> None:
    block = "a = Relu(x) b = Neg(a) c = Add(a, b)"
    text = model_of("x", "y", block, "d = Tanh(c) e = Relu(d) f = Abs(e) y = Neg(f)")
    assert found(text) == [("a",), ("c",), ("d",), ("e",), ("f",), ("y",)]


def test_sets_where_outputs_branch_off_early() -> None:
    # A detector: two levels, each read by a head of its own.
    text = model_of(
        "x",
        "s1, s2",
        "f0 = Relu(x)",
        "h1 = Neg(f0) i1 = Neg(h1) s1 = Neg(i1)",
        "g1 = Relu(f0) f1 = Relu(g1)",
        "h2 = Neg(f1) i2 = Neg(h2) s2 = Neg(i2)",
    )
    program = program_of(text)
    assert own(cuts(program, "a")[0]) == ("f0",)
    assert ("f0", "f1") in found(text)
    assert ("f0", "g1") in found(text)
    assert found(text, max_width=1) == [("f0",)]


def test_sets_across_the_levels_of_a_u_net() -> None:
    text = model_of(
        "x",
        "y",
        "d1 = Relu(x) e1 = Neg(d1) d2 = Relu(e1) e2 = Neg(d2) d3 = Relu(e2) b = Neg(d3)",
        "u3 = Add(b, d3) v3 = Neg(u3) u2 = Add(v3, d2) v2 = Neg(u2) u1 = Add(v2, d1) y = Neg(u1)",
    )
    assert {("d1", "d2", "d3"), ("d1", "d2", "u3"), ("d1", "v2")} <= set(found(text))
    assert max(map(len, found(text, max_width=2))) == 2


def test_set_may_hold_an_input() -> None:
    text = model_of("x", "y", "p = Relu(x) q = Neg(p) r = Tanh(q) y = Add(x, r)")
    assert found(text) == [("x", "p"), ("x", "q"), ("x", "r"), ("y",)]


def test_all_inputs_are_separated() -> None:
    text = model_of("x, z", "y", "p = Relu(x) q = Neg(z) s = Add(p, q) t = Relu(s) y = Neg(t)")
    assert found(text, max_width=1) == [("s",), ("t",), ("y",)]
    assert ("p",) not in found(text)


def test_shapes_are_not_data() -> None:
    text = model_of("x", "y", "p = Relu(x) q = Neg(p) s = Shape(x) y = Reshape(q, s)")
    assert found(text) == [("p",), ("q",), ("y",)]
    data = model_of("x, int64[2] s", "y", "p = Relu(x) q = Neg(p) y = Reshape(q, s)")
    assert ("q",) not in found(data)
    assert ("s", "q") in found(data)


def test_nodes_that_only_carry_shapes_count_for_depth() -> None:
    text = model_of("x", "y", "s = Shape(x) p = Relu(x) y = Reshape(p, s)")
    assert cuts(program_of(text), "a")[0] == Cut(("a/p",), 1 / 3)


def test_bodies_are_opaque() -> None:
    text = model_of(
        "x, bool flag",
        "y",
        "p = Relu(x) c = Not(flag) q = Neg(p)",
        "r = If (c) < then_branch = t () => (float[N,4] u) { v = Neg(p) u = Add(v, q) },",
        " else_branch = e () => (float[N,4] w) { w = Relu(q) } >",
        "y = Neg(r)",
    )
    sets = found(text)
    assert ("r",) in sets and ("y",) in sets
    assert ("q",) not in sets  # the body also reads p
    assert not {"u", "v", "w"} & {value for values in sets for value in values}


def test_weights_and_dead_ends_spoil_nothing() -> None:
    text = model_of("x, unread", "y", "p = Relu(x) dead = Neg(x) q = Neg(p) y = Sub(q, p)")
    assert found(text)[0] == ("p",)
    assert ("dead",) not in found(text)


def test_every_output_is_separated() -> None:
    text = model_of("x", "y, z", "p = Relu(x) y = Neg(p) q = Tanh(p) z = Neg(q)")
    assert found(text, max_width=1) == [("p",)]


def test_nothing_to_cut() -> None:
    constant = (
        f"{HEAD} net (float[4] x) => (float[4] y) <float[4] w = {{1,2,3,4}}> {{ y = Neg(w) }}"
    )
    assert found(constant) == []


def test_models_of_one_program_are_cut_apart() -> None:
    text = model_of("x", "y", "p = Relu(x) y = Neg(p)")
    program = joined([[("a", "x"), ("b", "x")]], a=text, b=text)
    assert [cut.values for cut in cuts(program, "b")] == [("b/p",), ("b/y",)]
    shared = program.values()
    program.replace_uses(shared["b/p"], shared["a/p"])
    assert [cut.values for cut in cuts(program, "b")] == [("a/p",), ("b/y",)]


def test_detector(golden: Callable[[str, str], None]) -> None:
    levels = []
    previous = "stem"
    for level in range(4):
        levels.append(
            f"c{level} = Relu({previous}) f{level} = Tanh(c{level}) "
            f"k{level} = Neg(f{level}) l{level} = Abs(f{level})"
        )
        previous = f"f{level}"
    scores, boxes = (", ".join(f"{kind}{level}" for level in range(4)) for kind in "kl")
    text = model_of(
        "x",
        "scores, boxes",
        "stem = Relu(x)",
        *levels,
        f"ks = Concat<axis = 1>({scores}) ls = Concat<axis = 1>({boxes})",
        "scores = Softmax(ks) boxes = Neg(ls)",
    )
    lines = [f"{cut.depth:.3f} {' '.join(own(cut))}" for cut in cuts(program_of(text), "a")]
    golden("cuts_detector.txt", "\n".join(lines) + "\n")


def separates(program: Program, model: str, values: tuple[str, ...]) -> bool:
    """Whether no path of data leads from an input to an output past the values."""
    entry = program.models[model]
    reached = set(entry.inputs.values()) - set(values)
    for node in program.graph.nodes:
        if node.op != "Shape" and any(tensor.name in reached for tensor in node_inputs(node)):
            reached |= {value.name for value in node.outputs} - set(values)
    return not reached & set(entry.outputs.values())


@settings(max_examples=40, deadline=None)
@given(siblings())
def test_random_cuts_separate_and_none_is_missed(models: list[onnx.ModelProto]) -> None:
    program = program_of(models[0])
    given_cuts = cuts(program, "a")
    inputs = set(program.models["a"].inputs.values())
    reaches = separates(program, "a", ())
    for cut in given_cuts:
        assert separates(program, "a", cut.values)
        assert 0 < cut.depth <= 1 and len(cut.values) <= 4
        assert not set(cut.values) <= inputs
        needed = program.needed_nodes([program.values()[name] for name in cut.values])
        assert cut.depth == len(needed) / len(program.nodes_of("a"))
    assert [cut.depth for cut in given_cuts] == sorted(cut.depth for cut in given_cuts)
    assert len({cut.values for cut in given_cuts}) == len(given_cuts)
    singles = {cut.values for cut in given_cuts if len(cut.values) == 1}
    if not reaches:
        live = {value.name for node in program.nodes_of("a") for value in node.outputs}
        brute = {(name,) for name in live if separates(program, "a", (name,))}
        assert singles == brute
    assert cuts(program.copy(), "a") == given_cuts
