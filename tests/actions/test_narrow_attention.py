"""Queries and keys with fewer dimensions: found, fitted to the logits, billed, and refused."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import onnx
import pytest

from repsimc.compiler.actions.action import Action, Effect
from repsimc.compiler.actions.combining import conflict_of
from repsimc.compiler.actions.kinds import KINDS, action_from_json
from repsimc.compiler.actions.narrow_attention import NarrowAttentionAction, find
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.plan_reader import PlanReader
from repsimc.compiler.actions.prune_channels import PruneChannelsAction
from repsimc.compiler.actions.reuse_attention import ReuseAttentionAction
from repsimc.compiler.actions.site import Sites
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.errors import ModelError
from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.feeds import input_specs
from repsimc.compiler.execution.measured_sizes import bind_to_frames
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.frames.calibration import load_frames
from repsimc.compiler.graph.program import Program
from repsimc.compiler.structure.cost import program_cost
from repsimc.passes.base import Change
from tests.actions.costs import cost_after
from tests.nets.attention import DIMS, HEADS, TOKENS, WAYS, attention_layer
from tests.nets.evidence import GivenEvidence
from tests.nets.foldable import attention_net, carried_out, error, tokens
from tests.nets.networks import Array, ArrayFrames
from tests.passes.checking import ops
from tests.programs import program_of, run

RANK = 3
SHAPES_NBYTES = 128  # constants of Reshape and Split, which bills leave as they are


def narrow(dims: int, value: str = "a/s") -> NarrowAttentionAction:
    return NarrowAttentionAction("a", value, dims)


def found(program: Program, frames: ArrayFrames | None = None) -> Sites:
    return find(GivenEvidence(program, frames or tokens()), ("a",))


def values_of(program: Program, *names: str) -> list[Array]:
    x = tokens(seed=1).arrays["a/x"]
    return Executable(program, None, list(names))({"a/x": x})


# -- the rewrite ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_attention_computes_the_same(way: str) -> None:
    feeds = {"x": tokens(4).arrays["a/x"]}
    expected = run(attention_layer("apart"), feeds)["y"]
    np.testing.assert_allclose(run(attention_layer(way), feeds)["y"], expected, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_dimensions_that_the_logits_do_not_need_go_for_nothing(way: str) -> None:
    program = program_of(attention_layer(way, rank=RANK))
    original = program.copy()
    (change, *_) = carried_out(program, narrow(RANK), tokens())
    told = f"{RANK} of {DIMS} dimensions per head stay in the queries and keys of 's'"
    assert change.what == told
    assert error(program, original, tokens(7, seed=1)) < 1e-9
    assert error(program, original, tokens(1, seed=2), "a/l") < 1e-9
    queries, keys = (t.shape for t in program.values()["a/l"].inputs[0].inputs)
    assert (queries[-2:], keys[-2:]) == ((TOKENS, RANK), (RANK, TOKENS))


@pytest.mark.parametrize("way", ["apart", "split", "slices"])
def test_any_number_of_tokens_may_come_afterwards(way: str) -> None:
    program = program_of(attention_layer(way, RANK, tokens="T"))
    x = tokens(64).arrays["a/x"]
    bind_to_frames(program, load_frames({"x": x}, {"a": input_specs(program)}))
    original = program.copy()
    (change, *_) = carried_out(program, narrow(RANK), tokens())
    assert "3 of 8 dimensions" in change.what
    more = ArrayFrames({"a/x": np.concatenate([x[:20], x[20:40]], axis=1)})
    assert error(program, original, more) < 1e-9


@pytest.mark.parametrize("way", WAYS)
def test_the_number_of_frames_may_be_fixed(way: str) -> None:
    program = program_of(attention_layer(way, RANK, frames=1))
    original, frames = program.copy(), ArrayFrames(tokens(64).arrays, batch=1)
    (change, *_) = carried_out(program, narrow(RANK), frames)
    assert "3 of 8 dimensions" in change.what
    one = ArrayFrames({"a/x": tokens(1, seed=1).arrays["a/x"]})
    assert error(program, original, one) < 1e-9


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dims", [1, 4, 7])
def test_a_bill_is_what_it_costs(way: str, dims: int) -> None:
    program = program_of(attention_layer(way))
    bills = GivenEvidence(program, tokens(16)).bills
    bill, after = bills.bill([narrow(dims)]), cost_after(program, [narrow(dims)], tokens(16))
    assert bill is not None and bill.macs == after.macs < program_cost(program).macs
    assert abs(bill.weights_nbytes - after.weights_nbytes) <= SHAPES_NBYTES
    saved = program_cost(program).weights_nbytes - bill.weights_nbytes
    assert saved == 2 * HEADS * (DIMS - dims) * (16 + 1) * 4


def seen_by_softmax(wrong: Array, weights: Array) -> Array:
    """The mean variance [heads] of logits, or of their errors, under the attention that is paid."""
    wrong = wrong.astype(np.float64)
    mean = (weights * wrong).sum(axis=-1, keepdims=True)
    return (weights * (wrong - mean) ** 2).sum(axis=-1).mean(axis=(0, 2))


@pytest.mark.parametrize("kept", [2, 4, 6])
def test_the_fit_loses_less_than_any_choice_of_dimensions(kept: int) -> None:
    program = program_of(attention_layer("apart", rank=DIMS))
    original = program.copy()
    carried_out(program, narrow(kept), tokens())
    q, k = (t.name for t in original.values()["a/l"].inputs[0].inputs)
    queries, keys, weights = values_of(original, q, k, "a/s")
    wanted = queries @ keys
    (found,) = values_of(program, "a/l")
    mine = seen_by_softmax(found - wanted, weights)
    choices = [list(some) for some in combinations(range(DIMS), kept)]
    errors = [queries[..., some] @ keys[..., some, :] - wanted for some in choices]
    best = np.min([seen_by_softmax(wrong, weights) for wrong in errors], axis=0)
    assert (mine < 0.9 * best).all()


@pytest.mark.parametrize("dims", [6, 4])
def test_a_site_tells_what_the_logits_will_lose(dims: int) -> None:
    program = program_of(attention_layer("apart", rank=DIMS))
    original = program.copy()
    (site,) = [site for site in found(original).found if site.action == narrow(dims)]
    carried_out(program, narrow(dims), tokens())
    wanted, weights = values_of(original, "a/l", "a/s")
    wrong = seen_by_softmax(values_of(program, "a/l")[0] - wanted, weights).sum()
    # Queries are taken to be independent of the keys of their frame, which they are not quite.
    assert 0.25 < wrong / seen_by_softmax(wanted, weights).sum() / site.damage < 4


def test_what_follows_is_fitted_again() -> None:
    program = program_of(attention_layer("timm", rank=DIMS))
    original = program.copy()
    changes = carried_out(program, narrow(2), tokens())
    assert any("refitted" in change.what for change in changes)
    fitted = error(program, original, tokens(seed=1))
    alone = original.copy()
    (step,) = narrow(2).rewrites(Reference(original, tokens()))
    step.run(alone)
    assert fitted < 0.8 * error(alone, original, tokens(seed=1))


def test_it_is_the_same_every_time() -> None:
    weights: list[dict[str, bytes]] = []
    for _ in range(2):
        program = program_of(attention_layer("split", rank=DIMS))
        carried_out(program, narrow(5), tokens())
        weights.append({n: w.values.tobytes() for n, w in program.weights().items()})
    assert weights[0] == weights[1]


def test_an_attention_that_is_gone_is_left_alone() -> None:
    program = program_of(attention_net())
    reference = Reference(program.copy(), tokens())
    carried_out(program, ReuseAttentionAction("a", "a/s0", "a/s1"), tokens())
    before = ops(program)
    for step in narrow(4, "a/s1").rewrites(reference):
        assert step.run(program) == []
    assert ops(program) == before


# -- sites ----------------------------------------------------------------------------------------


def test_sites_tell_what_the_logits_lose() -> None:
    sites = found(program_of(attention_layer("timm", rank=RANK)))
    assert [site.action for site in sites.found] == [narrow(6), narrow(4), narrow(2)]
    free, cheap, dear = (site.damage for site in sites.found)
    assert max(free, cheap) < 1e-9 < dear
    assert {site.look for site in sites.found} == {("a", "a/s")}


def test_one_pass_over_the_frames_finds_the_sites_of_all_layers() -> None:
    frames = tokens()
    sites = found(program_of(attention_net()), frames)
    assert {site.action.to_json()["value"] for site in sites.found} == {"a/s0", "a/s1"}
    assert len(frames.walks) == 1


def test_models_without_attention_have_no_sites() -> None:
    net = onnx.helper.make_node("Softmax", ["x"], ["y"], name="n", axis=-1)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [net], "g", [info("x", 1, ["N", 6, 10])], [info("y", 1, ["N", 6, 10])]
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    frames = tokens(16)
    program = program_of(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8))
    sites = found(program, frames)
    assert sites == Sites() and not frames.walks


def test_a_map_that_is_not_finite_tells_nothing() -> None:
    frames = tokens(16)
    frames.arrays["a/x"][3] = np.nan
    program = program_of(attention_layer())
    sites = found(program, frames)
    assert not sites.found and sites.refused == {"a/s": "'s' is not finite"}
    assert run_pass(program, frames) == []


def run_pass(program: Program, frames: ArrayFrames) -> list[Change]:
    (step,) = narrow(4).rewrites(Reference(program.copy(), frames))
    return step.run(program)


# -- beside other actions --------------------------------------------------------------------------


def both(program: Program, one: Action, other: Action) -> str | None:
    effects = [action.effect(program) for action in (one, other)]
    assert all(isinstance(effect, Effect) for effect in effects)
    return conflict_of(*[effect for effect in effects if isinstance(effect, Effect)])


def test_it_stands_beside_what_leaves_its_layer_alone_only() -> None:
    program = program_of(attention_net())
    mine, reused = narrow(4, "a/s1"), ReuseAttentionAction("a", "a/s0", "a/s1")
    assert both(program, mine, reused) == "a/s1"
    assert both(program, narrow(4, "a/s0"), reused) is None
    tied = TieWeightsAction("a", ("a/n_matmul2", "a/n_matmul3"))
    assert both(program, narrow(4, "a/s0"), tied) in tied.nodes
    assert both(program, mine, tied) is None
    assert both(program, mine, narrow(8, "a/s0")) is None


def test_fewer_dimensions_cover_more() -> None:
    assert narrow(4).covers(narrow(6)) and not narrow(6).covers(narrow(4))
    assert not narrow(4).covers(narrow(6, "a/other"))
    assert not narrow(4).covers(NarrowLayerAction("a", "a/s", 6))
    program = program_of(attention_layer())
    bills = GivenEvidence(program, tokens(16)).bills
    assert bills.bill([narrow(6), narrow(4)]) == bills.bill([narrow(4)])


def test_two_layers_at_once_cost_what_they_are_billed() -> None:
    program = program_of(attention_net())
    actions = [narrow(8, "a/s0"), narrow(4, "a/s1")]
    bill = GivenEvidence(program, tokens(16)).bills.bill(actions)
    assert bill == cost_after(program, actions, tokens(16))


def test_channels_of_what_the_projections_read_stay() -> None:
    program = program_of(attention_layer("apart"))
    assert both(program, narrow(4), PruneChannelsAction("a", "a/e", (0,))) == "a/n_matmul3"


# -- plans ----------------------------------------------------------------------------------------


def test_an_action_says_what_it_does() -> None:
    assert str(narrow(4)) == "a keeps 4 dimensions of queries and keys behind s"
    assert str(narrow(1)) == "a keeps 1 dimension of queries and keys behind s"
    assert [k.only for k in KINDS if k.name == "narrow-attention"] == ["depth"]


@pytest.mark.parametrize("dims", [0, -1, 2.0, True, "4", None, []])
def test_dimensions_are_a_whole_number(dims: object) -> None:
    entry = narrow(4).to_json() | {"dims": dims}
    with pytest.raises(ModelError, match="action 7"):
        action_from_json(PlanReader("action 7", "", entry))


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (narrow(DIMS), "the heads of 's' have 8 dimensions"),
        (narrow(4, "a/l"), "'l': no softmax over logits makes it"),
        (narrow(4, "a/x"), "'x': no softmax over logits makes it"),
    ],
)
def test_what_cannot_be_done_is_said(action: NarrowAttentionAction, why: str) -> None:
    program = program_of(attention_layer())
    assert action.effect(program) == why


def test_a_map_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="names value 'a/t', which is not in the program"):
        narrow(4, "a/t").check(program_of(attention_layer()))
