"""Sizes and counts as people write them."""

from __future__ import annotations

import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.units import parse_budget, parse_bytes, parse_macs


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("2GB", 2 * 10**9), ("1.5 KiB", 1536), ("512", 512), ("9" * 30, int(float("9" * 30)))],
)
def test_bytes_as_people_write_them(text: str, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("parse", [parse_bytes, parse_budget, parse_macs])
def test_more_digits_than_a_float_holds_are_a_mistake_of_the_users(parse: object) -> None:
    assert callable(parse)
    with pytest.raises(UsageError):
        parse("9" * 400)
