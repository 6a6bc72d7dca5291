"""The command line: options to values, values to tables or JSON.

Heavy modules are imported inside the commands, so that `repsimc --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from sys import argv as process_arguments
from typing import Annotated

import typer

from .config import compile_options, load_config, preprocessings
from .console import Call, call_of, error_json, guarded, tell_error
from .errors import UsageError
from .options import (
    DEFAULT_FLOOR,
    DEFAULT_OUTPUT,
    Format,
    model_names,
    named,
    paths_per_model,
    per_model,
)
from .units import parse_budget

# -- options that several commands take ----------------------------------------------------

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


def _examples(*lines: str) -> str:
    # \b keeps the help formatter from joining the lines.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


app = typer.Typer(
    name="repsimc",
    help="Make several neural networks fit on one edge device.",
    epilog=_examples(
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
        from .. import __version__

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
    epilog=_examples(
        "repsimc compile a.onnx b.onnx --budget 2GB",
        "repsimc compile a.onnx b.onnx --budget 60% --calib frames.npz -o bundle/",
        "repsimc compile a.onnx b.onnx --calib a=a.npz --calib b=images/ --same-frames",
        "repsimc compile a.onnx b.onnx --plan plan.json --dry-run --format json",
    ),
)
def compile_command(
    ctx: typer.Context,
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODELS...", help="ONNX files.")
    ] = None,
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
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Replay this plan.json (it may be edited).")
    ] = None,
    dry_run: Annotated[
        bool | None, typer.Option("--dry-run", help="Report and plan only, write nothing.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Splits the frames (default: 0).")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="NAME=PATH", help="Call the model at PATH NAME."),
    ] = None,
    same_frames: Annotated[
        bool | None,
        typer.Option("--same-frames", help="Row k of every model's set is the same frame."),
    ] = None,
    tie_inputs: Annotated[
        bool | None,
        typer.Option(
            "--tie-inputs/--separate-inputs",
            help="Whether one frame feeds the inputs of equal name, dtype and shape "
            "(default: tie).",
        ),
    ] = None,
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
        "dry-run": dry_run,
        "seed": seed,
        "output": output,
        "same-frames": same_frames,
        "tie-inputs": tie_inputs,
        "frames": frames,
        "overwrite": overwrite,
        "budget": None if budget is None else parse_budget(budget),
        "models": models or None,
        "name": {key: Path(text) for key, text in named(name, "--name").items()} if name else None,
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    call.take(format or settings.get("format"))
    options = compile_options(settings, calib or (), allow_script)
    if options.output is not None and not options.dry_run:
        _refuse_present(options.output, options.overwrite)
    from .driver import compile_models
    from .reports.table import report_grid

    progress = call.progress()
    try:
        result = compile_models(options, progress)
    finally:
        progress.done()
    written = result.bundle
    value = {"plan": result.plan.to_json(), "bundle": str(written) if written else None}
    call.show(result.report.to_json() | value, report_grid(result.report))
    call.say(f"bundle written to {_folder(written)}" if written else "dry run: nothing was written")


@app.command(
    epilog=_examples(
        "repsimc inspect a.onnx",
        "repsimc inspect a.onnx --text | less",
        "repsimc inspect bundle/ --format json",
    )
)
def inspect(
    ctx: typer.Context,
    what: Annotated[Path, typer.Argument(metavar="MODEL|BUNDLE", help="A .onnx file or a bundle.")],
    text: Annotated[
        bool, typer.Option("--text", help="Print the program as text instead.")
    ] = False,
    format: FormatOption = None,
    verbose: Verbose = False,
) -> None:
    """Tell what a model or a bundle is made of, where it can be cut, and what is shared."""
    call = call_of(ctx).take(format, verbose)
    from ..runtime.session import load
    from .frontends.onnx import read_model
    from .reports import inspection
    from .reports.table import report_grid

    bundle = load(what) if what.is_dir() else None
    if text or bundle is None:
        path = what if bundle is None else what / bundle.manifest.graph
        ((name, _),) = model_names([path])
        program = read_model(path, name)
        if text:
            from .graph.text import text as program_text

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


@app.command(
    epilog=_examples(
        "repsimc verify bundle/ --data frames.npz",
        "repsimc verify bundle/ --data labelled.npz --labels a=digit --labels b=parity",
        "repsimc verify bundle/ --data a=a.npz --data b=images/ --originals models/",
    )
)
def verify(
    ctx: typer.Context,
    bundle: BundleArgument,
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="[MODEL=]PATH", help="Frames, as for compile --calib."),
    ],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels",
            metavar="[MODEL=]NAME",
            help="The array of class indices in the data: adds accuracy, before and after.",
        ),
    ] = None,
    originals: Originals = None,
    same_frames: Annotated[
        bool,
        typer.Option("--same-frames", help="Row k of every model's set is the same frame."),
    ] = False,
    frames: Frames = None,
    allow_script: AllowScript = False,
    config: ConfigOption = None,
    format: FormatOption = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compare every output of a bundle with the original's; exit 4 below the recorded floor."""
    call = call_of(ctx).take(format, verbose, quiet)
    settings = load_config(config, Path.cwd())
    from ..runtime.session import load
    from .reports.measurements import missed_floor, verification_grid, verification_json
    from .verification import verify_bundle

    opened = load(bundle)
    names = list(opened.models)
    progress = call.progress()
    try:
        found = verify_bundle(
            opened,
            paths_per_model(data, "--data", names),
            labels=None if labels is None else per_model(labels, "--labels", names),
            originals=originals,
            preprocessing=preprocessings(settings, names),
            metrics=settings.get("metrics", {}),
            same_frames=same_frames or settings.get("same-frames", False),
            allow_script=allow_script,
            frames=frames,
            progress=progress,
        )
    finally:
        progress.done()
    value = verification_json(found)
    error = missed_floor(found)
    if error is not None:
        value |= {"error": error_json(error)}
    call.show(value, verification_grid(found))
    if error is not None:
        # The result on stdout holds the error already: one JSON document per call.
        tell_error(error)
        raise typer.Exit(error.exit_code)


