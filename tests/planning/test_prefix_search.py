"""The search against brute force on small instances, and how much it measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.site import Site
from repsimc.compiler.execution.fidelity import VARIANCE
from repsimc.compiler.execution.outputs import OutputComparison
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.planning import prefix_search as module
from repsimc.compiler.planning.prefix_search import Combination, Search
from repsimc.compiler.planning.trial import Trial

BASE = 10_000


def site(receiver: str, rung: int, saved: int, damage: float) -> Site:
    action = SharePrefixAction("d", receiver, (Link(f"{receiver}/v{rung}", ("d/x",)),), 1)
    evidence = {"depth": rung / 10, "r2": 1 - damage, "cka": 0.5}
    return Site(action, Bill(saved, saved), damage, evidence)


def tried(site: Site, loss: float, met: bool = True) -> Trial:
    """A trial of the site that loses so much, and keeps its floor or not."""
    value = 1 - loss
    output = OutputComparison("r", "y", VARIANCE, value, value if met else 2.0, 8, value, loss)
    return Trial((site.action,), None, None, (output,))


@dataclass
class World:
    """Sites with what they save, the loss they really cause, and pairs that exclude each other.

    Bytes add up. `scales` turn a receiver's predicted damage into lost fidelity.
    """

    ladders: dict[str, list[Site]]
    scales: dict[str, float]
    floor: float = math.inf
    excluded: set[frozenset[SharePrefixAction]] = field(default_factory=set)
    asked: list[Site] = field(default_factory=list)

    def loss(self, site: Site) -> float:
        return site.damage * self.scales[site.receiver]

    def met(self, site: Site) -> bool:
        return self.loss(site) <= self.floor

    def measure(self, site: Site) -> Trial:
        assert site not in self.asked, "measured twice"
        self.asked.append(site)
        return tried(site, self.loss(site), self.met(site))

    def bill(self, actions: Sequence[SharePrefixAction]) -> Bill | None:
        if any(frozenset(pair) in self.excluded for pair in combinations(actions, 2)):
            return None
        saved = {s.action: s.saved.weights_nbytes for rungs in self.ladders.values() for s in rungs}
        total = sum(saved[action] for action in actions)
        return Bill(BASE - total, BASE - total)

    def search(self, tries: int = 1000, allowance: float = math.inf) -> Search:
        return Search(self.ladders, self.bill, self.measure, tries, allowance)

    def combinations(self) -> list[tuple[Site, ...]]:
        """Every possible combination that keeps the floors."""
        found: list[tuple[Site, ...]] = []
        for pick in product(*([None, *rungs] for rungs in self.ladders.values())):
            sites = tuple(s for s in pick if s is not None)
            if all(map(self.met, sites)) and self.bill([s.action for s in sites]) is not None:
                found.append(sites)
        return found

    def total(self, sites: Sequence[Site]) -> float:
        return sum(map(self.loss, sites))

    def nbytes(self, sites: Sequence[Site]) -> int:
        return BASE - sum(s.saved.weights_nbytes for s in sites)


@st.composite
def worlds(draw: st.DrawFn, exclusions: bool = True) -> World:
    ladders: dict[str, list[Site]] = {}
    for receiver in "abc"[: draw(st.integers(1, 3))]:
        count = draw(st.integers(0, 5))
        saved = draw(st.lists(st.integers(1, 3000), min_size=count, max_size=count, unique=True))
        damage = draw(st.lists(st.integers(1, 100), min_size=count, max_size=count, unique=True))
        ladders[receiver] = [
            site(receiver, rung, *rest)
            for rung, rest in enumerate(zip(sorted(saved), (d / 100 for d in sorted(damage))))
        ]
    # At least the scale that the search starts from: its predictions are optimistic, then exact.
    scales = {name: draw(st.sampled_from([0.05, 0.07, 0.3, 1.0])) for name in ladders}
    every = [s for rungs in ladders.values() for s in rungs]
    pairs = [frozenset((a.action, b.action)) for a, b in combinations(every, 2)]
    excluded = (
        set(draw(st.lists(st.sampled_from(pairs), max_size=6))) if pairs and exclusions else set()
    )
    floor = draw(st.sampled_from([math.inf, 0.3, 0.04, 0.01]))
    return World(ladders, scales, floor, excluded)


@settings(max_examples=150, deadline=None)
@given(world=worlds(), budget=st.integers(BASE - 9000, BASE))
def test_within_a_budget_it_finds_what_brute_force_finds(world: World, budget: int) -> None:
    fitting = [sites for sites in world.combinations() if world.nbytes(sites) <= budget]
    choice = world.search().within(budget)
    if not fitting:
        assert choice is None
        return
    assert choice is not None
    assert choice.bill == world.bill(choice.actions)
    assert choice.bill.weights_nbytes <= budget
    assert all(map(world.met, choice.sites))
    best = min(fitting, key=lambda sites: (world.total(sites), world.nbytes(sites)))
    assert world.total(choice.sites) == pytest.approx(world.total(best))


@settings(max_examples=150, deadline=None)
@given(world=worlds())
def test_the_smallest_is_what_brute_force_finds(world: World) -> None:
    choice = world.search().smallest()
    assert all(map(world.met, choice.sites))
    assert choice.bill.weights_nbytes == min(map(world.nbytes, world.combinations()))


@settings(max_examples=60, deadline=None)
@given(
    world=worlds(),
    budgets=st.lists(st.integers(BASE - 9000, BASE), min_size=2, max_size=4),
    one_search=st.booleans(),
)
def test_more_budget_never_means_more_damage(
    world: World, budgets: list[int], one_search: bool
) -> None:
    search = world.search()
    found: list[float] = []
    for budget in sorted(budgets):
        if not one_search:
            world.asked.clear()
            search = world.search()
        choice = search.within(budget)
        found.append(math.inf if choice is None else world.total(choice.sites))
    assert all(tight >= loose - 1e-12 for tight, loose in pairwise(found))


@settings(max_examples=60, deadline=None)
@given(world=worlds(), data=st.data())
def test_one_search_stays_monotone_however_wrong_the_predictions(
    world: World, data: st.DataObject
) -> None:
    losses = {s: data.draw(st.floats(0, 1)) for rungs in world.ladders.values() for s in rungs}
    world.loss = lambda site: losses[site]  # type: ignore[method-assign]
    search = world.search(tries=data.draw(st.integers(1, 4)))
    found: list[float] = []
    for budget in (BASE - 4000, BASE - 2000, BASE - 500, BASE):
        choice = search.within(budget)
        found.append(math.inf if choice is None else world.total(choice.sites))
    assert all(tight >= loose - 1e-12 for tight, loose in pairwise(found))


@settings(max_examples=60, deadline=None)
@given(world=worlds(), tries=st.integers(1, 4), budget=st.integers(BASE - 9000, BASE))
def test_no_more_is_measured_than_the_tries_allow(world: World, tries: int, budget: int) -> None:
    search = world.search(tries)
    for choice in (search.within(budget), search.smallest()):
        for receiver in world.ladders:
            assert len([s for s in world.asked if s.receiver == receiver]) <= tries
        # What is chosen was measured, and kept its floor.
        assert choice is None or all(s in world.asked and world.met(s) for s in choice.sites)


@settings(max_examples=40, deadline=None)
@given(world=worlds(exclusions=False), budget=st.integers(BASE - 9000, BASE))
def test_many_combinations_are_descended_one_by_one(world: World, budget: int) -> None:
    limit = module._MAX_COMBINATIONS
    module._MAX_COMBINATIONS = 0
    try:
        choice = world.search().within(budget)
        world.asked.clear()
        smallest = world.search().smallest()
    finally:
        module._MAX_COMBINATIONS = limit
    for found in (choice, smallest):
        if found is not None:
            assert found.bill == world.bill(found.actions)
            assert all(map(world.met, found.sites))
            assert len({s.receiver for s in found.sites}) == len(found.sites)
    if choice is not None:
        assert choice.bill.weights_nbytes <= budget
    # Without exclusions the path ends at the smallest program.
    assert smallest.bill.weights_nbytes == min(map(world.nbytes, world.combinations()))
    if choice is None:
        assert smallest.bill.weights_nbytes > budget


def three() -> World:
    """One receiver; each rung saves a thousand more and costs more."""
    rungs = [site("a", rung, 1000 * (rung + 1), 0.1 * (rung + 1)) for rung in range(6)]
    return World({"a": rungs}, {"a": 0.1}, floor=0.035)


def test_nothing_is_measured_where_nothing_needs_to_be_given_up() -> None:
    world = three()
    choice = world.search().within(BASE)
    assert choice == Combination((), Bill(BASE, BASE))
    assert world.asked == []


def test_only_the_mildest_site_that_fits_is_measured() -> None:
    world = three()
    choice = world.search().within(BASE - 1500)
    assert choice is not None
    assert [s.saved.weights_nbytes for s in choice.sites] == [2000]
    assert world.asked == list(choice.sites)


def test_the_smallest_is_found_by_halving() -> None:
    world = three()
    choice = world.search().smallest()
    assert [s.saved.weights_nbytes for s in choice.sites] == [3000]  # the last that keeps 0.035
    # The boldest first, then the middle of what is left, and never the mildest.
    assert [s.saved.weights_nbytes // 1000 for s in world.asked][:2] == [6, 3]
    assert world.ladders["a"][0] not in world.asked


def test_a_budget_out_of_reach_is_none() -> None:
    assert three().search().within(BASE - 3001) is None
    assert World({}, {}).search().within(BASE - 1) is None
    assert World({}, {}).search().smallest().sites == ()


def test_where_a_mild_site_fails_bolder_ones_are_not_tried() -> None:
    world = three()
    world.floor = 0.005
    assert world.search().within(BASE - 500) is None
    assert world.asked == world.ladders["a"][:1]


def test_a_rejected_site_is_not_chosen_again() -> None:
    world = three()
    search = world.search()
    first = search.smallest()
    search.reject(first.sites[0])
    second = search.smallest()
    assert second.bill.weights_nbytes == first.bill.weights_nbytes + 1000
    inside = search.within(BASE - 1500)
    assert inside is not None and inside.sites == second.sites
    assert search.within(BASE - 2500) is None


def test_sites_expected_far_beyond_the_floors_are_not_measured_for_the_most_saving() -> None:
    world = three()
    # Expected damage starts at a twentieth of the predicted: 0.005, 0.01, ... 0.03.
    choice = world.search(allowance=0.022 / module.PATIENCE).smallest()
    assert world.asked[0].saved.weights_nbytes == 4000
    # That was worse than expected by a factor of two, and so will be the one of 3000 bytes.
    assert [s.saved.weights_nbytes for s in choice.sites] == [2000]
    # With a budget to meet they are.
    bold = World(world.ladders, world.scales)
    found = bold.search(allowance=0.0).within(BASE - 6000)
    assert found is not None and found.sites[0].saved.weights_nbytes == 6000


# -- probes ----------------------------------------------------------------------------------


def probing(world: World, probed: dict[str, float]) -> tuple[Search, list[str]]:
    """A search whose probe knows `probed` by the action's first receiver value."""
    asked: list[str] = []

    def probe(one: Site) -> float:
        name = one.action.links[0].receiver_value
        asked.append(name)
        return probed[name]

    search = world.search(allowance=0.01)
    search.probe = probe
    return search, asked


