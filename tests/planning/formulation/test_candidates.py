"""Candidates: what they refuse, and which may be chosen."""

from __future__ import annotations

import math

import pytest

from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.actions.site import Site
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.errors import InternalFault
from repsimc.compiler.planning.formulation.candidates import Candidate

SITE = Site(CollapseAction("a", "a/b0", "a/b1"), Bill(1, 1), 0.0)


@pytest.mark.parametrize("error", [math.nan, -1e-9, -math.inf])
def test_errors_are_shares(error: float) -> None:
    with pytest.raises(InternalFault, match=r"goes without b0 .. b1 is predicted to lose"):
        Candidate(SITE, {("a", "y"): error})


def test_infinite_errors_are_not_to_be_chosen() -> None:
    assert not Candidate(SITE, {("a", "y"): math.inf, ("a", "z"): 0.0}).usable
    assert Candidate(SITE, {("a", "y"): 7.0}).usable and Candidate(SITE, {}).usable
    assert Candidate(SITE, {}).action == SITE.action
