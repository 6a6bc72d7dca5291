"""The command line: options to values, values to tables or JSON.

Heavy modules are imported inside the commands, so that `repsimc --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from sys import argv as process_arguments
from typing import Annotated

import typer

from ..errors import UsageError
from ..options import DEFAULT_FLOOR, DEFAULT_OUTPUT
from ..units import parse_budget, parse_macs, parse_seconds
from . import build as cli_build
from . import bundle as cli_bundle
from . import depth as cli_depth
from . import inspect as cli_inspect
from . import similarity as cli_similarity
from .config import compile_options, load_config
from .console import Call, call_of, guarded
from .options import (
    AllowScript,
    ConfigOption,
    FormatOption,
    Frames,
    LayoutOption,
    Models,
    Names,
    PrecisionOption,
    Quiet,
    SameFrames,
    Seed,
    Verbose,
    examples,
    names_of,
)

app = typer.Typer(
    name="repsimc",
    help="Make several neural networks fit on one edge device.",
    epilog=examples(
        "repsimc compile a.onnx b.onnx --budget 2GB",
        "repsimc compile a.onnx b.onnx --budget 60% --calib frames.npz -o bundle/",
        "repsimc verify bundle/ --data labelled.npz --labels label",
        "repsimc run bundle/ --model a --input frame.npy",
    )
    + "\n\n"
    + "Exit codes: 0 done, 1 internal error, 2 usage, 3 bad model or data, 4 fidelity floor not "
    "met, 5 budget not met, 6 backend missing.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from ... import __version__

        print(f"repsimc {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Make several neural networks fit on one edge device."""


@app.command(
    "compile",
    epilog=examples(
        "repsimc compile a.onnx b.onnx --budget 2GB",
        "repsimc compile a.onnx b.onnx --budget 60% --calib frames.npz -o bundle/",
        "repsimc compile a.onnx b.onnx --calib a=a.npz --calib b=images/ --same-frames",
        "repsimc compile a.onnx b.onnx --plan plan.json --dry-run --format json",
    ),
)
def compile_command(
    ctx: typer.Context,
    models: Models = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Memory the models may need together: 2GB, 512MiB, or 60% of the models apart. "
            "Without it: the most saving within the fidelity floor.",
        ),
    ] = None,
    calib: Annotated[
        list[str] | None,
        typer.Option(
            "--calib",
            metavar="[MODEL=]PATH",
            help="Frames without labels: .npz keyed by input name, .npy, a folder of them, or of "
            "images. One set feeds every model; MODEL=PATH gives each its own.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help=f"The bundle to write (default: {DEFAULT_OUTPUT}/)."),
    ] = None,
    min_fidelity: Annotated[
        float | None,
        typer.Option("--min-fidelity", help=f"Floor of every output (default: {DEFAULT_FLOOR})."),
    ] = None,
    exact_only: Annotated[
        bool | None,
        typer.Option("--exact-only", help="Only rewrites that move no output."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="share|depth",
            help="Only share between models, or only fold and take regions out (default: both).",
        ),
    ] = None,
    max_macs: Annotated[
        str | None,
        typer.Option(
            "--max-macs",
            help="Multiply-accumulates per frame beside --budget: 120M, or 60% of the models'.",
        ),
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(
            "--max-latency",
            help="Time for one frame through all models on one thread of this machine: 8ms.",
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Replay this plan.json (it may be edited).")
    ] = None,
    dry_run: Annotated[
        bool | None, typer.Option("--dry-run", help="Report and plan only, write nothing.")
    ] = None,
    seed: Seed = None,
    name: Names = None,
    same_frames: SameFrames = None,
    tie_inputs: Annotated[
        bool | None,
        typer.Option(
            "--tie-inputs/--separate-inputs",
            help="Whether one frame feeds the inputs of equal name, dtype and shape "
            "(default: tie).",
        ),
    ] = None,
    layout: LayoutOption = None,
    precision: PrecisionOption = None,
    frames: Frames = None,
    allow_script: AllowScript = False,
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Replace a bundle that is there.")
    ] = None,
    config: ConfigOption = None,
    format: FormatOption = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Merge models into one bundle that needs less memory and less compute than they do apart."""
    call = call_of(ctx).take(format, verbose, quiet)
    settings = load_config(config, Path.cwd())
    given = {
        "min-fidelity": min_fidelity,
        "exact-only": exact_only,
        "plan": plan,
        "only": only,
        "max-macs": None if max_macs is None else parse_macs(max_macs),
        "max-latency": None if max_latency is None else parse_seconds(max_latency),
        "dry-run": dry_run,
        "seed": seed,
        "output": output,
        "same-frames": same_frames,
        "tie-inputs": tie_inputs,
        "frames": frames,
        "layout": layout,
        "precision": precision,
        "overwrite": overwrite,
        "budget": None if budget is None else parse_budget(budget),
        "models": models or None,
        "name": names_of(name) if name else None,
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    call.take(format or settings.get("format"))
    options = compile_options(settings, calib or (), allow_script)
    if options.output is not None and not options.dry_run:
        _refuse_present(options.output, options.overwrite)
    from ..driver import compile_models
    from ..reports.table import report_grid

    progress = call.progress()
    try:
        result = compile_models(options, progress)
    finally:
        progress.done()
    written = result.bundle
    value = {"plan": result.plan.to_json(), "bundle": str(written) if written else None}
    call.show(result.report.to_json() | value, report_grid(result.report))
    call.say(f"bundle written to {_folder(written)}" if written else "dry run: nothing was written")


app.command(epilog=cli_inspect.INSPECT_EXAMPLES)(cli_inspect.inspect)
app.command(epilog=cli_depth.DEPTH_EXAMPLES)(cli_depth.depth)
app.command(epilog=cli_similarity.SIMILARITY_EXAMPLES)(cli_similarity.similarity)
app.command(epilog=cli_bundle.VERIFY_EXAMPLES)(cli_bundle.verify)
app.command(epilog=cli_bundle.RUN_EXAMPLES)(cli_bundle.run)
app.command(epilog=cli_bundle.BENCH_EXAMPLES)(cli_bundle.bench)
app.command(epilog=cli_build.BUILD_EXAMPLES)(cli_build.build)
app.command(epilog=cli_build.EXPORT_EXAMPLES)(cli_build.export)
app.command(epilog=cli_build.DOCTOR_EXAMPLES)(cli_build.doctor)
app.command(epilog=cli_inspect.PASSES_EXAMPLES)(cli_inspect.passes)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line (default: this process's); errors are told, not raised."""
    words = list(process_arguments[1:] if arguments is None else arguments) or ["--help"]

    def run(call: Call) -> object:
        return app(args=words, prog_name="repsimc", standalone_mode=False, obj=call)

    return guarded(run, words)


def _refuse_present(path: Path, overwrite: bool) -> None:
    # Told now, not after minutes of work; writing the bundle checks again.
    from ...runtime.manifest import MANIFEST
    from ..bundle.writing import check_output

    if not overwrite and (path / MANIFEST).is_file():
        raise UsageError(f"{path} exists", "replace it with --overwrite, or name another with -o")
    check_output(path.resolve(), overwrite)


def _folder(path: Path) -> str:
    return f"{path}/".replace("//", "/")
