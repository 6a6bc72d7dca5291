"""JSON that nobody has checked: what is given, what is refused, and where it says it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from repsimc.runtime.errors import ModelError
from repsimc.runtime.json_reader import Reader, read_json, safe_name


def test_what_is_read_is_given_as_it_is() -> None:
    data = read_json(b'{"a": {"b": [1, 2]}, "c": 0.5, "d": null, "e": -3}', "x.json", "")
    top = Reader("x.json", "", data)
    assert top.get("a", lambda a: a.items("b", Reader.count)) == [1, 2]
    assert top.get("c", Reader.number) == 0.5
    assert (top.get("d", Reader.anything), top.get("e", Reader.integer)) == (None, -3)
    assert top.get("a", lambda a: a.entries(Reader.anything)) == {"b": [1, 2]}
    assert top.find("c", Reader.number) == 0.5
    assert top.find("c", Reader.text) is top.find("gone", Reader.text) is None


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda top: top.get("gone", Reader.text), "x.json has no 'gone'"),
        (lambda top: top.get("a", lambda a: a.get("gone", Reader.text)), "x.json has no 'a.gone'"),
        (
            lambda top: top.get("text", lambda t: t.entries(Reader.text)),
            "x.json: 'text' is not an object",
        ),
        (lambda top: top.items("a", Reader.text), "x.json: 'a' is not a list"),
        (lambda top: top.items("list", Reader.text), "x.json: 'list[1]' is not a non-empty text"),
        (lambda top: top.each(Reader.text), "x.json: 'top level' is not a list"),
        (lambda top: top.get("text", lambda t: t.one_of(("b", "c"))), "'text' is not one of b, c"),
        (lambda top: top.get("minus", Reader.count), "'minus' is not a count"),
        (lambda top: top.get("flag", Reader.count), "'flag' is not a count"),
        (lambda top: top.get("flag", Reader.integer), "'flag' is not a whole number"),
        (lambda top: top.get("flag", Reader.number), "'flag' is not a number"),
        (lambda top: top.get("text", Reader.real), "'text' is not a number"),
        (lambda top: top.get("list", Reader.real), "'list' is not a number"),
        (lambda top: top.get("text", lambda t: t.read_as(int | None)), "'text' is not a count"),
        (lambda top: top.get("minus", Reader.flag), "'minus' is not true or false"),
        (lambda top: top.get("huge", Reader.number), "'huge' is not a finite number"),
        (lambda top: top.get("text", Reader.sha256), "'text' is not a sha256 digest"),
        (lambda top: top.get("path", Reader.file_name), "'path' is not the name of a file"),
        (lambda top: top.get("path", Reader.model_name), "'path' is not a model name"),
    ],
)
def test_what_is_wrong_is_told_by_its_place(read: Callable[[Reader], Any], says: str) -> None:
    data = {"a": {}, "text": "a", "list": ["a", ""], "minus": -1, "flag": True, "path": "../a"}
    with pytest.raises(ModelError) as caught:
        read(Reader("x.json", "try again", data | {"huge": float("1e999")}))
    assert says in caught.value.message and caught.value.hint == "try again"


@pytest.mark.parametrize(
    "text",
    [
        *('{"a": 1, "a": 2}', "[NaN]", "[Infinity]", "{", "", b"\xff\xfe\x00"),
        *("[1e999]", "[-1e999]", f"[{2**63}]", f"[{-(2**63) - 1}]", f"[{'9' * 5000}]"),
        # Halves of characters, escaped and as bytes; also in a key. UTF-16 is no JSON file of ours.
        *(
            '["\\ud800"]',
            '{"\\udfff": 1}',
            '"\\uDC00\\ud800"',
            b'"\xed\xa0\x80"',
            "[1]".encode("utf-16"),
        ),
    ],
)
def test_text_that_is_no_strict_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ModelError, match=r"x\.json is not valid JSON: ") as caught:
        read_json(text, "x.json", "try again")
    assert caught.value.hint == "try again"


def test_what_is_large_but_right_is_read() -> None:
    assert read_json(f"[{2**63 - 1}, {-(2**63)}, 1e308]", "", "") == [2**63 - 1, -(2**63), 1e308]
    assert read_json('"\\ud83d\\ude00"', "", "") == "\U0001f600"
    assert read_json(b"\xef\xbb\xbf[1]", "", "") == [1]
    with pytest.raises(ModelError, match="not a finite number"):
        Reader("x.json", "", 10**400).number()


def test_lists_without_an_end_are_refused() -> None:
    with pytest.raises(ModelError, match="not valid JSON"):
        read_json("[" * 100_000, "x.json", "")


def test_numbers_that_json_has_only_words_for() -> None:
    words = Reader("x.json", "", ["nan", "inf", "-inf", 1, -0.5]).each(Reader.real)
    assert math.isnan(words[0]) and words[1:] == [math.inf, -math.inf, 1.0, -0.5]


@pytest.mark.parametrize(("kind", "value"), [(int, 3), (str, "a"), (tuple[str, ...], ["a", "b"])])
def test_a_type_or_none(kind: Any, value: object) -> None:
    found = tuple(value) if isinstance(value, list) else value
    assert Reader("x.json", "", value).read_as(kind | None) == found
    assert Reader("x.json", "", None).read_as(kind | None) is None
    assert Reader("x.json", "", value).read_as(kind) == found


@pytest.mark.parametrize("name", ["a", "engines/a.plan", "ünï.onnx"])
def test_plain_names_are_safe(name: str) -> None:
    assert safe_name(name)


@pytest.mark.parametrize(
    "name", ["", "/a", "..", "a/../b", "./a", "a//b", "a\\b", "C:a", "a\n", "a\0", "a/"]
)
def test_names_that_leave_the_folder_are_not(name: str) -> None:
    assert not safe_name(name)
