"""Entries of a plan edited by hand: given, taken for nothing, or refused by name and value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from repsimc.compiler.actions.plan_reader import PlanReader
from repsimc.compiler.errors import ModelError
from repsimc.runtime.json_reader import Reader

ENTRY = {"kind": "share", "donor": "", "kernel": "3", "links": [{"to": "t"}, "b/t"], "fidelity": 1}


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda top: top.get("donor", Reader.text), "action 0: donor is '', not a name"),
        (lambda top: top.get("gone", Reader.text), "action 0: gone is None, not a name"),
        (lambda top: top.get("kernel", Reader.integer), "kernel is '3', not a whole number"),
        (lambda top: top.items("kind", Reader.text), "action 0: kind is not a list"),
        (lambda top: top.items("gone", Reader.text), "action 0: gone is not a list"),
        (
            lambda top: top.items("links", lambda link: link.get("to", Reader.text)),
            "action 0: links is not a table",
        ),
        (
            lambda top: top.items("links", lambda link: link.get("from", Reader.text)),
            "action 0: from is None, not a name",
        ),
    ],
)
def test_what_is_wrong_is_told_by_name_and_value(read: Callable[[Reader], Any], says: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(PlanReader("action 0", "", ENTRY))
    assert caught.value.message.endswith(says)


def test_a_value_that_is_no_table_is_refused() -> None:
    for nonsense in (None, [], "share"):
        with pytest.raises(ModelError, match="action 0 is not a table"):
            PlanReader("action 0", "", nonsense).get("kind", Reader.text)


def test_what_may_be_left_out_is_taken_for_nothing() -> None:
    entry = PlanReader("action 0", "", ENTRY)
    assert entry.find("fidelity", Reader.number) == 1
    for key in ("gone", "kind", "links"):
        assert entry.find(key, Reader.number) is None
        assert entry.find(key, lambda found: found.entries(Reader.anything)) is None
