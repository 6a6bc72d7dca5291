"""The catalogue: what was looked at tells its like, what is in vain is left out, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from repsimc.compiler.actions import bill
from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.kinds import KINDS
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.planning.catalogue import Catalogue
from repsimc.compiler.planning.damage import cost_of
from repsimc.compiler.planning.deadline import Deadline
from repsimc.compiler.planning.formulation.candidates import Candidate
from repsimc.compiler.planning.known import Known, known_from_json
from repsimc.compiler.planning.sensitivity import Errors, Sensitivity
from repsimc.compiler.progress import NoProgress
from tests.nets.six_blocks import bench

OUTPUT = ("a", "y")


class Looks:
    """In the place of looks: what each action is to lose (None: in vain), and what was asked."""

    def __init__(self, lost: float | None = 0.02) -> None:
        self.lost: dict[Action, float | None] = {}
        self.otherwise = lost
        self.asked: list[Action] = []

    def look(self, action: Action) -> Errors | None:
        self.asked.append(action)
        lost = self.lost.get(action, self.otherwise)
        return None if lost is None else {OUTPUT: lost}


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    found = Looks()
    monkeypatch.setattr(Sensitivity, "look", lambda _source, action: found.look(action))
    return found


def catalogue(deadline: Deadline | None = None) -> Catalogue:
    return Catalogue(bench(deadline), KINDS, NoProgress())


def of_layer(found: Sequence[Candidate], value: str) -> list[Candidate]:
    return [
        one
        for one in found
        if isinstance(one.action, NarrowLayerAction) and one.action.value == value
    ]


def test_regions_are_looked_at_and_nothing_else(looks: Looks) -> None:
    found = catalogue()
    found.prepare()
    regions = [one for one in found.candidates() if isinstance(one.action, CollapseAction)]
    assert len(regions) >= 6
    assert {one.action for one in regions} == set(looks.asked)
    assert all(one.errors == {OUTPUT: cost_of(0.02)} for one in regions)


def test_regions_of_no_use_end_the_looks_at_regions(looks: Looks) -> None:
    looks.otherwise = 0.4
    found = catalogue()
    found.prepare()
    regions = [one for one in found.candidates() if isinstance(one.action, CollapseAction)]
    assert len(looks.asked) == 3 < len(regions)
    # Those that promise most: least damage by what they save.
    price = {one.action: one.site.damage / one.site.saved.macs for one in regions}
    assert set(looks.asked) == set(sorted(price, key=lambda action: price[action])[:3])
    # The others are expected to do what their like did, and looked at where they are chosen.
    others = [one for one in regions if one.action not in looks.asked]
    assert all(one.errors[OUTPUT] > 0.1 for one in others)
    assert found.look(others[:1]) and looks.asked[3:] == [others[0].action]


def test_a_region_of_use_goes_on_with_the_looks(looks: Looks) -> None:
    looks.otherwise = 0.4
    first = catalogue()
    first.prepare()
    looks.lost[looks.asked[2]] = 0.01
    looks.asked.clear()
    catalogue().prepare()
    assert len(looks.asked) == 6


def test_rungs_of_one_layer_share_a_look(looks: Looks) -> None:
    found = catalogue()
    found.prepare()
    looks.asked.clear()
    first, *others = of_layer(found.candidates(), "a/b1_h")
    assert others and found.look([first])
    assert looks.asked == [first.action] and not found.look(of_layer(found.candidates(), "a/b1_h"))
    for one in of_layer(found.candidates(), "a/b1_h"):
        share = one.site.damage / first.site.damage
        assert one.errors[OUTPUT] == pytest.approx(share * cost_of(0.02))
    # And tells layers of other places what their kind makes of a residual.
    (other, *_) = of_layer(found.candidates(), "a/b3_h")
    ratio = cost_of(0.02) / first.site.damage
    assert other.errors[OUTPUT] == pytest.approx(other.site.damage * ratio)


def test_what_is_in_vain_is_left_out_and_stays_so(looks: Looks) -> None:
    found = catalogue()
    found.prepare()
    vain, *others = of_layer(found.candidates(), "a/b1_h")
    looks.lost[vain.action] = None
    found.look([vain])
    actions = {one.action for one in found.candidates()}
    assert vain.action not in actions and {one.action for one in others} <= actions
    assert vain.site not in found.sites
    again = catalogue()
    looks.asked.clear()
    again.prepare(found.known())
    assert vain.action not in {one.action for one in again.candidates()} and looks.asked == []


def test_what_is_known_is_not_looked_at_again(looks: Looks) -> None:
    found = catalogue()
    found.prepare()
    found.look(of_layer(found.candidates(), "a/b2_h"))
    again = catalogue()
    looks.asked.clear()
    again.prepare(found.known())
    told = {one.action: dict(one.errors) for one in again.candidates()}
    assert told == {one.action: dict(one.errors) for one in found.candidates()}
    assert not again.look(of_layer(again.candidates(), "a/b2_h")) and looks.asked == []


def test_nothing_is_looked_at_once_the_time_is_over(looks: Looks) -> None:
    found = catalogue(Deadline(0))
    found.prepare()
    assert looks.asked == [] and found.candidates()


def test_what_saves_too_little_is_not_there_and_said(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bill, "LEAST_SHARE", 0.9)
    found = catalogue()
    found.prepare()
    assert found.candidates() == [] and looks.asked == []
    assert "nothing that could be rewritten is" in found.refused["a"]


def test_without_kinds_there_are_no_candidates(looks: Looks) -> None:
    found = Catalogue(bench(), (), NoProgress())
    found.prepare()
    assert found.candidates() == [] and found.known() == () and looks.asked == []


def test_what_is_in_vain_is_still_known_to_be_after_json(looks: Looks) -> None:
    found = catalogue()
    found.prepare()
    first = next(one for one in found.candidates() if isinstance(one.action, CollapseAction))
    looks.lost[first.action] = None
    again = catalogue()
    again.prepare()
    assert first.action not in {site.action for site in again.sites}
    text = json.dumps(Known(again.known()).to_json(), allow_nan=False)
    case = bench().case
    read = known_from_json(json.loads(text), "entry", case)
    looks.asked.clear()
    resumed = catalogue()
    resumed.prepare(read.candidates)
    assert not looks.asked
    assert {site.action for site in resumed.sites} == {site.action for site in again.sites}
