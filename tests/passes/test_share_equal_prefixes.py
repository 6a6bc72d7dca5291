from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from repsimc.compiler.graph.program import Note, Program
from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import verify
from repsimc.passes.share_equal_prefixes import ShareEqualPrefixes
from tests.programs import assert_close, joined, program_of, run

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
TIED = [[("a", "x"), ("b", "x")]]


def net(head: str, more: str = "") -> str:
    """Two layers, the same in every model, and a head."""
    return f"""{HEAD} net (float[N,2] x) => (float[N,2] y)
    <float[2,2] w = {{1, 2, 3, 4}}, float[2] b = {{1, -1}} {more}> {{
      [fc] h = Gemm(x, w, b) [act] r = Relu(h) {head}
    }}"""


def shared(program: Program) -> Program:
    """The program after the pass, checked: same outputs to the bit, nothing left to do."""
    before = program.copy()
    changes = ShareEqualPrefixes().run(program)
    verify(program)
    assert len(before.graph.nodes) - len(changes) <= len(program.graph.nodes)
    again = text(program)
    assert ShareEqualPrefixes().run(program) == [] and text(program) == again
    random = np.random.default_rng(0)
    feeds = {
        value.name: random.standard_normal(
            [d if isinstance(d, int) else 3 for d in value.shape]
        ).astype(value.dtype)
        for value in before.graph.inputs
    }
    expected, actual = run(before, feeds), run(program, feeds)
    assert list(actual) == list(expected)
    for name in expected:
        assert_close(actual[name], expected[name], 0, 0)
    assert [m.outputs for m in program.models.values()] == [
        m.outputs for m in before.models.values()
    ]
    return program


def names(program: Program) -> list[str]:
    return [node.name for node in program.graph.nodes]


def test_equal_prefix_runs_once(golden: Callable[[str, str], None]) -> None:
    program = joined(TIED, a=net("[out] y = Neg(r)"), b=net("[out] y = Exp(r)"))
    changes = ShareEqualPrefixes().run(program.copy())
    assert [change.node for change in changes] == ["b/fc", "b/act"]
    assert changes[0].what == "Gemm 'b/fc' equals 'a/fc' and runs once for both"
    assert [change.nbytes_saved for change in changes] == [24, 0]
    assert names(shared(program)) == ["a/fc", "a/act", "a/out", "b/out"]
    assert program.notes["a/fc"].sources == ("a/fc", "b/fc")
    assert "b/fc" not in program.notes
    golden("share_equal_prefixes.txt", text(program))


def test_every_output_keeps_its_name() -> None:
    program = shared(joined(TIED, a=net("[out] y = Neg(r)"), b=net("[out] y = Neg(r)")))
    assert [node.op for node in program.graph.nodes] == ["Gemm", "Relu", "Neg", "Identity"]
    assert [value.name for value in program.graph.outputs] == ["a/y", "b/y"]
    identity = program.graph.nodes[-1]
    assert program.notes[identity.name] == Note(("b/out",), "share-equal-prefixes")


def test_three_equal_models_are_done_in_one_run() -> None:
    tied = [[(name, "x") for name in "abc"]]
    model = net("[out] y = Neg(r)")
    program = shared(joined(tied, a=model, b=model, c=model))
    assert [node.op for node in program.graph.nodes][3:] == ["Identity", "Identity"]
    assert [node.inputs[0].name for node in program.graph.nodes[3:]] == ["a/y", "a/y"]


def test_output_that_another_model_computes_on_the_way() -> None:
    model = net("[out] y = Neg(r)").replace("(float[N,2] y)", "(float[N,2] r, float[N,2] y)")
    program = shared(joined(TIED, a=net("[out] y = Neg(r)"), b=model))
    assert [v.name for v in program.graph.outputs] == ["a/y", "b/r", "b/y"]
    assert sum(node.op == "Identity" for node in program.graph.nodes) == 2


def test_readers_move_past_a_shared_output() -> None:
    first = net("[out] y = Neg(r)").replace("(float[N,2] y)", "(float[N,2] r, float[N,2] y)")
    program = shared(joined(TIED, a=first, b=first))
    assert [node.op for node in program.graph.nodes] == [
        "Gemm", "Relu", "Neg", "Identity", "Identity",
    ]  # fmt: skip


