"""JSON that nobody has checked, read field by field, with errors that say where."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from types import NoneType
from typing import Annotated, Any, ClassVar, TypeVar, cast, get_args, get_origin, get_type_hints

from .errors import ModelError

Item = TypeVar("Item")
Place = tuple[str | int, ...]  # the keys and indices that lead to a value

# A model's name becomes part of the names of values, files and folders, in other tools' too.
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def safe_name(name: str) -> bool:
    """True if `name` is a plain relative path that stays in its folder, on any system."""
    parts = name.split("/")
    return (
        name != ""
        and "\\" not in name
        and ":" not in name
        and all(part not in ("", ".", "..") for part in parts)
        and name.isprintable()
        and not PurePosixPath(name).is_absolute()
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number that JSON knows")


def _whole(text: str) -> int:
    # What reads this on has 64 bits: array sizes, files, ONNX.
    if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 63:
        raise ValueError(f"{text[:20]}... is too large a number")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):  # 1e999 parses as infinity
        raise ValueError(f"{text[:20]} is too large a number")
    return float(text)


class Reader:
    """A JSON value of the file `document`, and the path to it; `hint` goes with every error.

    What is read is checked; whatever is wrong raises ModelError. A document whose errors are told
    in other words has a subclass that says `wrong` and `missing` its own way.
    """

    OBJECT = "an object"
    LIST = "a list"
    TEXT = "a non-empty text"

    def __init__(self, document: str, hint: str, value: object, path: Place = ()) -> None:
        self.document = document
        self.hint = hint
        self.value = value
        self.path = path

    @property
    def where(self) -> str:
        """The path as people write it: 'models[0].name'."""
        steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path]
        return "".join(steps).removeprefix(".")

    def wrong(self, wanted: str) -> ModelError:
        """The error that says this value is not what was `wanted`."""
        where = self.where or "top level"
        return ModelError(f"{self.document}: '{where}' is not {wanted}", self.hint)

    def missing(self, key: str) -> Reader:
        """What stands for an entry that is not there. Raises ModelError, unless overridden."""
        where = self.at(key, None).where
        raise ModelError(f"{self.document} has no '{where}'", self.hint)

    def at(self, step: str | int, value: Any) -> Reader:
        """The reader of a value inside this one."""
        return type(self)(self.document, self.hint, value, (*self.path, step))

    def get(self, key: str, read: Callable[[Reader], Item]) -> Item:
        """What `read` makes of the entry `key`."""
        entries = self._object()
        return read(self.at(key, entries[key]) if key in entries else self.missing(key))

    def find(self, key: str, read: Callable[[Reader], Item]) -> Item | None:
        """What `read` makes of the entry `key`; None where it is missing or refused."""
        try:
            return self.get(key, read)
        except ModelError:
            return None

    def entries(self, read: Callable[[Reader], Item]) -> dict[str, Item]:
        """What `read` makes of each entry of this object, by key."""
        return {key: read(self.at(key, value)) for key, value in self._object().items()}

    def anything(self) -> Any:
        """This value as it is."""
        return self.value

    def _object(self) -> dict[str, Any]:
        value: object = self.value
        if not isinstance(value, dict):
            raise self.wrong(self.OBJECT)
        return cast("dict[str, Any]", value)

    def each(self, read: Callable[[Reader], Item]) -> list[Item]:
        """What `read` makes of each item of this list."""
        value: object = self.value
        if not isinstance(value, list):
            raise self.wrong(self.LIST)
        found = cast("list[Any]", value)
        return [read(self.at(index, item)) for index, item in enumerate(found)]

    def items(self, key: str, read: Callable[[Reader], Item]) -> list[Item]:
        """What `read` makes of each item of the list at `key`."""
        return self.get(key, lambda reader: reader.each(read))

    def text(self) -> str:
        """This text, which is not empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.wrong(self.TEXT)
        return self.value

    def one_of(self, words: tuple[str, ...]) -> str:
        """This text, which is one of the words."""
        if self.text() not in words:
            raise self.wrong(f"one of {', '.join(words)}")
        return self.text()

    def model_name(self) -> str:
        """This model name."""
        if _MODEL.fullmatch(self.text()) is None:
            raise self.wrong("a model name (letters, digits, '_', '.' and '-')")
        return self.text()

    def file_name(self) -> str:
        """This name of a file inside the folder."""
        if not safe_name(self.text()):
            raise self.wrong("the name of a file inside the bundle")
        return self.text()

    def integer(self, wanted: str = "a whole number") -> int:
        """This whole number."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.wrong(wanted)
        return self.value

    def count(self) -> int:
        """This whole number, zero or more."""
        wanted = "a count (a whole number, zero or more)"
        if self.integer(wanted) < 0:
            raise self.wrong(wanted)
        return self.integer()

    def sha256(self) -> str:
        """This digest."""
        if _SHA256.fullmatch(self.text()) is None:
            raise self.wrong("a sha256 digest (64 lowercase hex digits)")
        return self.text()

    def flag(self) -> bool:
        """This truth value."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def number(self) -> float:
        """This finite number."""
        value: object = self.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong("a number")
        try:
            finite = math.isfinite(value)
        except OverflowError:  # a whole number of hundreds of digits, of a plan made in Python
            finite = False
        if not finite:
            raise self.wrong("a finite number")
        return float(value)

    def real(self) -> float:
        """This number, or the one that JSON has only a word for (see `json_number`)."""
        return float(self.value) if self.value in ("nan", "inf", "-inf") else self.number()

    # How a value of a type is read that says no more than its type.
    KINDS: ClassVar[Mapping[Any, Callable[[Any], Any]]] = {
        str: text,
        int: count,
        float: number,
        bool: flag,
        Any: anything,
    }

    def record(
        self,
        kind: type[Item],
        absent: Collection[str] = (),
        keys: Mapping[str, str] | None = None,
    ) -> Item:
        """The dataclass of these entries, each read by its field's type: see `read_as`.

        Fields that are `absent` keep their defaults; entries that are no field are passed over.
        `keys` are those of fields that go by another name.
        """
        found: dict[str, Any] = {}
        for name, hint in _field_types(kind).items():
            if name not in absent:
                key = (keys or {}).get(name, name)
                found[name] = self.get(key, lambda entry, hint=hint: entry.read_as(hint))
        return kind(**found)

    def read_as(self, kind: Any) -> Any:
        """This value as one of the type, or None where that is one of two.

        Of `Annotated[..., read]` it is what `read` makes of it.
        """
        arguments = get_args(kind)
        if get_origin(kind) is Annotated:
            return arguments[1](self)
        if NoneType in arguments and len(arguments) == 2:  # a type or None
            (kind,) = (each for each in arguments if each is not NoneType)
            return None if self.value is None else self.read_as(kind)
        if kind in self.KINDS:
            return self.KINDS[kind](self)
        if get_origin(kind) is tuple:  # of any length
            return tuple(self.each(lambda item: item.read_as(arguments[0])))
        if get_origin(kind) in (dict, Mapping):
            return self.entries(lambda entry: entry.read_as(arguments[1]))
        assert is_dataclass(kind), kind
        return self.record(cast("type[Any]", kind))


# Types of fields that only some values of their type may have.
ModelName = Annotated[str, Reader.model_name]
FileName = Annotated[str, Reader.file_name]
Sha256 = Annotated[str, Reader.sha256]


@lru_cache
def _field_types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def read_json(text: str | bytes, document: str, hint: str) -> Any:
    """The values of a JSON text: UTF-8, no key twice, numbers of 64 bits. Raises ModelError."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")  # editors on Windows begin a file with a mark
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_whole,
            parse_float=_finite,
        )
        if "\\u" in text or not text.isascii():
            # Half of a character (\ud800) is no Unicode, and could be written nowhere.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{document} is not valid JSON: {error}", hint) from error
    return value
