"""Refit: what is downstream of a damaged value produces again what the original produced."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.fitting.operators import linear_operator
from repsimc.compiler.fitting.reconstruction import Target
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.fitting.regression import Affine
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.verifier import verify
from repsimc.passes.refit import Refit, refit_operators
from tests.nets.networks import Array, ArrayFrames, Net, smooth_images
from tests.nets.unet import images, unet, up
from tests.programs import program_of


def damage(program: Program, value: str, seed: int = 0) -> None:
    """Scale the channels of the operator that makes `value`, and add some noise."""
    operators = (linear_operator(node) for node in program.graph.nodes)
    operator = next(op for op in operators if op is not None and op.result.name == value)
    affine = operator.affine()
    random = np.random.default_rng(seed)
    noise = random.standard_normal(affine.weight.shape) * affine.weight.std() * 0.1
    scale = random.uniform(0.4, 1.6, affine.weight.shape[2])
    operator.write(program, Affine(affine.weight * scale + noise, affine.bias))


def mean_square(program: Program, original: Program, x: Array, value: str = "a/y") -> float:
    found = Executable(program, None, [value])({"a/x": x})[0]
    wanted = Executable(original, None, [value])({"a/x": x})[0]
    return float(np.mean((found - wanted) ** 2))


def gain(original: Program, value: str, fit: Array, test: Array) -> float:
    """How many times smaller the mean square error of 'y' is with a refit, on other frames."""
    program = original.copy()
    damage(program, value)
    before = mean_square(program, original, test)
    changes = Refit((value,), Reference(original, ArrayFrames({"a/x": fit}))).run(program)
    verify(program)
    assert changes
    for change in changes:
        assert program.notes[change.node].made_by == "refit"
    return before / mean_square(program, original, test)


def residual(downsample: bool = False, blocks: int = 2) -> Program:
    net = Net(1)
    x, width = net.relu(net.conv("x", 3, 8, out="c1"), out="r1"), 8
    for block in range(blocks):
        last = downsample and block == blocks - 1
        wide, stride = (12, 2) if last else (width, 1)
        first = net.conv(x, width, wide, strides=[stride] * 2, out=f"b{block}a")
        second = net.conv(net.relu(first), wide, wide, out=f"b{block}b")
        skip = net.conv(x, width, wide, 1, strides=[2, 2], out=f"b{block}s") if last else x
        x = net.relu(net.node("Add", second, skip, out=f"b{block}sum"))
        width = wide
    net.head(x, width, 5)
    return program_of(net.model(x=("N", 3, 8, 8)))


def transformer() -> Program:
    """x [N, 6, 10] tokens; embed, then attention and MLP with LayerNorm before each."""
    net = Net(2)
    x = net.linear("x", 10, 16, out="embedded")
    for block in "pq":
        ones = [net.weight(np.ones(16)), net.weight(np.zeros(16))]
        normed = net.node("LayerNormalization", x, *ones, axis=-1)
        query, key, value = (net.linear(normed, 16, 16) for _ in range(3))
        turned = net.node("Transpose", key, perm=[0, 2, 1])
        scores = net.node("Mul", net.node("MatMul", query, turned), net.weight(np.float32(0.25)))
        mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), value)
        x = net.node("Add", net.linear(mixed, 16, 16), x, out=f"{block}1")
        normed = net.node("LayerNormalization", x, *ones, axis=-1)
        inner = net.relu(net.linear(normed, 16, 32))
        x = net.node("Add", x, net.linear(inner, 32, 16), out=f"{block}2")
    net.gemm(net.node("ReduceMean", x, axes=[1], keepdims=0), 16, 5, out="y")
    return program_of(net.model(x=("N", 6, 10)))


def tokens(count: int, seed: int) -> Array:
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(count, 6, 4)) @ np.random.default_rng(0).normal(size=(4, 10))
    ).astype(np.float32)


def test_a_damaged_residual_network_is_repaired() -> None:
    found = gain(residual(), "a/c1", smooth_images(256), smooth_images(64, seed=1))
    assert found > 8


def test_a_downsampling_shortcut_is_repaired() -> None:
    found = gain(
        residual(downsample=True),
        "a/c1",
        smooth_images(256),
        smooth_images(64, seed=1),
    )
    assert found > 8


def test_a_transformer_is_repaired() -> None:
    found = gain(transformer(), "a/embedded", tokens(400, 1), tokens(100, 2))
    assert found > 8


def test_a_network_that_folds_frames_into_windows_is_repaired() -> None:
    net = Net(3)
    x = net.linear("x", 10, 16, out="embedded")
    windows = net.node("Reshape", x, net.weight(np.array([-1, 3, 16])))  # two of a frame
    inner = net.relu(net.linear(windows, 16, 24))
    x = net.node("Add", net.linear(inner, 24, 16), windows)
    x = net.node("Reshape", net.relu(x), net.weight(np.array([-1, 6, 16])))
    net.gemm(net.node("ReduceMean", x, axes=[1], keepdims=0), 16, 5, out="y")
    original = program_of(net.model(x=("N", 6, 10)))
    assert gain(original, "a/embedded", tokens(400, 1), tokens(100, 2)) > 8


@pytest.mark.parametrize("value", ["a/conv0", "a/conv2"])
def test_a_unet_is_repaired(value: str) -> None:
    original = program_of(unet())
    assert gain(original, value, images(128), images(64, seed=1)) > 8
    reference = Reference(original, ArrayFrames({"a/x": images(8)}))
    changed = {change.node for change in Refit((value,), reference).run(original.copy())}
    assert {"a/n_u2", "a/n_u1"} < changed


def test_a_transposed_convolution_undoes_what_is_damaged_before_it() -> None:
    net = Net()
    up(net, net.conv("x", 3, 8, strides=[2, 2], out="c1"), 8, 4, 3, out="y", pads=[1] * 4)
    original = program_of(net.model(x=("N", 3, 16, 16)))
    assert gain(original, "a/c1", images(128), images(64, seed=1)) > 8


def test_without_damage_nothing_moves() -> None:
    original = residual()
    program = original.copy()
    frames = ArrayFrames({"a/x": smooth_images(64)})
    Refit(("a/r1",), Reference(original, frames)).run(program)
    x = smooth_images(64, seed=1)
    spread = float(np.var(Executable(original, None, ["a/y"])({"a/x": x})[0]))
    assert mean_square(program, original, x) < 1e-4 * spread


def targets(program: Program, *values: str) -> dict[str, Target]:
    found = refit_operators(program, program, values)
    return {operator.node.name.removeprefix("a/n_"): target for operator, target in found}


def test_the_last_branch_of_an_add_repairs_the_sum() -> None:
    found = targets(residual(), "a/r1")
    assert found["b0a"] == Target("a/b0a", None, True)
    assert found["b0b"] == Target("a/b0sum", "a/r1", True)
    assert list(found)[-1] == "y"
    assert found["y"] == Target("a/y", None, False)
    # Both branches are convolutions: the one that is fitted first keeps its own target.
    down = targets(residual(downsample=True), "a/r1")
    summed = {name: target for name, target in down.items() if target.value == "a/b1sum"}
    assert len(summed) == 1
    ((name, target),) = summed.items()
    other = "b1s" if name == "b1b" else "b1b"
    assert target == Target("a/b1sum", f"a/{other}", True)
    assert down[other].value == f"a/{other}" and down[other].other is None
    assert list(down).index(other) < list(down).index(name)


def test_an_add_whose_sum_is_broadcast_is_not_a_skip_path() -> None:
    net = Net()
    mean = net.node("GlobalAveragePool", net.conv("x", 3, 4, out="c1"))
    net.node("Add", net.conv("c1", 4, 4, out="c2"), mean, out="y")
    found = targets(program_of(net.model(x=("N", 3, 8, 8))), "a/c1")
    assert found == {"c2": Target("a/c2", None, False)}


def test_outputs_keep_their_own_target() -> None:
    net = Net()
    x = net.relu(net.conv("x", 3, 4, out="c1"), out="r1")
    net.node("Add", net.conv(x, 4, 4, out="c2"), x, out="y")
    program = program_of(net.model(("y", "c2"), x=("N", 3, 8, 8)))
    assert targets(program, "a/r1")["c2"] == Target("a/c2", None, False)


def test_a_product_that_is_an_output_is_not_moved_by_its_bias() -> None:
    net = Net()
    x = net.relu(net.linear("x", 10, 16, out="t1"), out="t2")
    product = net.node("MatMul", x, net.weight(net.normal(16, 4)), out="z")
    net.node("Add", product, net.weight(net.normal(4)), out="y")
    model = net.model(("y", "z"), x=("N", 6, 10))
    assert targets(program_of(model), "a/t1") == {}
    del model.graph.output[1]
    assert targets(program_of(model), "a/t1") == {"z": Target("a/y", None, False)}


def test_only_what_is_downstream_is_refitted() -> None:
    assert list(targets(residual(), "a/b1a")) == ["b1b", "y"]
    assert targets(residual(), "a/y") == {}


@pytest.mark.parametrize("kind", ["equal name", "both models"])
def test_weights_that_two_nodes_read_are_left_alone(kind: str) -> None:
    net = Net()
    weight = net.weight(net.normal(8, 8, 3, 3, scale=0.2))
    x = net.relu(net.conv("x", 3, 8, out="c1"))
    x = net.relu(net.node("Conv", x, weight, pads=[1] * 4, out="c2"))
    x = net.relu(net.node("Conv", x, weight, pads=[1] * 4, out="c3"))
    net.head(net.relu(net.conv(x, 8, 8, out="c4")), 8, 5)
    original = program_of(net.model(x=("N", 3, 8, 8)))
    program = original.copy()
    damage(program, "a/c1")
    before = program.weights()
    frames = ArrayFrames({"a/x": smooth_images(64)})
    changes = Refit(("a/c1",), Reference(original, frames)).run(program)
    assert [change.node for change in changes] == ["a/n_c4", "a/n_y"]
    (shared,) = [t for t in program.weights().values() if t.name == f"a/{weight}"]
    assert shared is before[f"a/{weight}"] and len(shared.outputs) == 2
    np.testing.assert_array_equal(shared.values, original.weights()[f"a/{weight}"].values)


def test_the_original_and_what_it_shares_are_not_written() -> None:
    original = residual()
    weights = {name: t.values.copy() for name, t in original.weights().items()}
    program = original.copy()
    damage(program, "a/c1")
    Refit(("a/c1",), Reference(original, ArrayFrames({"a/x": smooth_images(64)}))).run(program)
    for name, tensor in original.weights().items():
        np.testing.assert_array_equal(tensor.values, weights[name])


def test_the_same_frames_give_the_same_weights() -> None:
    def weights() -> list[Array]:
        original = residual()
        program = original.copy()
        damage(program, "a/c1")
        Refit(("a/c1",), Reference(original, ArrayFrames({"a/x": smooth_images(64)}))).run(program)
        return [tensor.values for tensor in program.weights().values()]

    for first, second in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(first, second)