def test_within_one_model() -> None:
    program = shared(program_of(net("p = Neg(r) q = Neg(r) y = Add(p, q)")))
    assert [node.op for node in program.graph.nodes] == ["Gemm", "Relu", "Neg", "Add"]


def test_operands_of_add_and_mul_commute() -> None:
    program = shared(
        program_of(net("p = Add(r, x) q = Add(x, r) s = Mul(p, b) t = Mul(b, q) y = Sub(s, t)"))
    )
    assert [node.op for node in program.graph.nodes].count("Add") == 1
    assert [node.op for node in program.graph.nodes].count("Mul") == 1


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        ("float six", "float[1] six", True),
        ("float[1] six", "float[1,1] six", True),
        ("float[2] six", "float[1,2] six", True),
        ("float[2] six", "float[2,1] six", False),
        # It has more axes than what it meets, so the result has them too.
        ("float[1] six", "float[1,1,1] six", False),
    ],
)
def test_axes_of_size_one_before_others_make_no_difference(
    one: str, other: str, merged: bool
) -> None:
    def model(declared: str) -> str:
        numbers = "{6, 7}" if "2" in declared else "{6}"
        return f"""{HEAD} net (float[2,2] x) => (float y)
        <{declared} = {numbers}> {{ [add] h = Add(six, x) [out] y = ReduceSum<keepdims=0>(h) }}"""

    program = shared(joined(TIED, a=model(one), b=model(other)))
    assert ("b/add" not in names(program)) == merged


@pytest.mark.parametrize(("mode", "merged"), [("asymmetric", True), ("tf_crop_and_resize", False)])
def test_a_region_that_resize_does_not_read_makes_no_difference(mode: str, merged: bool) -> None:
    def model(region: str, numbers: str) -> str:
        how = f'<mode = "nearest", coordinate_transformation_mode = "{mode}">'
        return f"""{HEAD} net (float[1,1,4,4] x) => (float y)
        <{region} region = {{{numbers}}}, float[4] scales = {{1, 1, 2, 2}}> {{
          [big] h = Resize {how} (x, region, scales) [out] y = ReduceSum<keepdims=0>(h) }}"""

    one = model("float[8]", "0, 0, 0, 0, 1, 1, 1, 1")
    other = model("float[8]", "0, 0, 0, 0, 1, 1, 1, 0.5")
    program = shared(joined(TIED, a=one, b=other))
    assert ("b/big" not in names(program)) == merged


def test_defaults_and_omitted_inputs_are_filled_in() -> None:
    program = joined(
        TIED,
        a=net("[out] y = Softmax(r)").replace("Gemm(", "Gemm<alpha = 1.0, transB = 0>("),
        b=net("[out] y = Softmax<axis = -1>(r)"),
    )
    assert [node.op for node in shared(program).graph.nodes][-2:] == ["Softmax", "Identity"]
    clip = "l = Clip(r, , ) y = Neg(l)", "l = Clip(r) y = Neg(l)"
    program = shared(joined(TIED, a=net(clip[0]), b=net(clip[1])))
    assert sum(node.op == "Clip" for node in program.graph.nodes) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("y = LeakyRelu<alpha = 0.1>(r)", "y = LeakyRelu<alpha = 0.2>(r)"),
        ("y = Sub(r, x)", "y = Sub(x, r)"),
        ("y = Relu(r)", "y = Abs(r)"),
        ("y = Gemm(r, w, b)", "y = Gemm<transB = 1>(r, w, b)"),
        ("y = Gemm(r, w, b)", "y = Gemm(r, w)"),
        ("y = acme.Twist(r)", "y = acme.Twist(r)"),
        ("n = RandomNormalLike(r) y = Add(r, n)", "n = RandomNormalLike(r) y = Add(r, n)"),
        ("n = RandomUniformLike(r) y = Add(r, n)", "n = RandomUniformLike(r) y = Add(r, n)"),
        ("n = Bernoulli(r) y = Add(r, n)", "n = Bernoulli(r) y = Add(r, n)"),
        ("y = Dropout(r, ratio, yes)", "y = Dropout(r, ratio, yes)"),
        ("y = If (yes) <then_branch = t () => (float[N,2] p) { p = Neg(r) },"
         " else_branch = e () => (float[N,2] q) { q = Abs(r) }>",) * 2,
    ],
)  # fmt: skip
def test_must_not_fire_when_heads_differ_or_cannot_be_compared(one: str, other: str) -> None:
    more = ", float ratio = {0.5}, bool yes = {1}"
    a, b = (net(h, more).replace('["": 17]', '["": 17, "acme": 1]') for h in (one, other))
    program = joined(TIED, a=a, b=b)
    before = len(program.graph.nodes)
    changes = ShareEqualPrefixes().run(program)
    verify(program)
    assert [change.node for change in changes] == ["b/fc", "b/act"]
    assert len(program.graph.nodes) == before - 2


