"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..naming import named
from ..options import Format

FormatOption = Annotated[
    Format | None, typer.Option("--format", help="How the result is printed (default: table).")
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Tell stages and tracebacks.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no warnings.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Options from this file (default: repsimc.toml, if there)."),
]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A compiled bundle.")]
AllowScript = Annotated[
    bool, typer.Option("--allow-script", help="Frames may come from a script: it runs its code.")
]
Originals = Annotated[
    Path | None, typer.Option("--originals", help="Folder of the models, if they were moved.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads to use (default: all cores).")
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="merged|trunk-heads",
        help="One graph with all outputs, or one for what several models share and one for the "
        "rest of each, so that models may run at different rates.",
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="fp32|fp16|int8",
        help="What engines compute in; int8 is for quantised (QDQ) models.",
    ),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", metavar="FILE", help="A TensorRT plugin library of the models' operators."
    ),
]
Models = Annotated[list[Path] | None, typer.Argument(metavar="MODELS...", help="ONNX files.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="NAME=PATH", help="Call the model at PATH NAME."),
]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Splits and draws the frames (default: 0).")
]
SameFrames = Annotated[
    bool | None,
    typer.Option("--same-frames", help="Row k of every model's set is the same frame."),
]
Frames = Annotated[int | None, typer.Option("--frames", help="Use at most this many frames.")]


def names_of(name: Sequence[str]) -> dict[str, Path]:
    """The models' paths by the names that --name gives them. Raises UsageError."""
    return {key: Path(text) for key, text in named(name, "--name").items()}


def examples(*lines: str) -> str:
    """Example calls as a help text's last part."""
    # \b keeps the help formatter from joining the lines.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
