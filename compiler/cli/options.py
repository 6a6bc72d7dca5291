"""What commands are told, each option from the one declaration of it: flag, key, type, help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from inspect import Parameter
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from ...runtime.manifest import PRECISIONS
from ..naming import named
from ..options import Option, Settings
from .console import Format

# '[MODEL=]PATH' as a command line says them; one path, or a path per model, as a file does.
FramePaths = tuple[str, ...] | Path | Mapping[str, Path]
# {model, 'model/input' or '' (every model): {field of Preprocessing: value}}
PreprocessTables = Mapping[str, Mapping[str, Any]]


def _names(texts: Sequence[str]) -> dict[str, Path]:
    return {name: Path(text) for name, text in named(texts, "--name").items()}


@dataclass(frozen=True)
class CommandSettings(Settings):
    """What a command line and a repsimc.toml say together, before models have their names."""

    models: Annotated[
        tuple[Path, ...], Option("ONNX files.", metavar="MODELS...", positional=True)
    ] = ()
    name: Annotated[
        Mapping[str, Path],
        Option("Call the model at PATH NAME.", metavar="NAME=PATH", parse=_names, words=list[str]),
    ] = field(default_factory=dict[str, Path])
    calib: Annotated[
        FramePaths | None,
        Option(
            "Frames without labels: .npz keyed by input name, .npy, a folder of them, or of "
            "images. One set feeds every model; MODEL=PATH gives each its own.",
            metavar="[MODEL=]PATH",
            parse=tuple,
            words=list[str],
        ),
    ] = None
    preprocess: Annotated[PreprocessTables, Option()] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )
    format: Annotated[Format | None, Option("How the result is printed (default: table).")] = None


@dataclass(frozen=True)
class Setting:
    """A field of CommandSettings as users say it; `kind` is its type, without None."""

    field: str
    kind: Any
    option: Option

    @property
    def key(self) -> str:
        """Its key in a repsimc.toml."""
        return self.option.key or self.field.replace("_", "-")

    @property
    def flag(self) -> Any:
        """Its flag, or the word that needs none, as typer declares them."""
        option = self.option
        if option.positional:
            return typer.Argument(metavar=option.metavar, help=option.help)
        flags = option.flags or (f"--{self.key}",)
        return typer.Option(*flags, metavar=option.metavar, help=option.help, min=option.least)

    @property
    def parameter(self) -> Parameter:
        """The parameter of a command that takes it; None there: the command line does not say."""
        words = self.kind
        if self.option.parse is not None:
            words = self.option.words
        elif get_origin(self.kind) is tuple:
            words = list[get_args(self.kind)[0]]
        annotation = Annotated[words | None, self.flag]
        return Parameter(self.field, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    def said(self, words: Any) -> object:
        """The value of what the command line says. Raises UsageError."""
        if self.option.parse is not None:
            return self.option.parse(words)
        return tuple(words) if get_origin(self.kind) is tuple else words


def _settings() -> dict[str, Setting]:
    hints = get_type_hints(CommandSettings, include_extras=True)
    # Its own fields first: models begin the list of keys that an error shows.
    names = (*CommandSettings.__annotations__, *Settings.__annotations__)
    return {name: Setting(name, *_kind_and_option(hints[name])) for name in names}


def _kind_and_option(hint: Any) -> tuple[Any, Option]:
    kind, option = get_args(hint)
    if NoneType not in get_args(kind):
        return kind, option
    first, *others = (each for each in get_args(kind) if each is not NoneType)
    return reduce(lambda union, each: union | each, others, first), option


SETTINGS = _settings()

FormatOption = Annotated[Format | None, SETTINGS["format"].flag]
LayoutOption = Annotated[str | None, SETTINGS["layout"].flag]
EnginePrecision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="|".join(PRECISIONS),
        help="What engines compute in (default: as compiled); int8 is for quantised weights.",
    ),
]
SameFrames = Annotated[bool | None, SETTINGS["same_frames"].flag]
Frames = Annotated[int | None, SETTINGS["frames"].flag]
FrameAxis = Annotated[list[str] | None, SETTINGS["frame_axis"].flag]
AllowScript = Annotated[bool, SETTINGS["allow_script"].flag]
ParseMemory = Annotated[str | None, SETTINGS["parse_memory"].flag]
ParseSeconds = Annotated[str | None, SETTINGS["parse_seconds"].flag]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Tell stages and tracebacks.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no warnings.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Options from this file (default: repsimc.toml, if there)."),
]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A compiled bundle.")]
Originals = Annotated[
    Path | None, typer.Option("--originals", help="Folder of the models, if they were moved.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads to use (default: all cores).")
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", metavar="FILE", help="A TensorRT plugin library of the models' operators."
    ),
]


def examples(*lines: str) -> str:
    """Example calls as a help text's last part."""
    # \b keeps the help formatter from joining the lines.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