def test_must_not_fire_when_inputs_are_not_tied() -> None:
    program = joined((), a=net("y = Neg(r)"), b=net("y = Neg(r)"))
    before = text(program)
    assert ShareEqualPrefixes().run(program) == []
    assert text(program) == before


def test_must_not_fire_behind_the_first_difference() -> None:
    other = net("y = Neg(r)").replace("3, 4", "3, 5")
    assert ShareEqualPrefixes().run(joined(TIED, a=net("y = Neg(r)"), b=other)) == []


def test_inference_dropout_is_merged() -> None:
    head = "d = Dropout(r, ratio, no) y = Neg(d)"
    more = ", float ratio = {0.5}, bool no = {0}"
    program = shared(joined(TIED, a=net(head, more), b=net(head, more)))
    assert sum(node.op == "Dropout" for node in program.graph.nodes) == 1


def test_several_outputs_some_omitted() -> None:
    both = net("p, i = TopK(r, k) y = Neg(p)", ", int64[1] k = {2}")
    program = shared(joined(TIED, a=both, b=both))
    assert sum(node.op == "TopK" for node in program.graph.nodes) == 1
    mask = "d, m = Dropout(r) y = Neg(d)", "d = Dropout(r) y = Neg(d)"
    program = shared(joined(TIED, a=net(mask[0]), b=net(mask[1])))
    assert sum(node.op == "Dropout" for node in program.graph.nodes) == 2


def test_tensor_attributes_are_compared_by_content() -> None:
    head = "s = Shape(r) c = ConstantOfShape<value = float[1] {{{}}}>(s) y = Add(r, c)"
    same = joined(TIED, a=net(head.format(1)), b=net(head.format(1)))
    assert [node.op for node in shared(same).graph.nodes].count("ConstantOfShape") == 1
    differ = joined(TIED, a=net(head.format(1)), b=net(head.format(2)))
    assert [node.op for node in shared(differ).graph.nodes].count("ConstantOfShape") == 2


def test_bodies_read_the_shared_value() -> None:
    head = """y = If (yes) <then_branch = t () => (float[N,2] p) { p = Neg(r) },
              else_branch = e () => (float[N,2] q) { q = Abs(r) }>"""
    program = shared(joined(TIED, a=net(head, ", bool yes = {1}"), b=net(head, ", bool yes = {1}")))
    assert [node.op for node in program.graph.nodes] == ["Gemm", "Relu", "If", "If"]


def test_same_models_give_the_same_program() -> None:
    def once() -> str:
        program = joined(TIED, a=net("[out] y = Neg(r)"), b=net("[out] y = Exp(r)"))
        ShareEqualPrefixes().run(program)
        return text(program)

    assert once() == once()


def test_a_wrong_merge_would_be_seen() -> None:
    program = joined(TIED, a=net("y = Neg(r)"), b=net("y = Neg(r)").replace("3, 4", "4, 3"))
    before = program.copy()
    values = program.values()
    program.replace_uses(values["b/r"], values["a/r"])
    feeds = {program.graph.inputs[0].name: np.array([[1, 2]], np.float32)}
    with pytest.raises(AssertionError):
        assert_close(run(program, feeds)["b/y"], run(before, feeds)["b/y"])


def test_onnx_stays_valid() -> None:
    from repsimc.compiler.graph.export import to_proto

    program = shared(joined(TIED, a=net("[out] y = Neg(r)"), b=net("[out] y = Neg(r)")))
    onnx.checker.check_model(to_proto(program), full_check=True)
