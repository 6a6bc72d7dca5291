"""The command line that compiles a point's plan: the options that decide the case, repeated."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..naming import sanitised
from ..options import DEFAULT_FLOOR, DEFAULT_PRECISION, CompileOptions
from ..units import printable
from .report import ExploredOutput


def replay_command(
    options: CompileOptions,
    plan: Path,
    outputs: Sequence[ExploredOutput],
    config: Path | None = None,
) -> str:
    """`repsimc compile ... --plan PLAN` for the models, frames and options of an exploration.

    `config` is the file of options that was named. The floor is lowered to what was measured of the
    point where that is below it; of points that were not measured `compile` tells whether they
    keep it.
    """
    floor = _floor(options, outputs)
    words = ["repsimc", "compile", *(str(path) for _, path in options.models)]
    words += [] if config is None else ["--config", str(config)]
    words += _words(options)
    words += [] if floor == DEFAULT_FLOOR else ["--min-fidelity", f"{floor:.10g}"]
    return printable(shlex.join([*words, "--plan", str(plan)]))


def _words(options: CompileOptions) -> Iterator[str]:
    for name, path in options.models:
        if name != sanitised(path.stem):
            yield from ("--name", f"{name}={path}")
    given = options.calibration
    if isinstance(given, Path):
        yield from ("--calib", str(given))
    elif isinstance(given, Mapping) and all(isinstance(one, Path) for one in given.values()):
        for name, path in given.items():
            yield from ("--calib", f"{name}={path}")
    else:
        yield from ("--calib", "FRAMES")  # arrays have no name on a command line
    for flag, told in (
        ("--same-frames", options.same_frames),
        ("--separate-inputs", not options.tie_inputs),
        ("--allow-script", options.allow_script),
    ):
        if told:
            yield flag
    for flag, several in (("--tie", options.tie), ("--frame-axis", options.frame_axis)):
        for text in several:
            yield from (flag, text)
    for flag, value in (("--frames", options.frames), ("--parse-memory", options.parse_memory)):
        if value is not None:
            yield from (flag, str(value))
    if options.parse_seconds is not None:
        yield from ("--parse-seconds", f"{options.parse_seconds:g}s")
    if options.precision != DEFAULT_PRECISION:
        yield from ("--precision", options.precision)
    if options.seed:
        yield from ("--seed", str(options.seed))


def _floor(options: CompileOptions, outputs: Sequence[ExploredOutput]) -> float:
    """The floor for all outputs, at most what was measured of those without one of their own."""
    floor = options.min_fidelity
    for one in outputs:
        own = {one.model, one.name} & set(options.output_fidelity)
        if one.fidelity is not None and not one.fidelity.met and not own:
            value = one.fidelity.judged if math.isfinite(one.fidelity.judged) else 0.0
            # Cut a little below: another machine's rounding must not miss it.
            floor = min(floor, max(math.floor(1e4 * (value - 1e-6)) / 1e4, 0.0))
    return floor
