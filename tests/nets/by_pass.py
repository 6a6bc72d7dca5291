"""For every pass one small network that it rewrites, and the pass as it is run on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from repsimc.compiler.fitting.reconstruction import Reference
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.graph.program import Program
from repsimc.passes.base import Pass
from repsimc.passes.collapse import Collapse
from repsimc.passes.compute_in_eight_bits import ComputeInEightBits
from repsimc.passes.drop_dead import DropDead
from repsimc.passes.fold_activation import FoldActivation
from repsimc.passes.fold_batch_norm import FoldBatchNorm
from repsimc.passes.fold_bias import FoldBias
from repsimc.passes.fold_constants import FoldConstants
from repsimc.passes.fold_linear_activations import FoldLinearActivations
from repsimc.passes.freeze_branch import FreezeBranch
from repsimc.passes.freeze_constant_branches import FreezeConstantBranches
from repsimc.passes.merge_linear import MergeLinear
from repsimc.passes.normalise import Normalise
from repsimc.passes.prune_channels import PruneChannels
from repsimc.passes.prune_constant_channels import PruneConstantChannels
from repsimc.passes.refit import Refit
from repsimc.passes.refit_around import RefitAround
from repsimc.passes.remove_no_ops import RemoveNoOps
from repsimc.passes.reuse_attention import ReuseAttention
from repsimc.passes.share_equal_prefixes import ShareEqualPrefixes
from repsimc.passes.share_equal_weights import ShareEqualWeights
from repsimc.passes.share_prefix import SharePrefix
from repsimc.passes.store_in_few_bits import StoreInFewBits
from repsimc.passes.tie_weights import TieWeights
from tests.nets.foldable import attention_net, quiet_channels, still_branch, tokens, twins
from tests.nets.networks import ArrayFrames, Net, smooth_images
from tests.nets.residual import residual_net
from tests.programs import joined, program_of

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


class Example(NamedTuple):
    """`program` makes the program before; `step` the pass, from the program before.

    `settles` says that the pass finds nothing to do on what it made.
    """

    program: Callable[[], Program]
    step: Callable[[Program], Pass]
    settles: bool = True


def written(
    body: str, weights: str = "", interface: tuple[str, str] = ("float[N,2] x", "float[N,2] y")
) -> Callable[[], Program]:
    """A program of one model with output y, in onnx.parser text."""
    given = f"<{weights}>" if weights else ""
    model = f"{HEAD} net ({interface[0]}) => ({interface[1]}) {given} {{ {body} }}"
    return lambda: program_of(model)


def two_models() -> Program:
    """Two models of one input: the same first layer, another one behind it."""
    start = f"{HEAD} net (float[N,2] x) => (float[N,2] y) <float[2,2] w = {{1, 2, 3, 4}}>"
    first = f"{start} {{ h = MatMul(x, w) y = Neg(h) }}"
    second = f"{start} {{ h = MatMul(x, w) y = Exp(h) }}"
    return joined([[("a", "x"), ("b", "x")]], a=first, b=second)


def donor_and_receiver() -> Program:
    """Two models of one input and two convolutions each, of different sizes."""
    models = {"a": Net(1), "b": Net(2)}
    for name, net in models.items():
        x = net.relu(net.conv("x", 3, 4 if name == "a" else 5), out="r")
        net.head(x, 4 if name == "a" else 5, 3)
    protos = {name: net.model(x=("N", 3, 8, 8)) for name, net in models.items()}
    return joined([[("a", "x"), ("b", "x")]], **protos)


def blocks() -> Program:
    """A residual network of two blocks, b0 and b1."""
    return program_of(residual_net(2))


def one_block_out() -> Program:
    """The network of `blocks` with an Identity in place of b0; what it was is still there."""
    program = blocks()
    collapse(program).run(program)
    return program


def on_images(program: Program) -> Reference:
    """The program before, on frames of its one input."""
    (value,) = program.graph.inputs
    return Reference(program.copy(), ArrayFrames({value.name: smooth_images(192)}))


def on_tokens(program: Program) -> Reference:
    """The program before, on tokens."""
    return Reference(program.copy(), tokens())


def share_prefix(program: Program) -> Pass:
    """b takes from a behind the first activation."""
    return SharePrefix((Link("b/r", ("a/r",)),), 1, on_images(program))


def collapse(_: Program) -> Pass:
    """The first block becomes nothing."""
    return Collapse("a/stem", "a/b0")


def refit(_: Program) -> Pass:
    """What follows a block that is out is fitted to the whole network."""
    return Refit(("a/b0.adapter",), on_images(blocks()))


def refit_around(program: Program) -> Pass:
    """A hidden layer keeps three units."""
    return RefitAround((), on_images(program), widths=(("a/b0_h", 3),))


def fold_activation(program: Program) -> Pass:
    """The first of two tanh becomes affine."""
    tanh = next(node for node in program.graph.nodes if node.op == "Tanh")
    given, value = tanh.inputs[0].name, tanh.outputs[0].name
    return FoldActivation("a", given, value, on_images(program))


def prune_channels(program: Program) -> Pass:
    """Four quiet channels go."""
    return PruneChannels("a/r", (2, 5, 6, 9), on_images(program))


def freeze_branch(program: Program) -> Pass:
    """A branch that is the same on every frame becomes a constant."""
    return FreezeBranch("a/d", on_images(program))


def store_in_few_bits(program: Program) -> Pass:
    """One weight of 8 bits, one of 4."""
    reference = Reference(program.copy(), ArrayFrames({"a/x": smooth_images(64)}))
    return StoreInFewBits((("a/n_t0", 8), ("a/n_t1", 4)), reference)


def compute_in_eight_bits(_: Program) -> Pass:
    """Signed codes, as TensorRT takes them."""
    return ComputeInEightBits((("a/x", (-3.0, 4.0)), ("a/stem", (0.0, 6.0))), True)


def tie_weights(program: Program) -> Pass:
    """Two convolutions share one weight."""
    nodes = [node.name for node in program.graph.nodes if node.op == "Conv"][1:3]
    return TieWeights(tuple(nodes), on_images(program))


def reuse_attention(_: Program) -> Pass:
    """The second layer attends as the first does."""
    return ReuseAttention("a/s0", "a/s1")


SQUARE = "float[2,2] w = {1, 2, 3, 4}"
NORM = "float[2] s = {1, 2}, float[2] b = {3, 4}, float[2] m = {0, 1}, float[2] v = {1, 4}"

EXAMPLES: dict[str, Example] = {
    "collapse": Example(blocks, collapse, settles=False),
    "compute-in-eight-bits": Example(
        lambda: program_of(residual_net(1)), compute_in_eight_bits
    ),
    "drop-dead": Example(
        written("unread = MatMul(x, w) more = Exp(unread) y = Neg(x)", SQUARE), lambda _: DropDead()
    ),
    "fold-activation": Example(lambda: program_of(twins()), fold_activation),
    "fold-batch-norm": Example(
        written("h = Gemm(x, w) y = BatchNormalization(h, s, b, m, v)", f"{SQUARE}, {NORM}"),
        lambda _: FoldBatchNorm(),
    ),
    "fold-bias": Example(
        written(
            "c = Conv(x, w) y = Add(c, b)",
            "float[2,1,1] b = {5, 6}, float[2,2,1,1] w = {1, 2, 3, 4}",
            ("float[N,2,H,W] x", "float[N,2,H,W] y"),
        ),
        lambda _: FoldBias(),
    ),
    "fold-constants": Example(
        written(
            "sum = Add(w, w) sizes = Shape(x) width = Gather(sizes, one) h = MatMul(x, sum) "
            "full = Cast<to = 1>(width) y = Mul(h, full)",
            f"{SQUARE}, int64 one = {{1}}",
        ),
        lambda _: FoldConstants(),
    ),
    "fold-linear-activations": Example(
        written("h = Sigmoid(x) r = Relu(h) c = Clip(r, low, high) y = Neg(c)",
                "float low = {0}, float high = {2}"),
        lambda _: FoldLinearActivations(),
    ),
    "freeze-branch": Example(lambda: program_of(still_branch()), freeze_branch),
    "freeze-constant-branches": Example(
        written("h = Mul(x, zero) c = Clip(h, one, two) y = Add(x, c)",
                "float zero = {0}, float one = {1}, float two = {1}"),
        lambda _: FreezeConstantBranches(),
    ),
    "merge-linear": Example(
        written("h = Gemm(x, w) y = Gemm(h, w)", SQUARE), lambda _: MergeLinear()
    ),
    "normalise": Example(
        written("no = Not(yes) h = Gemm(x, w) d = Dropout(h, half, no) "
                "y = BatchNormalization(d, s, b, m, v)",
                f"{SQUARE}, {NORM}, float half = {{0.5}}, bool yes = {{1}}"),
        lambda _: Normalise(),
    ),
    "prune-channels": Example(lambda: program_of(quiet_channels()), prune_channels),
    "prune-constant-channels": Example(
        written("h = Gemm(x, w, b) r = Relu(h) y = Gemm(r, u)",
                "float[2,3] w = {1, 0, 2, 3, 0, 4}, float[3] b = {0, -1, 0}, "
                "float[3,2] u = {1, 2, 3, 4, 5, 6}"),
        lambda _: PruneConstantChannels(multiple=1),
    ),
    "refit": Example(one_block_out, refit, settles=False),
    "refit-around": Example(blocks, refit_around, settles=False),
    "remove-no-ops": Example(
        written("h = Identity(x) c = Cast<to = 1>(h) t = Transpose<perm = [0, 1]>(c) y = Neg(t)"),
        lambda _: RemoveNoOps(),
    ),
    "reuse-attention": Example(lambda: program_of(attention_net()), reuse_attention),
    "share-equal-prefixes": Example(two_models, lambda _: ShareEqualPrefixes()),
    "share-equal-weights": Example(two_models, lambda _: ShareEqualWeights()),
    "share-prefix": Example(donor_and_receiver, share_prefix, settles=False),
    "store-in-few-bits": Example(lambda: program_of(twins()), store_in_few_bits),
    "tie-weights": Example(lambda: program_of(twins()), tie_weights),
}  # fmt: skip
"""By the name of the pass."""
