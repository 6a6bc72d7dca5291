"""Networks that can be folded on their frames, and what runs plans on them."""

from __future__ import annotations

import numpy as np
import onnx

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.statistics import (
    AttentionMeasure,
    ConstantMeasure,
    RangeMeasure,
    Statistics,
    StraightMeasure,
    ValueMeasure,
    measured,
)
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.structure.activation_functions import (
    activations_of,
    addends,
    attention_pairs,
    read_by_operators,
)
from repsimc.passes.base import Change
from repsimc.passes.pipeline import CLEANING, run_passes
from tests.nets.networks import Array, ArrayFrames, Net, smooth_images


def images(count: int = 192, seed: int = 0) -> ArrayFrames:
    """Frames for input x of model a."""
    return ArrayFrames({"a/x": smooth_images(count, seed=seed)})


def tokens(count: int = 256, seed: int = 0) -> ArrayFrames:
    """Tokens [count, 6, 10] for input x of model a, in a few dimensions."""
    mixer = np.random.default_rng(0).normal(size=(4, 10))
    latent = np.random.default_rng(seed).normal(size=(count, 6, 4))
    return ArrayFrames({"a/x": (latent @ mixer).astype(np.float32)})


def statistics_of(program: Program, frames: ArrayFrames) -> Statistics:
    """All there is to measure of the program's values, on all frames."""
    nodes, models = program.graph.nodes, list(program.models)
    measures: list[ValueMeasure] = [StraightMeasure(a) for a in activations_of(program, nodes)]
    measures += [RangeMeasure(*read) for read in read_by_operators(nodes)]
    measures += [ConstantMeasure(name) for name in addends(nodes)]
    measures += [AttentionMeasure(*pair) for pair in attention_pairs(program, models)]
    return measured(program, measures, frames)


def carried_out(program: Program, action: Action, frames: ArrayFrames) -> list[Change]:
    """Rewrite the program as the action says; the reference is the program before."""
    reference = Reference(program.copy(), frames)
    changes = run_passes(program, passes_of([action], lambda act: reference))
    run_passes(program, CLEANING)
    verify(program)
    return changes


def error(program: Program, original: Program, frames: ArrayFrames, value: str = "a/y") -> float:
    """Mean square error of an output, as a share of its variance."""
    x = frames.arrays["a/x"]
    found = Executable(program, None, [value])({"a/x": x})[0]
    wanted = Executable(original, None, [value])({"a/x": x})[0]
    return float(np.mean((found - wanted) ** 2) / np.var(wanted))


def shifted(net: Net, x: str, channels: int, filters: int, shift: Array, kernel: int = 1) -> str:
    """A convolution with small weights and that bias: it moves its outputs that far off zero."""
    weight = net.weight(net.normal(filters, channels, kernel, kernel, scale=0.2))
    return net.node("Conv", x, weight, net.weight(shift), pads=[kernel // 2] * 4)


def always_on(out: str = "r") -> onnx.ModelProto:
    """x -> 1x1 to 24 channels, far above zero -> ReLU r -> 1x1 to 4 -> tanh -> scores y."""
    net = Net(3)
    x = net.relu(shifted(net, "x", 3, 24, np.full(24, 40.0)), out=out)
    net.head(net.node("Tanh", net.conv(x, 24, 4, 1, out="c2")), 4, 5)
    return net.model(x=("N", 3, 8, 8))


def sometimes_dead(number: float = -40.0) -> onnx.ModelProto:
    """x -> 3x3 to 12 channels, 5 of them far off zero -> ReLU r -> 1x1 to 4 -> scores y."""
    net = Net(4)
    shift = np.zeros(12)
    shift[[0, 3, 4, 7, 11]] = number
    x = net.relu(shifted(net, "x", 3, 12, shift, 3), out="r")
    net.head(net.relu(net.conv(x, 12, 4, 1, out="c2")), 4, 5)
    return net.model(x=("N", 3, 8, 8))


def gelu_mlp(scale: float = 0.3, width: int = 48, parts: bool = True) -> onnx.ModelProto:
    """Tokens -> embed 16 -> linear to `width` -> GELU g -> linear to 16 -> ReLU -> scores y."""
    net = Net(5)
    x = net.relu(net.linear("x", 10, 16))
    product = net.node("MatMul", x, net.weight(net.normal(16, width, scale=scale)))
    h = net.node("Add", product, net.weight(net.normal(width, scale=0.3)), out="h")
    if parts:
        inner = net.node("Erf", net.node("Div", h, net.weight(np.float32(2**0.5))))
        inner = net.node("Mul", h, net.node("Add", inner, net.weight(np.float32(1))))
        h = net.node("Mul", inner, net.weight(np.float32(0.5)), out="g")
    else:
        h = net.relu(h, out="g")
    x = net.relu(net.linear(h, width, 16, out="p"))
    net.gemm(net.node("ReduceMean", x, axes=[1], keepdims=0), 16, 5, out="y")
    return net.model(x=("N", 6, 10))


def attention_net(alike: bool = True) -> onnx.ModelProto:
    """Two attention layers with maps s0 and s1 whose queries and keys are (nearly) the same."""
    net = Net(6)
    x = net.linear("x", 10, 16)
    query, key = net.normal(16, 16, scale=0.1), net.normal(16, 16, scale=0.1)
    start = x
    for layer in range(2):
        if layer and not alike:
            query, key = net.normal(16, 16, scale=0.5), net.normal(16, 16, scale=0.5)
        q, k = (net.node("MatMul", start, net.weight(w + 0.001 * layer)) for w in (query, key))
        scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]))
        attended = net.node("Softmax", scores, axis=-1, out=f"s{layer}")
        mixed = net.node("MatMul", attended, net.linear(x, 16, 16), out=f"m{layer}")
        x = net.node("Add", x, net.linear(mixed, 16, 16))
    net.gemm(net.node("ReduceMean", x, axes=[1], keepdims=0), 16, 5, out="y")
    return net.model(x=("N", 6, 10))


