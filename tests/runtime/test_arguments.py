from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsimc.runtime import arguments
from repsimc.runtime.errors import UsageError
from repsimc.runtime.session import SessionOptions, load


@pytest.mark.parametrize(
    ("read", "value", "found"),
    [
        (arguments.flag, np.bool_(True), True),
        (arguments.whole, np.int64(3), 3),
        (arguments.whole, np.uint8(3), 3),
        (arguments.number, np.float32(0.5), 0.5),
        (arguments.number, np.int64(2), 2.0),
        (arguments.text, np.str_("a"), "a"),
        (arguments.path, "a/b", Path("a/b")),
        (arguments.path, Path("a"), Path("a")),
    ],
)
def test_what_is_meant_is_taken(
    read: Callable[[str, object], object], value: object, found: object
) -> None:
    taken = read("x", value)
    assert taken == found and type(taken) is type(found)


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (arguments.flag, [1, 0, "true", None, np.int64(1), [True]]),
        (arguments.whole, [1.0, True, "1", None, np.float64(1), 2**63, [1], 10**400]),
        (arguments.number, [True, "1", None, 1j, float("nan"), float("inf"), 10**400, [1.0]]),
        (arguments.text, [1, None, b"a", Path("a"), ["a"]]),
        (arguments.path, [1, None, b"a", "", "a\0b", "\ud800", ["a"]]),
    ],
)
def test_another_type_is_refused_by_name(
    read: Callable[[str, object], object], values: list[object]
) -> None:
    for value in values:
        with pytest.raises(UsageError, match=r"^threads=") as caught:
            read("threads", value)
        assert len(str(caught.value)) < 500


def test_several_and_tables() -> None:
    assert arguments.several("x", ["a", Path("b")], arguments.path) == (Path("a"), Path("b"))
    assert arguments.several("x", "ab", arguments.text) == ("ab",)
    assert arguments.table("x", {"a": np.int64(1)}, arguments.number) == {"a": 1.0}
    for value in (3, None, b"ab", {"a": 1}, np.array(1.0)):
        with pytest.raises(UsageError, match=r"^x="):
            arguments.several("x", value, arguments.text)
    for value in (3, None, ["a"], "a"):
        with pytest.raises(UsageError, match=r"^x="):
            arguments.table("x", value, arguments.text)
    with pytest.raises(UsageError, match="x key=1"):
        arguments.table("x", {1: "a"}, arguments.text)
    with pytest.raises(UsageError, match=r"x\['a'\]=1"):
        arguments.table("x", {"a": 1}, arguments.text)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"backend": 3}, {"backend": None}, {"threads": "2"}, {"threads": True}),
        *({"threads": 1.5}, {"verify_hashes": "no"}, {"layout": 3}, {"precision": b"fp16"}),
        *({"plugins": 3}, {"plugins": [3]}, {"threads": 0}),
    ],
    ids=str,
)
def test_a_session_refuses_options_of_other_types(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SessionOptions(**wrong)


def test_a_bundle_is_opened_by_its_path() -> None:
    assert SessionOptions(threads=np.int64(2)).threads == 2  # type: ignore[arg-type]
    for path in (3, None, b"bundle", ""):
        with pytest.raises(UsageError, match="path="):
            load(path)  # type: ignore[arg-type]
