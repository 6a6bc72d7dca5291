"""Share prefix: adapters of every kind recover a receiver that is an affine image of its donor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.adapters import adapter_name
from repsimc.compiler.graph.program import PASS_KEY, Program
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.planning.plan import Link, SharePrefixAction
from repsimc.passes.drop_dead import DropDead
from repsimc.passes.pipeline import CLEANING, passes_of, run_passes
from repsimc.passes.share_prefix import SharePrefix
from tests.nets.networks import Array, ArrayFrames, Net, branches, features_net, pyramid, tokens_net
from tests.programs import assert_close, joined, program_of, run

TIED = [[("a", "x"), ("b", "x")]]


def noise(count: int, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def image_donor(net: Net) -> dict[str, str]:
    """c1, s1 [4, 8, 8], c2, s2 [6, 4, 4] as in a pyramid."""
    s1 = net.relu(net.conv("x", 3, 4, out="c1"), out="s1")
    net.relu(net.conv(s1, 4, 6, strides=[2, 2], out="c2"), out="s2")
    return {"s1": "s1", "s2": "s2", "c2": "c2"}


def tail(net: Net, x: str, channels: int) -> None:
    net.head(net.relu(net.conv(x, channels, 6)), 6, 5)


def by_1x1(net: Net) -> None:
    image_donor(net)
    tail(net, net.relu(net.conv("s2", 6, 7, 1, out="m"), out="n"), 7)


def by_3x3(net: Net) -> None:
    image_donor(net)
    tail(net, net.relu(net.conv("s2", 6, 7, 3, out="m"), out="n"), 7)


def by_two(net: Net) -> None:
    image_donor(net)
    left, right = net.conv("s2", 6, 7, 1), net.conv("c2", 6, 7, 1)
    tail(net, net.relu(net.node("Add", left, right, out="m"), out="n"), 7)


def by_stride(net: Net) -> None:
    image_donor(net)
    tail(net, net.relu(net.conv("s1", 4, 7, 1, strides=[2, 2], pads=[0] * 4, out="m"), out="n"), 7)


def by_resize(net: Net) -> None:
    image_donor(net)
    scales = net.weight(np.array([1, 1, 2, 2], np.float32))
    attrs = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    wide = net.node("Resize", "s2", "", scales, nearest_mode="floor", **attrs)
    tail(net, net.relu(net.conv(wide, 6, 7, 3, out="m"), out="n"), 7)


def by_tokens(net: Net) -> None:
    net.relu(net.linear("x", 10, 12, out="t1"), out="t2")
    x = net.relu(net.linear("t2", 12, 9, out="m"), out="n")
    net.gemm(net.node("ReduceMean", x, axes=[1], keepdims=0), 9, 5, out="y")


def by_features(net: Net) -> None:
    net.relu(net.gemm("x", 10, 12, out="f1"), out="f2")
    net.gemm(net.relu(net.gemm("f2", 12, 9, out="m"), out="n"), 9, 5, out="y")


@dataclass(frozen=True)
class Case:
    """The receiver runs the donor's own first layers and then an affine map to m; n = relu(m)."""

    donor: Callable[[int], onnx.ModelProto]
    receiver: Callable[[Net], None]
    given: tuple[str, ...]
    kernel: int
    shape: tuple[int, ...]
    ops: tuple[str, ...]  # of the nodes that are inserted


IMAGE = (3, 8, 8)
CASES = {
    "1x1": Case(pyramid, by_1x1, ("s2",), 1, IMAGE, ("Conv",)),
    "1x1 by a 3x3": Case(pyramid, by_1x1, ("s2",), 3, IMAGE, ("Conv",)),
    "3x3": Case(pyramid, by_3x3, ("s2",), 3, IMAGE, ("Conv",)),
    "two donors": Case(pyramid, by_two, ("s2", "c2"), 1, IMAGE, ("Concat", "Conv")),
    "stride": Case(pyramid, by_stride, ("s1",), 1, IMAGE, ("Conv",)),
    "resize": Case(pyramid, by_resize, ("s2",), 3, IMAGE, ("Resize", "Conv")),
    "resize two": Case(pyramid, by_resize, ("s2", "c2"), 3, IMAGE, ("Concat", "Resize", "Conv")),
    "tokens": Case(tokens_net, by_tokens, ("t2",), 1, (6, 10), ("MatMul", "Add")),
    "two of tokens": Case(
        tokens_net, by_tokens, ("t1", "t2"), 1, (6, 10), ("Concat", "MatMul", "Add")
    ),
    "features": Case(features_net, by_features, ("f2",), 1, (10,), ("Gemm",)),
    "two of features": Case(features_net, by_features, ("f1", "f2"), 1, (10,), ("Concat", "Gemm")),
}