@app.command(
    epilog=_examples(
        "repsimc run bundle/ --model a --input frame.npy",
        "repsimc run bundle/ --input a=frame.npy --input b=other.npy -o outputs.npz",
    )
)
def run(
    ctx: typer.Context,
    bundle: BundleArgument,
    input: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="[NAME=]FILE",
            help="A .npy, or a .npz keyed by input name. NAME is an input or a model.",
        ),
    ],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Run this model only (repeatable).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write all outputs to this .npz.")
    ] = None,
    threads: Threads = None,
    format: FormatOption = None,
    verbose: Verbose = False,
) -> None:
    """Run one frame through a bundle's models and print what comes out."""
    call = call_of(ctx).take(format, verbose)
    from .reports.outputs import outputs_grid, outputs_json
    from .running import run_files, write_outputs

    found = run_files(bundle, input, model, threads)
    if output is not None:
        write_outputs(output, found)

    call.show(outputs_json(found), outputs_grid(found))
    if output is not None:
        call.say(f"outputs written to {output}")


@app.command(
    epilog=_examples("repsimc bench bundle/", "repsimc bench bundle/ --threads 1 --format json")
)
def bench(
    ctx: typer.Context,
    bundle: BundleArgument,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs.")] = 100,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Runs before those.")] = 10,
    threads: Threads = None,
    originals: Originals = None,
    format: FormatOption = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency and memory in fresh processes, the merged graph beside the models apart."""
    call = call_of(ctx).take(format, verbose, quiet)
    from ..runtime.bench import bench as measure
    from ..runtime.session import load
    from .reports.measurements import bench_grid
    from .verification import original_path

    opened = load(bundle)
    paths = (
        {e.name: original_path(opened, e, originals) for e in opened.manifest.models}
        if originals is not None
        else None
    )
    progress = call.progress()
    progress.stage("measuring in fresh processes", None)
    try:
        result = measure(opened, runs=runs, warmup=warmup, threads=threads, originals=paths)
    finally:
        progress.done()
    call.show(result.to_json(), bench_grid(result))


@app.command(epilog=_examples("repsimc passes", "repsimc passes --format json"))
def passes(ctx: typer.Context, format: FormatOption = None) -> None:
    """List the rewrites that a compilation is made of, in their order."""
    call = call_of(ctx).take(format)
    from ..passes.pipeline import EXACT
    from ..passes.refit import Refit
    from ..passes.share_prefix import SharePrefix
    from .reports.table import Column, Grid

    kinds = (*(type(step) for step in EXACT), SharePrefix, Refit)
    rows = [
        (kind.name, kind.exact, " ".join((kind.__doc__ or "").split("\n\n")[0].split()))
        for kind in kinds
    ]
    call.show(
        {
            "schema": "repsimc.passes/1",
            "passes": [{"name": name, "exact": exact, "what": what} for name, exact, what in rows],
        },
        Grid(
            "",
            (Column("pass"), Column("outputs"), Column("what it does")),
            tuple((name, "exact" if exact else "measured", what) for name, exact, what in rows),
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line (default: this process's); errors are told, not raised."""
    words = list(process_arguments[1:] if arguments is None else arguments) or ["--help"]

    def run(call: Call) -> object:
        return app(args=words, prog_name="repsimc", standalone_mode=False, obj=call)

    return guarded(run, words)


def _refuse_present(path: Path, overwrite: bool) -> None:
    # Told now, not after minutes of work; writing the bundle checks again.
    from ..runtime.manifest import MANIFEST
    from .backends.bundle import check_output

    if not overwrite and (path / MANIFEST).is_file():
        raise UsageError(f"{path} exists", "replace it with --overwrite, or name another with -o")
    check_output(path.resolve(), overwrite)


def _folder(path: Path) -> str:
    return f"{path}/".replace("//", "/")
