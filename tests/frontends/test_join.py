"""Programs joined into one graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from repsimc.compiler.errors import ModelError, UsageError
from repsimc.compiler.frontends.join import join
from repsimc.compiler.graph.export import to_proto
from tests.frontends.given_models import SQUARE, TWICE, X, model
from tests.programs import assert_close, joined, program_of, run


def inputs(program: object) -> list[str]:
    return [value.name for value in program.graph.inputs]  # type: ignore[attr-defined]


def test_models_stay_apart():
    program = joined(a=TWICE, b=SQUARE)
    assert inputs(program) == ["a/x", "b/image"]
    assert list(program.models) == ["a", "b"]
    found = run(program, {"a/x": X, "b/image": X[:1]})
    assert_close(found["a/y"], X * 2)
    assert_close(found["b/y"], X[:1] ** 2)
    assert to_proto(program).graph.name == "repsimc"


def test_joining_leaves_the_programs_as_they_are():
    a, b = program_of(TWICE, "a"), program_of(SQUARE, "b")
    before = [to_proto(p).SerializeToString(deterministic=True) for p in (a, b)]
    join([a, b], [[("a", "x"), ("b", "image")]])
    assert [to_proto(p).SerializeToString(deterministic=True) for p in (a, b)] == before


def test_one_program_joins_to_itself():
    program = program_of(TWICE)
    assert to_proto(join([program])) == to_proto(program)


def test_joined_programs_join_again():
    program = join([joined(a=TWICE, b=TWICE), program_of(TWICE, "c")])
    assert list(program.models) == ["a", "b", "c"]
    found = run(program, {"a/x": X, "b/x": X, "c/x": X})
    assert_close(found["c/y"], X * 2)


def test_a_name_can_be_used_once():
    with pytest.raises(UsageError, match="two models are called 'a'"):
        join([program_of(TWICE), program_of(SQUARE)])
    with pytest.raises(UsageError):
        join([])


def test_tied_inputs_are_one():
    program = joined([[("a", "x"), ("b", "image")]], a=TWICE, b=SQUARE)
    assert inputs(program) == ["x"]
    assert program.models["a"].inputs == {"x": "x"}
    assert program.models["b"].inputs == {"image": "x"}
    found = run(program, {"x": X})
    assert_close(found["a/y"], X * 2)
    assert_close(found["b/y"], X**2)


def test_tied_inputs_keep_their_common_name():
    program = joined([[("b", "x"), ("a", "x")]], a=TWICE, b=TWICE)
    assert inputs(program) == ["x"]


def test_a_tied_name_with_a_separator_reads_as_no_model():
    graph = onnx.parser.parse_model(TWICE)
    for node in graph.graph.node:
        node.input[0] = "serving/x"
    graph.graph.input[0].name = "serving/x"
    program = joined([[("a", "serving/x"), ("b", "x")]], a=graph, b=TWICE)
    assert inputs(program) == ["serving_x"]


def test_two_groups_of_one_name_stay_two():
    source = model("g (float[2] x, float[2] u) => (float[2] y) { y = Sub(x, u) }")
    tied = [[("a", "x"), ("b", "x")], [("c", "x"), ("d", "x")]]
    program = joined(tied, a=source, b=source, c=source, d=source)
    assert inputs(program) == ["x", "a/u", "b/u", "x_2", "c/u", "d/u"]


def test_inputs_of_one_model_can_be_tied():
    source = model("g (float[2] x, float[2] u) => (float[2] y) { y = Sub(x, u) }")
    program = joined([[("a", "x"), ("a", "u")]], a=source)
    assert_close(run(program, {"x": X[0]})["a/y"], np.zeros(2, np.float32))


def test_tied_inputs_read_inside_bodies():
    source = model(
        """g (bool c, float[2] x) => (float[2] y)
        { y = If (c) < then_branch = t () => (float[2] o) { o = Add(x, x) },
                       else_branch = e () => (float[2] p) { p = Neg(x) }> }"""
    )
    program = joined([[("a", "x"), ("b", "x")], [("a", "c"), ("b", "c")]], a=source, b=source)
    assert set(inputs(program)) == {"x", "c"}
    found = run(program, {"x": X[0], "c": np.array(False)})
    assert_close(found["b/y"], -X[0])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("g (double[N,2] x) => (double[N,2] y) { y = Neg(x) }", "float32 and float64"),
        ("g (float[N,3] x) => (float[N,3] y) { y = Neg(x) }", "shapes"),
        ("g (float[N,2,1] x) => (float[N,2,1] y) { y = Neg(x) }", "shapes"),
    ],
)
def test_inputs_that_no_array_can_feed(other: str, message: str):
    with pytest.raises(ModelError, match=f"inputs 'a.x' and 'b.x'.*{message}"):
        joined([[("a", "x"), ("b", "x")]], a=TWICE, b=model(other))


def test_ties_that_name_nothing_or_twice():
    for tied in (
        [[("a", "x"), ("b", "none")]],
        [[("a", "x"), ("none", "x")]],
        [[("a", "x"), ("b", "x")], [("a", "x"), ("b", "x")]],
    ):
        with pytest.raises(UsageError):
            joined(tied, a=TWICE, b=TWICE)


def test_versions_of_a_domain_must_agree():
    one = model("g (float[2] x) => (float[2] y) { y = acme.F(x) }", more=', "acme" : 1')
    two = model("g (float[2] x) => (float[2] y) { y = acme.F(x) }", more=', "acme" : 2')
    idle = model("g (float[2] x) => (float[2] y) { y = Neg(x) }", more=', "acme" : 2')
    with pytest.raises(ModelError, match="versions 1 and 2 of operator domain 'acme'"):
        joined(a=one, b=two)
    versions = {e.domain: e.version for e in to_proto(joined(a=one, b=one)).opset_import}
    assert versions == {"": 17, "acme": 1}
    assert joined(a=one, b=idle)


def calling(body: str, inner: str = "r = Neg(v)") -> str:
    return model(
        f"""g (float[2] x) => (float[2] y) {{ h = own.outer(x)  y = own.inner(h) }}
        <domain: "own", opset_import: ["" : 17, "own" : 1]> outer (v) => (r) {{ {body} }}
        <domain: "own", opset_import: ["" : 17]> inner (v) => (r) {{ {inner} }}""",
        more=', "own" : 1',
    )


def functions(program: object) -> list[str]:
    return [f.name for f in to_proto(program).functions]  # type: ignore[arg-type]


def test_equal_functions_are_kept_once():
    source = calling("r = own.inner(v)")
    program = joined(a=source, b=source)
    assert functions(program) == ["outer", "inner"]


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (
            calling("r = Abs(v)"),
            calling("r = Relu(v)"),
            {"outer_a", "outer_b", "inner"},
        ),
        (
            calling("r = own.inner(v)"),
            calling("r = own.inner(v)", "r = Abs(v)"),
            {"outer_a", "outer_b", "inner_a", "inner_b"},
        ),
    ],
    ids=["one differs", "the one it calls differs"],
)
def test_functions_that_differ_get_their_models_name(first: str, second: str, names: set[str]):
    program = joined(a=first, b=second)
    assert set(functions(program)) == names
    x = np.array([-1, 2], np.float32)
    found = run(program, {"a/x": x, "b/x": x})
    for name, source in (("a", first), ("b", second)):
        alone = run(program_of(source, name), {f"{name}/x": x})
        assert_close(found[f"{name}/y"], alone[f"{name}/y"])


def test_functions_inside_a_part():
    program = joined(a=calling("r = Abs(v)"), b=calling("r = Relu(v)"))
    part = to_proto(program, inputs=["b/h"], outputs=["b/y"])
    assert [function.name for function in part.functions] == ["inner"]


def test_ir_and_opset_are_the_newest_of_all():
    old = model("g (float[2] x) => (float[2] y) { y = Relu(x) }", 9)
    newer = onnx.parser.parse_model(model("g (float[2] x) => (float[2] y) { y = Relu(x) }", 23))
    newer.ir_version = 13
    proto = to_proto(joined(a=old, b=newer))
    assert [entry.version for entry in proto.opset_import] == [23]
    assert proto.ir_version == 11
    assert to_proto(joined(a=old, b=TWICE)).ir_version == 10