def quiet_channels(loud: float = 0.03, shift: float = 1.0, kernel: int = 3) -> onnx.ModelProto:
    """x -> 3x3 to 12 channels, 4 of them hardly moving -> ReLU r -> convolution to 6 -> scores y.

    Two of the four are `shift` off zero.
    """
    net = Net(4)
    weight, bias = net.normal(12, 3, 3, 3, scale=0.3), np.zeros(12)
    weight[[2, 5, 6, 9]] *= loud
    bias[[2, 5, 6, 9]] = shift, 1.0, 1.0, shift
    x = net.relu(net.node("Conv", "x", net.weight(weight), net.weight(bias), pads=[1] * 4), out="r")
    net.head(net.relu(net.conv(x, 12, 6, kernel, out="c2")), 6, 5)
    return net.model(x=("N", 3, 8, 8))


def still_branch(shift: float = -40.0) -> onnx.ModelProto:
    """x -> 3x3 to 6, plus a branch d whose ReLU is never on where `shift` is low -> scores y."""
    net = Net()
    weight = net.weight(net.normal(8, 3, 3, 3, scale=0.2))
    off = net.relu(net.node("Conv", "x", weight, net.weight(np.full(8, shift)), pads=[1] * 4))
    x = net.node("Add", net.conv("x", 3, 6), net.conv(off, 8, 6, out="d"), out="sum")
    net.head(net.relu(x), 6, 5)
    return net.model(x=("N", 3, 8, 8))


def twins(apart: float = 0.1) -> onnx.ModelProto:
    """Two tanh layers t0 and t1 whose filters differ by `apart`, then scores y."""
    net = Net(8)
    weight = net.normal(8, 8, 3, 3, scale=0.1)
    x = net.relu(net.conv("x", 3, 8))
    for block in range(2):
        own = net.weight(weight + apart * net.normal(8, 8, 3, 3, scale=0.1))
        bias = net.weight(net.normal(8))
        x = net.node("Tanh", net.node("Conv", x, own, bias, pads=[1] * 4, out=f"t{block}"))
    net.head(x, 8, 5)
    return net.model(x=("N", 3, 8, 8))


def twice_the_units(count: int = 16) -> onnx.ModelProto:
    """x -> 3x3 to 2 x `count` channels, every one twice -> ReLU r -> 3x3 to 6 -> scores y."""
    net = Net(7)
    weight = np.repeat(net.normal(count, 3, 3, 3, scale=0.4), 2, axis=0)
    bias = np.repeat(net.normal(count, scale=0.2), 2)
    x = net.relu(net.node("Conv", "x", net.weight(weight), net.weight(bias), pads=[1] * 4), out="r")
    net.head(net.relu(net.conv(x, 2 * count, 6, 3, out="c2")), 6, 5)
    return net.model(x=["N", 3, 8, 8])