def test_a_probed_alternative_takes_the_site_s_place() -> None:
    better = site("a", 1, 100, 0.5)
    world = World({"a": [replace(site("a", 0, 100, 0.3), alternatives=(better,))]}, {"a": 1.0})
    search, asked = probing(world, {"a/v0": 0.2, "a/v1": 0.1})
    choice = search.within(BASE - 100)
    assert choice is not None and choice.actions == (better.action,)
    assert asked == ["a/v0", "a/v1"]
    assert [one.action for one in world.asked] == [better.action]  # only the best was measured
    assert search.within(BASE - 100) is not None and len(asked) == 2  # and once


def test_alternatives_of_a_site_that_is_good_enough_are_not_probed() -> None:
    other = site("a", 1, 100, 0.5)
    first = replace(site("a", 0, 100, 0.3), alternatives=(other,))
    search, asked = probing(World({"a": [first]}, {"a": 1.0}), {"a/v0": 0.002, "a/v1": 0.0})
    choice = search.within(BASE - 100)
    assert choice is not None and choice.actions == (first.action,) and asked == ["a/v0"]


def test_near_probes_are_decided_by_measurement() -> None:
    near = site("a", 1, 100, 0.3)
    first = replace(site("a", 0, 100, 0.2), alternatives=(near, site("a", 2, 100, 0.1)))
    world = World({"a": [first]}, {"a": 1.0})
    probed = {"a/v0": 0.20, "a/v1": 0.21, "a/v2": 0.9}

    def measure(one: Site) -> Trial:
        world.asked.append(one)
        loss = {"a/v0": 0.3, "a/v1": 0.1}[one.action.links[0].receiver_value]
        return tried(one, loss)

    search, _ = probing(world, probed)
    search.measure = measure
    choice = search.within(BASE - 100)
    assert choice is not None and choice.actions == (near.action,)
    assert len(world.asked) == 2


def test_a_probe_spares_a_measurement() -> None:
    mild, bold = site("a", 0, 100, 0.01), site("b", 0, 100, 0.02)
    world = World({"a": [mild], "b": [bold]}, {"a": 1.0, "b": 1.0})
    # 1 - R2 is wrong about which receiver suffers less; the probes are not.
    search, _ = probing(world, {"a/v0": 0.6, "b/v0": 0.05})
    choice = search.within(BASE - 100)
    assert choice is not None and choice.actions == (bold.action,)
    assert [one.receiver for one in world.asked] == ["b"]
