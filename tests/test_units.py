"""Sizes and counts as people write them."""

from __future__ import annotations

import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.units import (
    format_sizes,
    parse_budget,
    parse_bytes,
    parse_macs,
    parse_sizes,
)


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


def test_sizes() -> None:
    assert parse_sizes(["x=1x3x8x8", "m.y=4"]) == {"x": (1, 3, 8, 8), "m.y": (4,)}
    assert format_sizes((1, 3, 8, 8)) == "1x3x8x8"
    for text in ("x", "x=", "=3", "x=1x", "x=1,3", "x=" + "9" * 5000):
        with pytest.raises(UsageError, match="is no shape"):
            parse_sizes([text])
    with pytest.raises(UsageError, match="two sizes"):
        parse_sizes(["x=1x3", "x=1x4"])
