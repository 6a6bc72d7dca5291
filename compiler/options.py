"""What a compilation is asked to do, as one value, and how models get their names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.manifest import LAYOUTS, MERGED, PRECISIONS
from .errors import UsageError
from .units import Budget, MacsLimit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .frames.calibration import Preprocessing

    Calibration = Path | NDArray[Any] | Mapping[str, Path] | Mapping[str, NDArray[Any]]

DEFAULT_OUTPUT = "bundle"
DEFAULT_FLOOR = 0.99

# A model's name becomes part of value names ('name/value') and of file names in a bundle.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NOT_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


class Format(str, Enum):  # noqa: UP042 (StrEnum is of Python 3.11; JetPack 6 has 3.10)
    """How results are printed."""

    table = "table"
    json = "json"
    markdown = "markdown"

    def __str__(self) -> str:
        return self.value


def _no_preprocessing() -> dict[str, Preprocessing]:
    return {}


MEANS = ("share", "depth")


@dataclass(frozen=True)
class CompileOptions:
    """Everything that decides a compilation's outcome; same options and files, same bytes.

    `models` are (name, path) in command line order. `calibration` is one set for all models (a
    path or arrays) or a set per model name. `preprocessing` goes by model name, '' for every
    model. `min_fidelity` is the floor of every output; `output_fidelity` and `metrics` override
    floor and metric for 'model' or 'model/output' ('top1' or 'variance'). `frames` limits the
    frames used, of which the share `held_out` is kept from every fit. `same_frames` says that
    row k of every model's set is the same frame; `tie_inputs` lets one frame feed the inputs of
    equal name, dtype and shape where the calibration does not say otherwise. `plan` replays that
    plan. `only` leaves one means
    of the two ('share', 'depth'). `max_macs` and `max_latency` (seconds for one frame through all
    models, one thread) are budgets beside `budget`. `output` None writes nothing but the report,
    as does `dry_run`. `layout` is how sessions and engines divide the graph ('merged' or
    'trunk-heads'), `precision` what engines are meant to be built in: defaults that a build may
    override.
    """

    models: tuple[tuple[str, Path], ...]
    budget: Budget | None = None
    calibration: Calibration | None = None
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=_no_preprocessing)
    min_fidelity: float = DEFAULT_FLOOR
    output_fidelity: Mapping[str, float] = field(default_factory=dict[str, float])
    metrics: Mapping[str, str] = field(default_factory=dict[str, str])
    exact_only: bool = False
    plan: Path | None = None
    dry_run: bool = False
    seed: int = 0
    output: Path | None = None
    overwrite: bool = False
    same_frames: bool = False
    tie_inputs: bool = True
    allow_script: bool = False
    frames: int | None = None
    held_out: float = 0.25
    only: str | None = None
    without: tuple[str, ...] = ()
    max_macs: MacsLimit | None = None
    max_latency: float | None = None
    layout: str = MERGED
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("no models given", "repsimc compile a.onnx b.onnx --budget 2GB")
        for key, floor in (("", self.min_fidelity), *self.output_fidelity.items()):
            if not 0 <= floor <= 1:
                raise UsageError(
                    f"a fidelity floor of {floor}{f' for {key!r}' if key else ''} is not a share",
                    "give a number from 0 to 1, such as 0.99",
                )
        if not 0 < self.held_out < 1:
            raise UsageError(
                f"{self.held_out} of the frames can't be held out", "give a share such as 0.25"
            )
        if self.frames is not None and self.frames < 2:
            raise UsageError(
                f"{self.frames} frames can't be split into a fit and a held-out part",
                "give --frames at least 2; a few hundred are usual",
            )
        for what, value, known in (
            ("layout", self.layout, LAYOUTS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise UsageError(f"there is no {what} '{value}'", f"there are {', '.join(known)}")
        if self.exact_only and self.only is not None:
            raise UsageError("--exact-only leaves nothing for --only", "leave one of them out")
        if self.max_latency is not None and self.max_latency <= 0:
            raise UsageError(f"a latency of {self.max_latency:g} s is nothing", "give 0.008, say")
        if self.seed < 0:
            raise UsageError(f"a seed of {self.seed} is negative", "give 0 or more")
        names = {name for name, _ in self.models}
        for table, entries in (
            ("preprocess", self.preprocessing),
            ("fidelity", self.output_fidelity),
            ("metrics", self.metrics),
        ):
            for key in entries:
                model = key.split("/", 1)[0]
                if model and model not in names:
                    raise UsageError(
                        f"[{table}] names '{key}', but no model is called '{model}'",
                        f"the models are called {', '.join(sorted(names))}",
                    )

    def floor(self, model: str, output: str) -> float:
        """The fidelity floor of an output, by its own name."""
        by_model = self.output_fidelity.get(model, self.min_fidelity)
        return self.output_fidelity.get(f"{model}/{output}", by_model)

    def metric(self, model: str, output: str) -> str | None:
        """The metric asked for an output, by its own name; None means the default one."""
        return self.metrics.get(f"{model}/{output}", self.metrics.get(model))


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
