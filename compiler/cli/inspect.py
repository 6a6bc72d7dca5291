"""Commands that only look: inspect, passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..naming import model_names
from ..units import parse_bytes, parse_sizes, printable
from ..units import parse_seconds as seconds_of
from .config import load_config, preprocessings
from .console import call_of
from .options import SETTINGS, FormatOption, ParseMemory, ParseSeconds, Verbose, examples

if TYPE_CHECKING:
    from ..graph.program import Program
    from ..isolation.allowance import ParseLimits

INSPECT_EXAMPLES = examples(
    "repsimc inspect a.onnx",
    "repsimc inspect a.onnx --text | less",
    "repsimc inspect a.onnx --size x=1x3x320x320",
    "repsimc inspect bundle/ --format json",
)


def inspect(
    ctx: typer.Context,
    what: Annotated[Path, typer.Argument(metavar="MODEL|BUNDLE", help="A .onnx file or a bundle.")],
    text: Annotated[
        bool, typer.Option("--text", help="Print the program as text instead.")
    ] = False,
    calib: Annotated[
        Path | None,
        typer.Option("--calib", metavar="PATH", help="Frames that tell what free sizes are."),
    ] = None,
    size: Annotated[list[str] | None, SETTINGS["size"].flag] = None,
    parse_memory: ParseMemory = None,
    parse_seconds: ParseSeconds = None,
    format: FormatOption = None,
    verbose: Verbose = False,
) -> None:
    """Tell what a model or a bundle is made of, where it can be cut, and what is shared."""
    call = call_of(ctx).take(format, verbose)
    from ..reports.arithmetic import arithmetic_grid
    from ..reports.precision import precision_grid
    from ..reports.rewrites import rewrites_grid
    from ..reports.table import fidelity_grid, report_grid

    if what.is_dir() and not text:
        from ...runtime.session import load
        from ..reports import bundle_contents

        manifest = load(what).manifest
        report = bundle_contents.read_report(what, manifest)
        told_by = (report_grid, precision_grid, arithmetic_grid, rewrites_grid, fidelity_grid)
        grids = [f(report) for f in told_by]
        call.show(
            bundle_contents.bundle_json(manifest, report),
            *bundle_contents.bundle_grids(what, manifest, report),
            *(grid for grid in grids if grid is not None),
        )
        return
    from ..isolation.allowance import ParseLimits

    limits = ParseLimits(
        None if parse_memory is None else parse_bytes(parse_memory),
        None if parse_seconds is None else seconds_of(parse_seconds),
    )
    program = _read(what, limits)
    _bind(program, calib, size or [], limits)
    if text:
        from ..graph.text import text as program_text

        print(printable(program_text(program)))
        return
    from ..reports.inspection import inspect_model, model_grids

    (name,) = program.models
    found = inspect_model(program, name)
    call.show(found.to_json(), *model_grids(found))


def _read(what: Path, limits: ParseLimits) -> Program:
    """The model, or the graph of a bundle, as a program."""
    from ...runtime.files import inside, read_manifest
    from ..isolation.process import start

    start()  # its imports go on beside ours
    # A device has what bundles need, and says here what it lacks.
    from ..frontends.read import read_model

    path = inside(what, read_manifest(what).graph) if what.is_dir() else what
    ((name, _),) = model_names([path])
    return read_model(path, name, limits)


def _bind(program: Program, calib: Path | None, sizes: Sequence[str], limits: ParseLimits) -> None:
    """Gives the model's free sizes those of the frames, or those that are said."""
    if calib is not None and sizes:
        raise UsageError("--calib and --size are two ways to tell sizes", "give one of them")
    if sizes:
        from ..execution.measured_sizes import bind_to_shapes

        bind_to_shapes(program, parse_sizes(sizes), limits)
    if calib is not None:
        from ..execution.feeds import input_specs
        from ..execution.first_frame import run_first_frame
        from ..execution.measured_sizes import bind_to_frames
        from ..frames.calibration import FrameOptions, load_frames

        names = list(program.models)
        recipes = preprocessings(load_config(None, Path.cwd()), names)
        specs = {name: input_specs(program) for name in names}
        frames = load_frames(calib, specs, FrameOptions(recipes, held_out=None))
        run_first_frame([program], frames, limits)
        bind_to_frames(program, frames, others=False)


PASSES_EXAMPLES = examples("repsimc passes", "repsimc passes --format json")


def passes(ctx: typer.Context, format: FormatOption = None) -> None:
    """List the rewrites that a compilation is made of, in their order, and the kinds of actions."""
    call = call_of(ctx).take(format)
    from ...passes.pipeline import EXACT, MEASURED
    from ..actions.kinds import KINDS
    from ..reports.table import Grid, words

    steps = dict.fromkeys((*(type(step) for step in EXACT), *MEASURED))
    rows = [
        (step.name, step.exact, " ".join((step.__doc__ or "").split("\n\n")[0].split()))
        for step in steps
    ]
    kinds = [
        (kind.name, kind.only, " ".join((kind.action.__doc__ or "").split("\n\n")[0].split()))
        for kind in KINDS
    ]
    call.show(
        {
            "schema": "repsimc.passes/1",
            "passes": [{"name": name, "exact": exact, "what": what} for name, exact, what in rows],
            "kinds": [{"name": name, "only": only, "what": what} for name, only, what in kinds],
        },
        Grid(
            "",
            words("pass", "outputs", "what it does"),
            tuple((name, "exact" if exact else "measured", what) for name, exact, what in rows),
        ),
        Grid("", words("kind of action", "--only", "what it does"), tuple(kinds)),
    )