def built(case: Case) -> Program:
    """The donor as a, and as b a receiver whose first weights are the donor's."""
    donor = case.donor(0)
    net = Net(0)  # the same seed: the same first layers
    case.receiver(net)
    return joined(TIED, a=donor, b=net.model(x=("N", *case.shape)))


def action(case: Case, value: str = "n") -> SharePrefixAction:
    links = (Link(f"b/{value}", tuple(f"a/{name}" for name in case.given)),)
    return SharePrefixAction("a", "b", links, case.kernel)


def assert_same_outputs(program: Program, original: Program, x: Array, loss: float = 5e-3) -> None:
    """a unchanged, b within `loss` of its variance (the fit's ridge keeps it from being exact)."""
    found, wanted = run(program, {"x": x}), run(original, {"x": x})
    assert list(found) == list(wanted)
    np.testing.assert_array_equal(found["a/y"], wanted["a/y"])
    error = np.mean((found["b/y"] - wanted["b/y"]) ** 2)
    assert error <= loss * np.var(wanted["b/y"], axis=0).mean()


@pytest.mark.parametrize("value", ["m", "n"])
@pytest.mark.parametrize("name", CASES)
def test_an_affine_image_of_the_donor_is_recovered(name: str, value: str) -> None:
    case = CASES[name]
    original = built(case)
    program = original.copy()
    frames = ArrayFrames({"x": noise(400, *case.shape)}, batch=64)
    before = {node.name for node in program.graph.nodes}
    step = SharePrefix(action(case, value), Reference(original, frames))
    changes = step.run(program)
    verify(program)

    inserted = [node for node in program.graph.nodes if node.name not in before]
    assert tuple(node.op for node in inserted) == case.ops
    sources = " + ".join(f"a/{given}" for given in case.given)
    assert [change.what for change in changes] == [f"b/{value} now comes from {sources}"]
    (link,) = step.action.links
    assert changes[0].node in {node.name for node in inserted}
    adapter = adapter_name(link.receiver_value)
    for node in inserted:
        assert node.name.startswith(adapter) and node.name.startswith("b/")
        assert program.metadata[node.name][PASS_KEY] == "share-prefix"
    # Whichever side of the ReLU is named, the adapter takes the place before it.
    result = program.values()[adapter]
    assert [reader.op for reader in result.outputs] == ["Relu"]
    assert result.shape == original.values()["b/m"].shape

    assert_same_outputs(program, original, noise(50, *case.shape, seed=1))
    dropped = DropDead().run(program)
    verify(program)
    assert dropped and "b/m" not in program.values()
    assert_same_outputs(program, original, noise(50, *case.shape, seed=1))


def test_the_donors_value_as_it_is() -> None:
    original = joined(TIED, a=pyramid(0), b=pyramid(0))
    program = original.copy()
    frames = ArrayFrames({"x": noise(40, *IMAGE)})
    links = (Link("b/s2", ("a/s2",)),)
    step = SharePrefix(SharePrefixAction("a", "b", links, 0), Reference(original, frames))
    step.run(program)
    verify(program)
    assert frames.walks == []  # nothing is fitted
    assert_same_outputs(program, original, noise(20, *IMAGE, seed=1), 0)
    run_passes(program, CLEANING)
    # Nothing stands between any more.
    assert {node.name for node in program.nodes_of("b")} & {"a/n_s2"}
    assert not any("adapter" in node.name for node in program.graph.nodes)


def test_a_cut_of_two_values() -> None:
    donor = branches(0)
    net = Net(0)
    ends: list[str] = []
    for branch in "pq":  # the donor's branches, each with an affine map behind it
        x = net.relu(net.conv("x", 3, 5), out=f"{branch}1")
        ends.append(net.relu(net.conv(x, 5, 4), out=f"{branch}2"))
    first, second = net.conv("p2", 4, 4, 1, out="m1"), net.conv("q2", 4, 3, 3, out="m2")
    tail(net, net.node("Concat", first, second, axis=1), 7)
    original = joined(TIED, a=donor, b=net.model(x=("N", *IMAGE)))
    program = original.copy()
    links = (Link("b/m1", ("a/p2",)), Link("b/m2", ("a/q2",)))
    frames = ArrayFrames({"x": noise(400, *IMAGE)}, batch=64)
    SharePrefix(SharePrefixAction("a", "b", links, 3), Reference(original, frames)).run(program)
    DropDead().run(program)
    verify(program)
    assert not {"b/p1", "b/q1"} & set(program.values())
    assert_same_outputs(program, original, noise(50, *IMAGE, seed=1))


