"""How models get their names, and how a call gives values to models by name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import UsageError

# A model's name becomes part of value names ('name/value') and of file names in a bundle.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NOT_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


def model_names(
    paths: Sequence[Path], names: Mapping[str, Path] | None = None
) -> tuple[tuple[str, Path], ...]:
    """Each model's (name, path): the one `names` gives its path, else its file's stem.

    Characters outside A-Za-z0-9_.- in a stem become '_'. A path given twice takes its names from
    `names` in order. Raises UsageError for a clash, a name that is none, or a name for no model.
    """
    given: dict[str, list[str]] = {}
    for name, path in (names or {}).items():
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"'{name}' can't be a model's name",
                "use letters, digits, '_', '.' and '-', beginning with a letter, digit or '_'",
            )
        given.setdefault(_place(path), []).append(name)
    named: list[tuple[str, Path]] = []
    for path in paths:
        waiting = given.get(_place(path))
        named.append((waiting.pop(0) if waiting else sanitised(path.stem), path))
    spare = [(name, path) for name, path in (names or {}).items() if name in _left(given)]
    if spare:
        name, path = spare[0]
        raise UsageError(
            f"--name {name}={path} names no model of this call",
            f"the models are {', '.join(str(path) for path in paths)}",
        )
    _refuse_clashes(named)
    return tuple(named)


def sanitised(stem: str) -> str:
    """A model's name from a file's stem: 'my net (1)' gives 'my_net_1'."""
    name = _NOT_NAME.sub("_", stem).strip("_").lstrip(".-")
    return name or "model"


def _place(path: Path) -> str:
    return os.path.normcase(os.path.abspath(path))  # noqa: PTH100 (resolve() follows symlinks)


def _left(given: Mapping[str, list[str]]) -> set[str]:
    return {name for waiting in given.values() for name in waiting}


def _refuse_clashes(named: Sequence[tuple[str, Path]]) -> None:
    taken = {name for name, _ in named}
    first: dict[str, Path] = {}
    for name, path in named:
        if name not in first:
            first[name] = path
            continue
        number = 2
        while f"{name}_{number}" in taken:
            number += 1
        both = f"{first[name]} and {path}"
        raise UsageError(
            f"two models would be called '{name}': {both}",
            f"give one another name: --name {name}_{number}={path}",
        )


def named(texts: Sequence[str], option: str) -> dict[str, str]:
    """{name: value} from 'NAME=VALUE' texts. Raises UsageError for any other, and for a clash."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} {text} is not NAME=VALUE")
        if name in found:
            raise UsageError(
                f"{option} gives '{name}' twice: {found[name]} and {value}", "leave one out"
            )
        found[name] = value
    return found


def per_model(texts: Sequence[str], option: str, names: Sequence[str]) -> str | dict[str, str]:
    """What '[NAME=]VALUE' texts say: one value for all models, or a value per model name.

    A text that is the path of an existing file names no model. Raises UsageError for an unknown
    model, and for several values of which one names no model.
    """
    for text in texts:
        if not _NAME.fullmatch(text.partition("=")[0]) or "=" not in text or Path(text).exists():
            if len(texts) == 1:
                return text
            raise UsageError(
                f"{option} {text} names no model, and there is more than one {option}",
                f"say which model each is for: {option} {names[0] if names else 'NAME'}={text}",
            )
    found = named(texts, option)
    for name in found:
        if name not in names:
            raise UsageError(
                f"{option} {name}={found[name]} is for no model of this call",
                f"the models are called {', '.join(names)}",
            )
    return found


def paths_per_model(
    texts: Sequence[str], option: str, names: Sequence[str]
) -> Path | dict[str, Path]:
    """What '[NAME=]PATH' texts say: one path for all models, or a path per model name."""
    found = per_model(texts, option, names)
    if isinstance(found, str):
        return Path(found)
    return {name: Path(path) for name, path in found.items()}
