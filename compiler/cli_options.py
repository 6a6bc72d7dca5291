"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Format

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
Frames = Annotated[int | None, typer.Option("--frames", help="Use at most this many frames.")]


def examples(*lines: str) -> str:
    """Example calls as a help text's last part."""
    # \b keeps the help formatter from joining the lines.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