def test_every_reader_moves_and_nothing_else() -> None:
    net = Net(0)
    image_donor(net)
    net.node("Add", net.conv("s2", 6, 6), "s2", out="m")  # s2 is read twice
    net.head("m", 6, 5)
    original = joined(TIED, a=pyramid(0), b=net.model(("y", "s2"), x=("N", *IMAGE)))
    program = original.copy()
    links = (Link("b/c2", ("a/s2",)),)
    frames = ArrayFrames({"x": noise(40, *IMAGE)})
    SharePrefix(SharePrefixAction("a", "b", links, 1), Reference(original, frames)).run(program)
    verify(program)
    # s2 is an output of b; it is computed from the adapter and keeps its name.
    s2 = program.values()["b/s2"]
    assert [tensor.name for tensor in s2.inputs[0].inputs] == ["b/c2.adapter"]
    assert len(s2.outputs) == 2
    assert list(program.models["b"].outputs.values()) == ["b/y", "b/s2"]


def test_an_output_of_the_model_is_computed_as_before() -> None:
    net = Net(0)
    image_donor(net)
    tail(net, "s2", 6)
    original = joined(TIED, a=pyramid(0), b=net.model(("y", "s2"), x=("N", *IMAGE)))
    program = original.copy()
    frames = ArrayFrames({"x": noise(40, *IMAGE)})
    links = (Link("b/s2", ("a/s2",)),)
    SharePrefix(SharePrefixAction("a", "b", links, 1), Reference(original, frames)).run(program)
    verify(program)
    x = noise(9, *IMAGE, seed=2)
    assert_close(run(program, {"x": x})["b/s2"], run(original, {"x": x})["b/s2"])
    assert [reader.op for reader in program.values()["b/s2.adapter"].outputs] == ["Conv"]


def test_one_model_may_donate_to_two_and_a_receiver_to_a_third() -> None:
    proto = pyramid(0)
    original = joined(
        [[(name, "x") for name in "abcd"]], a=proto, b=pyramid(1), c=pyramid(2), d=pyramid(3)
    )
    program = original.copy()
    reference = Reference(original, ArrayFrames({"x": noise(64, *IMAGE)}))
    actions = [
        SharePrefixAction("a", "b", (Link("b/s1", ("a/s1",)),), 1),
        SharePrefixAction("a", "c", (Link("c/s2", ("a/s2",)),), 3),
        SharePrefixAction("b", "d", (Link("d/s2", ("b/c2", "b/s2")),), 1),
    ]
    run_passes(program, [*passes_of(actions, lambda act: reference), *CLEANING])
    verify(program)
    needed = {node.name for node in program.nodes_of("d")}
    assert {"a/n_s1", "b/s1.adapter", "b/n_s2", "d/s2.adapter"} <= needed
    assert not any(name in program.values() for name in ("b/c1", "c/s1", "d/s1"))
    x = noise(9, *IMAGE, seed=1)
    assert_close(run(program, {"x": x})["a/y"], run(original, {"x": x})["a/y"])


def test_the_receivers_dtype_is_that_of_the_adapter() -> None:
    net = Net(0, np.float64)
    by_features(net)
    donor = Net(0, np.float64)
    by_features(donor)
    original = joined(TIED, a=donor.model(x=("N", 10)), b=net.model(x=("N", 10)))
    program = original.copy()
    frames = ArrayFrames({"x": noise(300, 10).astype(np.float64)})
    links = (Link("b/m", ("a/f2",)),)
    SharePrefix(SharePrefixAction("a", "b", links, 1), Reference(original, frames)).run(program)
    verify(program)
    assert {t.dtype for t in program.node("b/m.adapter").inputs} == {np.dtype(np.float64)}
    x = noise(50, 10, seed=1).astype(np.float64)
    found = Executable(program, None, ["b/y"])({"x": x})[0]
    assert_close(found, Executable(original, None, ["b/y"])({"x": x})[0], rtol=0, atol=0.05)


def test_frames_of_a_fixed_batch() -> None:
    def fixed(seed: int) -> onnx.ModelProto:
        proto = pyramid(seed)
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
        del proto.graph.value_info[:]
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(proto)

    original = joined(TIED, a=fixed(0), b=fixed(1))
    program = original.copy()
    frames = ArrayFrames({"x": noise(40, *IMAGE)}, batch=4)
    links = (Link("b/s2", ("a/s2",)),)
    action = SharePrefixAction("a", "b", links, 3)
    run_passes(program, passes_of([action], lambda act: Reference(original, frames)))
    assert run(program, {"x": noise(4, *IMAGE)})["b/y"].shape == (4, 5)


def test_a_program_without_the_action_is_left_alone() -> None:
    program = program_of(pyramid(0))
    assert run_passes(program, passes_of([], lambda act: None)) == []  # type: ignore[arg-type,return-value]
