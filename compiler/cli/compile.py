"""The command that merges models: compile."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..planning.deadline import Deadline
from .command import with_settings
from .config import compile_options
from .console import Call
from .options import CommandSettings, examples

COMPILE_EXAMPLES = examples(
    "repsimc compile a.onnx b.onnx --budget 2GB",
    "repsimc compile a.onnx b.onnx --budget 60% --calib frames.npz -o bundle/",
    "repsimc compile a.onnx b.onnx --calib a=a.npz --calib b=images/ --same-frames",
    "repsimc compile a.onnx --calib frames.npz --precision int8 -o bundle/",
    "repsimc compile a.onnx b.onnx --plan plan.json --dry-run --format json",
)


@with_settings(
    *("models", "budget", "calib", "output", "min_fidelity", "confidence", "strict"),
    *("min_stressed", "exact_only", "only", "without"),
    *("max_macs", "max_latency", "plan", "time_limit", "resume", "dry_run", "seed", "name"),
    *("same_frames", "tie_inputs", "tie", "frame_axis", "size"),
    *("layout", "precision", "target", "frames", "allow_script", "overwrite", "parse_memory"),
    "parse_seconds",
)
def compile(call: Call, settings: CommandSettings) -> None:
    """Merge models into one bundle that needs less memory and less compute than they do apart."""
    options = compile_options(settings)
    deadline = Deadline(options.time_limit)  # before heavy imports, which count
    if options.only is not None or options.without:
        from ..actions.kinds import chosen

        chosen(options.only, options.without)  # told now, not after models were read
    if options.output is not None and not options.dry_run:
        _refuse_present(options.output, options.overwrite)
    from ..isolation.process import start

    start()  # its imports go on beside ours
    from ..driver import compile_models
    from ..reports.precision import precision_grid
    from ..reports.rewrites import rewrites_grid
    from ..reports.table import fidelity_grid, report_grid

    with call.progress() as progress:
        result = compile_models(options, progress, deadline=deadline)
    written = result.bundle
    value = {"plan": result.plan.to_json(), "bundle": str(written) if written else None}
    told = result.report
    grids = [f(told) for f in (report_grid, precision_grid, rewrites_grid, fidelity_grid)]
    call.show(told.to_json() | value, *(grid for grid in grids if grid is not None))
    where = f"{written}/".replace("//", "/")
    call.say(f"bundle written to {where}" if written else "dry run: nothing was written")


def _refuse_present(path: Path, overwrite: bool) -> None:
    # Told now, not after minutes of work; writing the bundle checks again.
    from ...runtime.manifest import MANIFEST
    from ..bundle.writing import check_output

    if not overwrite and (path / MANIFEST).is_file():
        raise UsageError(f"{path} exists", "replace it with --overwrite, or name another with -o")
    check_output(path.resolve(), overwrite)
