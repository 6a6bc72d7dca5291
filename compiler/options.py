"""What a compilation is asked to do, as one value, and how users say each part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from numbers import Real
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_type_hints

from ..runtime import arguments
from ..runtime.arguments import wrong
from ..runtime.manifest import LAYOUTS, MERGED, PRECISIONS
from .errors import UsageError
from .isolation.allowance import ParseLimits
from .units import (
    Budget,
    MacsLimit,
    parse_budget,
    parse_bytes,
    parse_duration,
    parse_macs,
    parse_seconds,
    parse_sizes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .frames.calibration import Preprocessing

    # A sequence of arrays: frames of several sizes.
    Arrays = NDArray[Any] | Sequence[NDArray[Any]]
    Calibration = Path | Arrays | Mapping[str, Path] | Mapping[str, Arrays | Mapping[str, Arrays]]

DEFAULT_OUTPUT = "bundle"
DEFAULT_FLOOR = 0.99
DEFAULT_PRECISION = "fp32"
AUTO = "auto"
# Precisions that are for weights to be stored in, and for the planner to choose.
FEW_BITS = ("int8", AUTO)
ANY = "any"
# Whose kernels arithmetic in 8 bits is for.
TARGETS = (ANY, "cpu", "tensorrt")


@dataclass(frozen=True)
class Option:
    """How users say a setting: its flag on the command line and its key in a repsimc.toml.

    Both are the name of the field it annotates, with '-' for '_', unless `flags` and `key` say
    otherwise. `help` None: it has no flag, and is set in a file only. `not_in_file` tells why a
    file may not set it. `positional` words need no flag. `metavar` stands for the value in help,
    `least` is the smallest one a command line may say. `parse` makes the value of a text (or of
    `words`, where the command line gives another type); `such_as` says what was expected. `bare`:
    a number of a file stands for such a text by itself.
    """

    help: str | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    least: int | None = None
    positional: bool = False
    parse: Callable[[Any], object] | None = None
    words: Any = str
    such_as: str = ""
    bare: bool = True
    key: str = ""
    not_in_file: str = ""


@dataclass(frozen=True)
class Settings:
    """What users set of a compilation; each field is the one place that spells an option.

    Beyond what the help says: `output` None writes nothing but the report. `output_fidelity` and
    `metrics` override floor and metric for 'model' or 'model/output' ('top1' or 'variance').
    `without` are kinds of rewrites that are left out. `max_latency` and `time_limit` are seconds.
    `tie` counts whatever `tie_inputs` says. `layout` ('merged' or 'trunk-heads') and
    `precision` are defaults that a build may override; 'int8' and 'auto' have weights rounded,
    for which frames are needed. Of the frames used, the share `held_out`
    is kept from every fit.
    """

    budget: Annotated[
        Budget | None,
        Option(
            "Memory the models may need together: 2GB, 512MiB, or 60% of the models apart. "
            "Without it: the most saving within the fidelity floor.",
            parse=parse_budget,
            such_as="an amount such as '2GB' or '60%'",
        ),
    ] = None
    output: Annotated[
        Path | None,
        Option(f"The bundle to write (default: {DEFAULT_OUTPUT}/).", flags=("-o", "--output")),
    ] = None
    min_fidelity: Annotated[float, Option(f"Floor of every output (default: {DEFAULT_FLOOR}).")] = (
        DEFAULT_FLOOR
    )
    confidence: Annotated[
        float, Option("How sure the lower bound of each fidelity is (default: 0.95).")
    ] = 0.95
    strict: Annotated[
        bool, Option("Hold floors against what the frames prove, not against what they show.")
    ] = False
    min_stressed: Annotated[
        float | None,
        Option("Floor of what blends of held-out frames prove (default: none, it is told)."),
    ] = None
    output_fidelity: Annotated[Mapping[str, float], Option(key="fidelity")] = field(
        default_factory=dict[str, float]
    )
    metrics: Annotated[Mapping[str, str], Option()] = field(default_factory=dict[str, str])
    exact_only: Annotated[bool, Option("Only rewrites that move no output.")] = False
    only: Annotated[
        str | None,
        Option(
            "One means of them: sharing between models, fewer and smaller layers, or weights in "
            "few bits (default: all).",
            metavar="share|depth|precision",
        ),
    ] = None
    without: Annotated[
        tuple[str, ...],
        Option(
            "Leave out a kind of rewrite: its name as `repsimc passes` lists it (may be repeated).",
            metavar="KIND",
        ),
    ] = ()
    max_macs: Annotated[
        MacsLimit | None,
        Option(
            "Multiply-accumulates per frame beside --budget: 120M, or 60% of the models'.",
            parse=parse_macs,
            such_as="an amount such as '120M' or '60%'",
        ),
    ] = None
    max_latency: Annotated[
        float | None,
        Option(
            "Time for one frame through all models on one thread of this machine: 8ms.",
            parse=parse_seconds,
            such_as="a time such as '8ms'",
            bare=False,  # of what, would be anybody's guess
        ),
    ] = None
    plan: Annotated[Path | None, Option("Replay this plan.json (it may be edited).")] = None
    time_limit: Annotated[
        float | None,
        Option(
            "End the search so long after the command began, with the best plan by then: 10m, 90s.",
            metavar="TIME",
            parse=parse_duration,
            such_as="a time such as '10m'",
        ),
    ] = None
    resume: Annotated[
        bool,
        Option(
            "Start from what an earlier compilation of the same models and frames learned: another "
            "budget then costs no pass over the frames for evidence."
        ),
    ] = False
    dry_run: Annotated[bool, Option("Report and plan only, write nothing.")] = False
    seed: Annotated[int, Option("Splits and draws the frames (default: 0).", least=0)] = 0
    same_frames: Annotated[bool, Option("Row k of every model's set is the same frame.")] = False
    tie_inputs: Annotated[
        bool,
        Option(
            "Whether inputs that the same frames feed are one, or, without frames, those of equal "
            "name, dtype and fixed size (default: tie).",
            flags=("--tie-inputs/--separate-inputs",),
        ),
    ] = True
    tie: Annotated[
        tuple[str, ...],
        Option(
            "Two inputs that one array feeds (may be repeated).",
            metavar="MODEL.INPUT=MODEL.INPUT",
        ),
    ] = ()
    frame_axis: Annotated[
        tuple[str, ...],
        Option(
            "The axis of an input that counts frames, where the model does not tell (may be "
            "repeated); none: each run takes one array whatever the frames.",
            metavar="[MODEL.]INPUT=AXIS",
        ),
    ] = ()
    layout: Annotated[
        str,
        Option(
            "One graph with all outputs, or one for what several models share and one for the "
            "rest of each, so that models may run at different rates.",
            metavar="|".join(LAYOUTS),
        ),
    ] = MERGED
    precision: Annotated[
        str,
        Option(
            "What engines compute in (fp32, fp16); or weights stored in 8 bits as far as the "
            "floors allow (int8), in 8 or 4 bits as the budget asks for (auto).",
            metavar="|".join((*PRECISIONS, AUTO)),
        ),
    ] = DEFAULT_PRECISION
    target: Annotated[
        str,
        Option(
            "Whose integer kernels the arithmetic is to run on where weights are in 8 bits; any: "
            "weights alone are rounded.",
            metavar="|".join(TARGETS),
        ),
    ] = ANY
    size: Annotated[
        Mapping[str, tuple[int, ...]],
        Option(
            "What an input of free size is fed, where no frames tell (may be repeated).",
            metavar="[MODEL.]INPUT=1x3x224x224",
            parse=parse_sizes,
            words=list[str],
        ),
    ] = field(default_factory=dict[str, tuple[int, ...]])
    frames: Annotated[int | None, Option("Use at most this many frames.")] = None
    held_out: Annotated[float, Option()] = 0.25
    allow_script: Annotated[
        bool,
        Option(
            "Frames may come from a script: it runs its code.",
            # A configuration that comes along with someone's models must not be able to run code.
            not_in_file="a script runs code on your machine",
        ),
    ] = False
    overwrite: Annotated[bool, Option("Replace a bundle that is there.")] = False
    parse_memory: Annotated[
        int | None,
        Option(
            "Memory that opening a model may take, in a process of its own: 4GB (default: 512 MiB "
            "and 8 times its size).",
            metavar="SIZE",
            parse=parse_bytes,
            such_as="an amount such as '4GB'",
        ),
    ] = None
    parse_seconds: Annotated[
        float | None,
        Option(
            "Processor time that opening a model may take: 60s (default: 3 s and 4 s per MB).",
            metavar="TIME",
            parse=parse_seconds,
            such_as="a time such as '60s'",
            bare=False,
        ),
    ] = None


def _no_preprocessing() -> dict[str, Preprocessing]:
    return {}


@dataclass(frozen=True)
class CompileOptions(Settings):
    """Everything that decides a compilation's outcome; same options and files, same bytes.

    To the settings it adds `models`, (name, path) in command line order, and what goes by their
    names: `calibration` is one set for all models (a path or arrays) or a set per model name,
    `preprocessing` one by model name, '' for every model. Raises UsageError for what makes no
    sense.
    """

    models: tuple[tuple[str, Path], ...] = field(kw_only=True)
    calibration: Calibration | None = None
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=_no_preprocessing)

    def __post_init__(self) -> None:
        # What a Python caller gives may be of any type, and say what a command line says.
        for name in Settings.__annotations__:
            object.__setattr__(self, name, setting_of(name, getattr(self, name)))
        object.__setattr__(self, "calibration", calibration_of(self.calibration))
        if not self.models:
            raise UsageError("no models given", "repsimc compile a.onnx b.onnx --budget 2GB")
        if not 0.5 <= self.confidence < 1:
            raise UsageError(
                f"a confidence of {self.confidence} bounds nothing",
                "give a number from 0.5 to below 1, such as 0.95",
            )
        floors = {"min_fidelity": self.min_fidelity, "min_stressed": self.min_stressed}
        of_outputs = {f"[fidelity] {key!r}": one for key, one in self.output_fidelity.items()}
        for key, floor in (floors | of_outputs).items():
            if floor is not None and not 0 <= floor <= 1:
                raise UsageError(
                    f"{key}: a fidelity floor of {floor:g} is not a share",
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
            ("precision", self.precision, (*PRECISIONS, AUTO)),
            ("target", self.target, TARGETS),
        ):
            if value not in known:
                raise UsageError(f"there is no {what} '{value}'", f"there are {', '.join(known)}")
        if self.target != ANY and self.precision not in FEW_BITS:
            raise UsageError(
                f"--target {self.target} is for arithmetic in 8 bits, which --precision "
                f"{self.precision} does not ask for",
                "add --precision int8, or leave out --target",
            )
        if self.exact_only and self.only is not None:
            raise UsageError("--exact-only leaves nothing for --only", "leave one of them out")
        if self.size and self.calibration is not None:
            raise UsageError(
                "--size is for models without frames, and these have frames, which tell sizes",
                "leave out --size; [preprocess] size in repsimc.toml resizes images",
            )
        if self.max_latency is not None and self.max_latency <= 0:
            raise UsageError(f"a latency of {self.max_latency:g} s is nothing", "give 0.008, say")
        if self.time_limit is not None and self.time_limit <= 0:
            raise UsageError(
                f"a time limit of {self.time_limit:g} s is nothing", "give seconds, such as 600"
            )
        for what, limit in (("memory", self.parse_memory), ("time", self.parse_seconds)):
            if limit is not None and limit <= 0:
                raise UsageError(f"no model opens with {limit:g} of {what}", "give more, or none")
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

    @property
    def parse_limits(self) -> ParseLimits:
        """What opening one model may take."""
        return ParseLimits(self.parse_memory, self.parse_seconds)

    def floor(self, model: str, output: str) -> float:
        """The fidelity floor of an output, by its own name."""
        by_model = self.output_fidelity.get(model, self.min_fidelity)
        return self.output_fidelity.get(f"{model}/{output}", by_model)

    def metric(self, model: str, output: str) -> str | None:
        """The metric asked for an output, by its own name; None means the default one."""
        return self.metrics.get(f"{model}/{output}", self.metrics.get(model))


def setting_of(name: str, value: object) -> Any:
    """The value of a field of Settings from what a Python caller gives for it.

    Beside its own type that is NumPy's numbers, paths as text, and the text that the command line
    takes. Raises UsageError that names the field.
    """
    kinds, option = _kinds(name)
    if value is None and NoneType in kinds:
        return None
    amount = next((kind for kind in kinds if kind in (Budget, MacsLimit)), None)
    if amount is not None and isinstance(value, amount):
        return value
    if option.parse is not None and option.such_as:
        if amount is not None and isinstance(value, Real):
            value = f"{value}"
        if isinstance(value, str):
            try:
                return option.parse(value)
            except UsageError as error:
                raise UsageError(f"{name}: {error.message}", error.hint) from error
        if amount is not None:
            raise wrong(name, value, option.such_as)
    read = next((_READERS[kind] for kind in kinds if kind in _READERS), None)
    return value if read is None else read(name, value)


@cache
def _kinds(name: str) -> tuple[tuple[Any, ...], Option]:
    """The types that a field of Settings takes, and its option."""
    hint = get_type_hints(Settings, include_extras=True)[name]
    kind, option = get_args(hint)
    return (get_args(kind) if NoneType in get_args(kind) else (kind,)), option


def _texts(name: str, value: object) -> tuple[str, ...]:
    return arguments.several(name, value, arguments.text)


def _numbers(name: str, value: object) -> dict[str, float]:
    return arguments.table(name, value, arguments.number)


def _words(name: str, value: object) -> dict[str, str]:
    return arguments.table(name, value, arguments.text)


def _sizes(name: str, value: object) -> dict[str, tuple[int, ...]]:
    """Shapes by input: a mapping to sizes, or the texts that the command line takes."""
    if not isinstance(value, Mapping):
        try:
            return parse_sizes(list(_texts(name, value)))
        except UsageError as error:
            raise UsageError(f"{name}: {error.message}", error.hint) from error

    def sizes(name: str, value: object) -> tuple[int, ...]:
        return arguments.several(name, value, arguments.whole)

    return arguments.table(name, cast("object", value), sizes)


_READERS: dict[Any, Callable[[str, object], object]] = {
    bool: arguments.flag,
    int: arguments.whole,
    float: arguments.number,
    str: arguments.text,
    Path: arguments.path,
    tuple[str, ...]: _texts,
    Mapping[str, float]: _numbers,
    Mapping[str, str]: _words,
    Mapping[str, tuple[int, ...]]: _sizes,
}


def calibration_of(value: object) -> Any:
    """Frames as a path, an array, or a mapping to either. Raises UsageError for anything else."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return arguments.table("calibration", cast("object", value), _frames)
    return _path_or_array("calibration", value)


def _frames(name: str, value: object) -> Any:
    """The frames of a model or an input: those of a model may be a mapping of its inputs."""
    if isinstance(value, Mapping):
        return arguments.table(name, cast("object", value), _path_or_array)
    return _path_or_array(name, value)


def _path_or_array(name: str, value: object) -> Any:
    if hasattr(value, "__array__") and hasattr(value, "dtype"):
        return value
    try:
        return arguments.path(name, value)
    except UsageError:
        raise wrong(name, value, "a path, an array, or a mapping of names to either") from None
