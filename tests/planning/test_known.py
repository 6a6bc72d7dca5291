"""What was learned, as JSON and back; whatever is not of the program is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.case import Case
from repsimc.compiler.errors import ModelError
from repsimc.compiler.fitting.effort import GLANCE
from repsimc.compiler.planning.known import Known, KnownCandidate, Measured, known_from_json
from tests.nets.known import known
from tests.nets.six_blocks import REGIONS, bench, taken_out


@pytest.fixture(scope="module")
def case() -> Case:
    return bench().case


@pytest.fixture(scope="module")
def learned() -> Known:
    return known()


def through_json(learned: Known, case: Case) -> Known:
    return known_from_json(json.loads(json.dumps(learned.to_json(), allow_nan=False)), "it", case)


def test_all_of_it_comes_back(learned: Known, case: Case) -> None:
    found = through_json(learned, case)
    assert found.scales == learned.scales and found.trials == learned.trials
    assert len(found.candidates) == len(learned.candidates)
    for one, other in zip(found.candidates, learned.candidates):
        assert one.errors == other.errors and list(one.errors) == list(other.errors)
        sites = [(one.site, other.site), *zip(one.site.alternatives, other.site.alternatives)]
        assert len(one.site.alternatives) == len(other.site.alternatives)
        for site, before in sites:
            assert (site.action, site.saved, site.damage) == (
                *(before.action, before.saved, before.damage),
            )
            assert (site.evidence, site.nodes, site.probed) == (
                *(before.evidence, before.nodes, before.probed),
            )
    assert json.dumps(found.to_json()) == json.dumps(learned.to_json())


def test_sites_of_one_look_are_of_one_look_afterwards(case: Case) -> None:
    looks = [("a", "a/v"), ("a", "a/v"), ("a", "a/w"), None]
    sites = [replace(REGIONS[0], look=look) for look in looks]
    found = through_json(Known(tuple(KnownCandidate(site, {}) for site in sites)), case)
    first, second, third, none = (one.site.look for one in found.candidates)
    assert first == second != third and none is None


def test_trials_are_of_their_actions_their_effort_and_their_models(case: Case) -> None:
    outputs = bench().compare(case.program, GLANCE)
    one, two = taken_out(1, 4)
    keys = [
        *(Measured(frozenset({one, two})), Measured(frozenset({one}))),
        *(Measured(frozenset({one}), GLANCE), Measured(frozenset({one}), GLANCE, ("a",))),
    ]
    trials = {key: (replace(outputs[0], value=0.5 + index / 10),) for index, key in enumerate(keys)}
    found = through_json(Known(trials=trials), case)
    assert found.trials == trials
    assert found.trials[Measured(frozenset({two, one}))][0].value == 0.5
    # What was measured in another order is known in the same bytes.
    turned = {Measured(frozenset({two, one})): trials[keys[0]]}
    there = {keys[0]: trials[keys[0]]}
    assert Known(trials=turned).to_json() == Known(trials=there).to_json()


def test_floors_are_those_of_the_compilation_that_reads(learned: Known, case: Case) -> None:
    options = replace(case.options, min_fidelity=0.999, output_fidelity={"a": 0.25})
    (outputs,) = through_json(learned, replace(case, options=options)).trials.values()
    assert [output.floor for output in outputs] == [0.25]
    (before,) = learned.trials.values()
    assert replace(outputs[0], floor=before[0].floor) == before[0]


def test_numbers_that_json_has_only_words_for(case: Case) -> None:
    (model, own), *_ = ((m, o) for m, each in case.program.models.items() for o in each.outputs)
    site = replace(REGIONS[0], damage=math.inf, evidence={"influence": math.inf}, saved=Bill(-3, 7))
    learned = Known((KnownCandidate(site, {(model, own): math.nan}),), {"collapse": 1e-300})
    found = through_json(learned, case)
    assert found.candidates[0].site.damage == math.inf
    assert found.candidates[0].site.saved == Bill(-3, 7)
    assert math.isnan(found.candidates[0].errors[model, own])
    assert found.scales == {"collapse": 1e-300}


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(entry, (*path, key))


def changed(value: Any, path: tuple[str | int, ...], other: Any) -> Any:
    """A copy of the value with another one at a place."""
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], other)
    return copy


def test_whatever_stands_anywhere_is_read_or_refused(learned: Known, case: Case) -> None:
    good = json.loads(json.dumps(learned.to_json()))
    refused = read = 0
    for place in places(good):
        for other in (None, 3, -1.5, "", "a/none", [], [None], {}, True, [[["x"]]], 2**62):
            try:
                known_from_json(changed(good, place, other), "it", case)
                read += 1
            except ModelError as error:
                assert error.message.startswith(("it", "the plan"))
                refused += 1
    assert refused > 5 * read > 0


@pytest.mark.parametrize(
    ("place", "other"),
    [
        (("candidates", 0, "site", "action", "model"), "b"),
        (("candidates", 0, "site", "action", "entry"), "a/none"),
        (("candidates", 0, "site", "nodes"), ["a/none"]),
        (("candidates", 0, "site", "alternatives", 0, "nodes"), ["a/none"]),
        (("candidates", 0, "errors", 0, "output"), "none"),
        (("trials", 0, "outputs", 0, "model"), "b"),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, tuple) else "",
)
def test_what_is_of_another_program_is_refused(
    learned: Known, case: Case, place: tuple[str | int, ...], other: Any
) -> None:
    good = json.loads(json.dumps(learned.to_json()))
    known_from_json(good, "it", case)
    with pytest.raises(ModelError):
        known_from_json(changed(good, place, other), "it", case)


def test_actions_of_other_kinds_come_back_too(case: Case) -> None:
    narrow = NarrowLayerAction("a", "a/b2_h", 3)
    site = replace(REGIONS[1], action=narrow, nodes=())
    assert (
        through_json(Known((KnownCandidate(site, {}),)), case).candidates[0].site.action == narrow
    )
