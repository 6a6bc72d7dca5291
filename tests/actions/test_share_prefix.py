"""Sites: which cuts may receive, which values may donate, and the ladders made of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.compiler.actions import share_prefix
from repsimc.compiler.actions.bill import Bill, Bills
from repsimc.compiler.actions.links import fault_of
from repsimc.compiler.actions.share_prefix import (
    LADDER,
    MIN_R2,
    SharePrefixAction,
    ladder,
    sites_among,
)
from repsimc.compiler.actions.shareable import donor_values, receiver_cuts, values_to_sample
from repsimc.compiler.actions.site import Site, Sites
from repsimc.compiler.execution.samples import Samples, sample_values
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.graph.program import Program
from repsimc.passes.pipeline import run_exact
from tests.nets.evidence import GivenEvidence
from tests.nets.networks import (
    Array,
    ArrayFrames,
    Net,
    branches,
    perturbed,
    pyramid,
    smooth_images,
    tokens_net,
)
from tests.programs import joined, program_of


def tied(names: str) -> list[list[tuple[str, str]]]:
    return [[(name, "x") for name in names]]


def sampled(program: Program, frames: ArrayFrames) -> Samples:
    wanted = values_to_sample(program, list(program.models), Bills(program))
    return sample_values(program, wanted, frames)


def found(program: Program, frames: ArrayFrames | None = None) -> Sites:
    frames = frames or ArrayFrames({"x": smooth_images(200)}, batch=50)
    return sites_among(program, sampled(program, frames), list(program.models), Bills(program))


def ladders(sites: Sites) -> dict[str, list[Site]]:
    rungs: dict[str, list[Site]] = {}
    for one in sites.found:
        rungs.setdefault(one.receiver, []).append(one)
    return rungs


WIDE = (8, 12, 16)


def related(noise: float = 0.1) -> Program:
    """a, and as b and c the same with weights moved by `noise` of their spread."""
    proto = pyramid(0, WIDE)
    return joined(tied("abc"), a=proto, b=perturbed(proto, noise, 1), c=perturbed(proto, noise, 2))


# -- who may give, who may receive ---------------------------------------------------------------


def test_donors_are_cuts_and_activations_in_order() -> None:
    program = program_of(pyramid())
    names = donor_values(program, "a")
    assert [name for name in names if name[2:] in ("c1", "s1", "c2", "s2", "c3", "s3")] == [
        f"a/{name}" for name in ("c1", "s1", "c2", "s2", "c3", "s3")
    ]
    assert "a/y" not in names and "a/x" not in names
    # Inside a branch no single value is a cut; its activations may still be donated.
    assert {"a/p1", "a/q2"} <= set(donor_values(program_of(branches()), "a"))


def test_receivers_are_cuts_but_for_inputs_and_outputs() -> None:
    program = program_of(pyramid())
    cuts = receiver_cuts(program, "a")
    assert [cut.depth for cut in cuts] == sorted(cut.depth for cut in cuts)
    names = {name for cut in cuts for name in cut.values}
    assert {"a/c1", "a/s3"} <= names and not {"a/x", "a/y"} & names


def test_a_value_that_is_an_output_too_does_not_receive() -> None:
    proto = pyramid()
    proto.graph.output.append(onnx.helper.make_tensor_value_info("s2", 1, ("N", 6, 4, 4)))
    names = {name for cut in receiver_cuts(program_of(proto), "a") for name in cut.values}
    assert ("a/s2" not in names and "a/s3" in names) or names


# -- the ladder ----------------------------------------------------------------------------------


def site(index: int, saved: int, damage: float, macs: int = 0) -> Site:
    action = SharePrefixAction("d", "r", (Link(f"r/v{index}", ("d/x",)),), 1)
    return Site(action, Bill(saved, macs), damage, {"depth": 0.5, "r2": 1 - damage, "cka": 0.0})


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=40),
    length=st.integers(1, 8),
)
def test_a_ladder_is_the_pareto_front(points: list[tuple[int, int]], length: int) -> None:
    sites = [site(index, saved, damage / 100) for index, (saved, damage) in enumerate(points)]
    front = {
        (one.saved.weights_nbytes, one.damage)
        for one in sites
        if not any(
            (other.saved.weights_nbytes, -other.damage) != (one.saved.weights_nbytes, -one.damage)
            and other.saved.weights_nbytes >= one.saved.weights_nbytes
            and other.damage <= one.damage
            for other in sites
        )
    }
    full = ladder(sites, 1000)
    assert {(rung.saved.weights_nbytes, rung.damage) for rung in full} == front
    assert all(
        low.saved.weights_nbytes < high.saved.weights_nbytes and low.damage < high.damage
        for low, high in pairwise(full)
    )
    thin = ladder(sites, length)
    assert len(thin) == min(length, len(full)) and set(thin) <= set(full)
    if len(thin) > 1:  # both ends stay
        assert (thin[0], thin[-1]) == (full[0], full[-1])
    assert ladder(sites[::-1], length) == thin


def test_of_equal_sites_the_one_that_computes_less_is_kept() -> None:
    assert ladder([site(0, 5, 0.1, macs=3), site(1, 5, 0.1, macs=9)])[0].saved.macs == 9


# -- found sites ---------------------------------------------------------------------------------


def test_sites_say_what_the_skeleton_says() -> None:
    program = related()
    skeleton = Bills(program)
    base = skeleton.bill([])
    assert base is not None
    sites = found(program).found
    assert len(sites) > 6
    for one in sites:
        bill = skeleton.bill([one.action])
        assert bill is not None
        assert one.saved.weights_nbytes == base.weights_nbytes - bill.weights_nbytes > 0
        assert one.saved.macs == base.macs - bill.macs >= 0
        assert MIN_R2 <= one.evidence["r2"] <= 1 and one.damage == 1 - one.evidence["r2"]
        assert -1 <= one.evidence["cka"] <= 1.001
        assert 0 < one.evidence["depth"] < 1
        (link,) = one.action.links
        assert fault_of(program, link.receiver_value, link.donor_values, one.action.kernel) is None
        assert link.receiver_value.startswith(one.receiver) and one.receiver in str(one.action)
        assert all(value.startswith(one.action.donor) for value in link.donor_values)


def test_ladders_hold_the_front_of_every_donor() -> None:
    sites = found(related())
    assert set(ladders(sites)) == {"a", "b", "c"} and not sites.refused
    for receiver, rungs in ladders(sites).items():
        assert {s.action.donor for s in rungs} == set("abc") - {receiver}
        assert [s.damage for s in rungs] == sorted(s.damage for s in rungs)
        for donor in set("abc") - {receiver}:
            own = [s for s in rungs if s.action.donor == donor]
            assert 0 < len(own) <= 2 + LADDER // 2
            # A mean over places says nothing of the maps: each of the two has a front.
            means = [s for s in own if "flatten" in str(s.action) or "pool" in str(s.action)]
            maps = [s for s in own if s not in means]
            assert 0 < len(means) <= 2 and maps
            assert all(
                low.saved.weights_nbytes < high.saved.weights_nbytes
                for front in (means, maps)
                for low, high in pairwise(front)
            )


def test_nearer_relatives_are_better_donors() -> None:
    proto = pyramid(0, WIDE)
    program = joined(tied("abc"), a=proto, b=perturbed(proto, 0.02, 1), c=perturbed(proto, 1.0, 2))
    best = {
        donor: max(
            s.evidence["r2"] for s in ladders(found(program))["a"] if s.action.donor == donor
        )
        for donor in "bc"
    }
    assert best["b"] > best["c"]
    assert best["b"] > 0.97


def test_equal_values_may_be_taken_as_they_are() -> None:
    # Equal up to s2, but too differently written for the exact passes.
    proto = pyramid(0, WIDE)
    moved = perturbed(proto, 1e-5, 1)
    rungs = ladders(found(joined(tied("ab"), a=proto, b=moved)))["b"]
    raw = [s for s in rungs if s.action.kernel == 0]
    assert raw and max(s.evidence["r2"] for s in raw) > 0.999


def test_other_streams_have_no_donors() -> None:
    proto = pyramid(0, WIDE)
    program = joined(a=proto, b=perturbed(proto, 0.01))
    frames = ArrayFrames({"a/x": smooth_images(60), "b/x": smooth_images(60, seed=1)})
    for name in "ab":
        sites = share_prefix.find(GivenEvidence(program, frames), (name,))
        assert sites.found == []
        assert sites.refused == {name: "no other model sees the same frames"}


def test_unrelated_models_are_left_alone_with_a_reason() -> None:
    # b looks only at a channel that is noise for a, which has no weight on it.
    def blind(seed: int, *channels: int) -> onnx.ModelProto:
        net = Net(seed)
        kept = net.node("Gather", "x", net.weight(np.array(channels)), axis=1)
        x = net.relu(net.conv(kept, len(channels), 8))
        net.head(net.relu(net.conv(x, 8, 8)), 8, 5)
        return net.model(x=("N", 3, 8, 8))

    program = joined(tied("ab"), a=blind(0, 0), b=blind(1, 2))
    noise = np.random.default_rng(0).standard_normal((200, 3, 8, 8)).astype(np.float32)
    sites = found(program, ArrayFrames({"x": noise}, batch=50))
    assert sites.found == [] and set(sites.refused) == {"a", "b"}
    for reason in sites.refused.values():
        assert "no representation of another model explains one of its own" in reason
        assert "best affine R2 0.0" in reason


def test_cuts_of_several_values_link_each_of_them() -> None:
    # Two heads on two branches, like a detector: no single value cuts the second half off.
    def heads(seed: int) -> onnx.ModelProto:
        net = Net(seed)
        trunk = net.relu(net.conv("x", 3, 8, out="c"), out="s")
        for branch in "pq":
            x = net.relu(net.conv(trunk, 8, 16, out=f"{branch}1"), out=f"{branch}2")
            x = net.relu(net.conv(x, 16, 16, out=f"{branch}3"), out=f"{branch}4")
            net.head(net.relu(net.conv(x, 16, 4)), 4, 3, out=f"y{branch}")
        return net.model(("yp", "yq"), x=("N", 3, 8, 8))

    program = joined(tied("ab"), a=heads(0), b=perturbed(heads(0), 0.05, 1))
    actions = [s.action for s in ladders(found(program))["b"]]
    double = [action for action in actions if len(action.links) == 2]
    assert double
    for action in double:
        assert Bills(program).bill([action]) is not None


def test_tokens_have_sites_without_windows() -> None:
    proto = tokens_net(0, 24, 24)
    program = joined(tied("ab"), a=proto, b=perturbed(proto, 0.05, 1))
    frames = np.random.default_rng(0).normal(size=(200, 6, 10)).astype(np.float32)
    rungs = ladders(found(program, ArrayFrames({"x": frames}, batch=50)))["b"]
    assert rungs and {s.action.kernel for s in rungs} <= {0, 1}


def test_what_is_shared_exactly_is_no_site() -> None:
    proto = pyramid(0, WIDE)
    head = perturbed(proto, 0.5, 1, only=["w6"])  # only the classifier differs
    program = joined(tied("ab"), a=proto, b=head)
    run_exact(program)
    sites = found(program)
    assert not sites.found


def test_equal_programs_give_equal_ladders() -> None:
    assert repr(found(related())) == repr(found(related()))


def test_models_without_anything_to_compare_are_left_alone_with_a_true_reason() -> None:
    def features(size: int, linear: bool) -> onnx.ModelProto:
        net = Net(size)
        x = net.relu(net.linear("x", 10, 12)) if linear else "x"
        net.node("Relu" if linear else "Neg", x, out="y")
        return net.model(x=("N", size, 10))

    for sizes, linear, says in (
        ((6, 6), False, "there is no representation of its own that could be shared"),
        ((6, 5), True, "no representation of another model has a size from which"),
    ):
        program = joined(**{n: features(size, linear) for n, size in zip("ab", sizes)})
        arrays = {f"{n}/x": drawn(40, size, 10) for n, size in zip("ab", sizes)}
        sites = found(program, ArrayFrames(arrays))
        assert sites.found == []
        assert all(says in reason for reason in sites.refused.values()), sites.refused
        assert set(sites.refused) == {"a", "b"}


def test_a_model_that_takes_any_batch_takes_nothing_from_one_that_does_not() -> None:
    base = pyramid(0, WIDE)
    fixed = perturbed(base, 0.01)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 20
    x = smooth_images(200)
    sites = found(joined(a=base, b=fixed), ArrayFrames({"a/x": x, "b/x": x}, batch=20))
    assert {site.receiver for site in sites.found} == {"b"}
    assert "takes any size or batch" in sites.refused["a"]


def drawn(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
