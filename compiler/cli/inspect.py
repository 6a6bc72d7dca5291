"""Commands that only look: inspect, passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..naming import model_names
from ..units import parse_sizes
from .config import load_config, preprocessings
from .console import call_of
from .options import SETTINGS, FormatOption, Verbose, examples

if TYPE_CHECKING:
    from ..graph.program import Program

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
    format: FormatOption = None,
    verbose: Verbose = False,
) -> None:
    """Tell what a model or a bundle is made of, where it can be cut, and what is shared."""
    call = call_of(ctx).take(format, verbose)
    from ...runtime.session import load
    from ..frontends.read import read_model
    from ..reports import inspection
    from ..reports.table import report_grid

    bundle = load(what) if what.is_dir() else None
    if text or bundle is None:
        path = what if bundle is None else what / bundle.manifest.graph
        ((name, _),) = model_names([path])
        program = read_model(path, name)
        _bind(program, calib, size or [])
        if text:
            from ..graph.text import text as program_text

            print(program_text(program))
            return
        found = inspection.inspect_model(program, name)
        call.show(found.to_json(), *inspection.model_grids(found))
        return
    manifest = bundle.manifest
    report = inspection.read_report(what, manifest)
    call.show(
        inspection.bundle_json(manifest, report),
        *inspection.bundle_grids(what, manifest, report),
        report_grid(report),
    )


def _bind(program: Program, calib: Path | None, sizes: Sequence[str]) -> None:
    """Gives the model's free sizes those of the frames, or those that are said."""
    if calib is not None and sizes:
        raise UsageError("--calib and --size are two ways to tell sizes", "give one of them")
    if sizes:
        from ..execution.measured_sizes import bind_to_shapes

        bind_to_shapes(program, parse_sizes(sizes))
    if calib is not None:
        from ..execution.feeds import input_specs
        from ..execution.measured_sizes import bind_to_frames
        from ..frames.calibration import FrameOptions, load_frames

        names = list(program.models)
        recipes = preprocessings(load_config(None, Path.cwd()), names)
        specs = {name: input_specs(program) for name in names}
        frames = load_frames(calib, specs, FrameOptions(recipes, held_out=None))
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
