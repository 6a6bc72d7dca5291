"""The command that merges models: compile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..options import CompileOptions
from ..planning.deadline import Deadline
from .command import with_settings
from .config import compile_options, config_file
from .console import Call
from .options import CommandSettings, examples

if TYPE_CHECKING:
    from ..bundle.compile_inputs import CompileInputs

COMPILE_EXAMPLES = examples(
    "repsimc compile a.onnx b.onnx --budget 2GB",
    "repsimc compile a.onnx b.onnx --budget 60% --calib frames.npz -o bundle/",
    "repsimc compile a.onnx b.onnx --calib a=a.npz --calib b=images/ --same-frames",
    "repsimc compile a.onnx --calib frames.npz --precision int8 -o bundle/",
    "repsimc compile a.onnx b.onnx --plan plan.json --dry-run --format json",
    "repsimc compile a.onnx b.onnx -o bundle/ --overwrite --depfile bundle.d    # in a build",
)


ForceOption = Annotated[
    bool, typer.Option("--force", help="Compile even where the bundle is up to date.")
]
DepfileOption = Annotated[
    Path | None,
    typer.Option(
        "--depfile",
        metavar="FILE",
        help="Write there what the bundle is made from, for Make and Ninja: models, their data "
        "files, frames, plan, options.",
    ),
]


@with_settings(
    *("models", "budget", "calib", "output", "min_fidelity", "confidence", "strict"),
    *("min_stressed", "exact_only", "only", "without"),
    *("max_macs", "max_latency", "plan", "time_limit", "resume", "dry_run", "seed", "name"),
    *("same_frames", "tie_inputs", "tie", "frame_axis", "size"),
    *("layout", "precision", "frames", "allow_script", "overwrite", "parse_memory"),
    "parse_seconds",
    judges=True,
)
def compile(
    call: Call,
    settings: CommandSettings,
    *,
    force: ForceOption = False,
    depfile: DepfileOption = None,
) -> None:
    """Merge models into one bundle that needs less memory and less compute than they do apart.

    Where nothing changed since the bundle was compiled, nothing is done.
    """
    options = compile_options(settings)
    deadline = Deadline(options.time_limit)  # before heavy imports, which count
    if options.only is not None or options.without:
        from ..actions.kinds import chosen

        chosen(options.only, options.without)  # told now, not after models were read
    inputs = None
    output = None if options.dry_run else options.output
    if output is not None:
        from ..bundle.compile_inputs import inputs_of

        inputs = inputs_of(options, config=config_file(call.config, Path()))
        options = _against(options, output, inputs, depfile)
        if not force and _nothing_to_do(call, options, output, inputs, depfile):
            return
        _refuse_present(output, options.overwrite)
    elif depfile is not None:
        raise UsageError("a dry run writes nothing", "leave out --depfile or --dry-run")
    from ..isolation.process import start

    start()  # its imports go on beside ours
    from ..driver import compile_models
    from ..reports.outcome import report_outcome
    from ..reports.precision import precision_grid
    from ..reports.rewrites import rewrites_grid
    from ..reports.table import fidelity_grid, report_grid

    with call.progress() as progress:
        result = compile_models(options, progress, deadline=deadline, inputs=inputs)
    written = result.bundle
    if depfile is not None and written is not None and inputs is not None:
        from ..bundle.depfile import write_depfile

        write_depfile(depfile, written, inputs)
    value = {
        "plan": result.plan.to_json(),
        "bundle": str(written) if written else None,
        "compiled": True,
    }
    told = result.report
    grids = [f(told) for f in (report_grid, precision_grid, rewrites_grid, fidelity_grid)]
    call.show(
        told.to_json() | value,
        *(grid for grid in grids if grid is not None),
        outcome=report_outcome(told),
    )
    call.say(f"bundle written to {_shown(written)}" if written else "dry run: nothing was written")


def _against(
    options: CompileOptions, output: Path, inputs: CompileInputs, depfile: Path | None
) -> CompileOptions:
    """The options, against what is there: a bundle from the same inputs may be replaced unasked.

    Raises UsageError for a depfile that can't be written.
    """
    if depfile is not None:
        from ..bundle.depfile import check_depfile

        check_depfile(depfile, output, inputs)
    from ..bundle.up_to_date import bundle_from

    return replace(options, overwrite=True) if bundle_from(output, inputs) else options


def _nothing_to_do(
    call: Call,
    options: CompileOptions,
    output: Path,
    inputs: CompileInputs,
    depfile: Path | None,
) -> bool:
    """Whether the bundle is there and whole, made from the same; told, where it is."""
    if options.resume and options.time_limit is not None:
        return False  # asked for more of the search than the last call had time for
    from ..bundle.up_to_date import bundle_from, confirm, is_whole

    manifest = bundle_from(output, inputs)
    if manifest is None or not is_whole(output, manifest):
        return False
    value = confirm(output, manifest, inputs)
    if depfile is not None:
        from ..bundle.depfile import write_depfile

        write_depfile(depfile, output, inputs)
    call.show(value | {"compiled": False})
    call.say(f"nothing to do: {_shown(output)} is up to date")
    return True


def _shown(folder: Path) -> str:
    return f"{folder}/".replace("//", "/")


def _refuse_present(path: Path, overwrite: bool) -> None:
    # Told now, not after minutes of work; writing the bundle checks again.
    from ...runtime.manifest import MANIFEST
    from ..bundle.writing import check_output

    if not overwrite and (path / MANIFEST).is_file():
        raise UsageError(f"{path} exists", "replace it with --overwrite, or name another with -o")
    check_output(path.resolve(), overwrite)
