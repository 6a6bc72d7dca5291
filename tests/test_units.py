"""Sizes and counts as people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.units import (
    Budget,
    MacsLimit,
    format_duration,
    format_sizes,
    parse_budget,
    parse_bytes,
    parse_duration,
    parse_macs,
    parse_share,
    parse_sizes,
    printable,
    printable_line,
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


@pytest.mark.parametrize("parse", [parse_budget, parse_macs])
@pytest.mark.parametrize(("text", "share"), [("60", "60%"), ("0.6", "60%"), (" 7.5 ", "7.5%")])
def test_a_bare_number_asks_whether_a_share_was_meant(
    parse: Callable[[str], object], text: str, share: str
) -> None:
    with pytest.raises(UsageError, match=f"was {share} meant") as caught:
        parse(text)
    assert f"write {share}" in caught.value.hint


def test_a_number_with_its_unit_is_what_it_says() -> None:
    assert parse_budget("60B") == Budget(nbytes=60)
    assert parse_budget("101") == Budget(nbytes=101)
    assert parse_macs("60k") == MacsLimit(count=60_000)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 模型 😀\tx\n", "größe 模型 😀\tx\n"),
        ("\x1b[2J\x07\0\r", r"\x1b[2J\x07\x00\r"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("\udcff\ufeff\U000e0041", r"\udcff\ufeff\U000e0041"),
    ],
)
def test_what_steers_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable_line(text) == shown.replace("\t", "\\t").replace("\n", "\\n")


@pytest.mark.parametrize(
    ("text", "seconds", "told"),
    [
        ("90", 90, "90s"),
        ("90s", 90, "90s"),
        ("10m", 600, "10m"),
        ("600", 600, "10m"),
        ("1h", 3600, "1h"),
        ("1.5 H", 5400, "90m"),
        ("0.25s", 0.25, "0.25s"),
        ("12345", 12345, "12345s"),
    ],
)
def test_times_to_wait_as_people_write_them(text: str, seconds: float, told: str) -> None:
    assert parse_duration(text) == seconds
    assert format_duration(seconds) == told
    assert parse_duration(told) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-1m", "soon", "10ms", "1e3", "9" * 400, "1h30m"])
def test_what_is_no_time_to_wait(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time to wait"):
        parse_duration(text)


def test_sizes() -> None:
    assert parse_sizes(["x=1x3x8x8", "m.y=4"]) == {"x": (1, 3, 8, 8), "m.y": (4,)}
    assert format_sizes((1, 3, 8, 8)) == "1x3x8x8"
    for text in ("x", "x=", "=3", "x=1x", "x=1,3", "x=" + "9" * 5000):
        with pytest.raises(UsageError, match="is no shape"):
            parse_sizes([text])
    with pytest.raises(UsageError, match="two sizes"):
        parse_sizes(["x=1x3", "x=1x4"])


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.91", 0.91), ("100 %", 1), ("1", 1)])
def test_shares(text: str, share: float) -> None:
    assert parse_share(text, "--x") == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "5", "0", "0%", "101%", "-5%", "five", "nan", "1e-2"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UsageError, match="--x"):
        parse_share(text, "--x")
