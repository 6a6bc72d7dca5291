"""The command that makes one model shallower: depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .command import with_settings
from .config import compile_options
from .console import Call
from .options import CommandSettings, examples

DEPTH_EXAMPLES = examples(
    "repsimc depth model.onnx --calib frames/",
    "repsimc depth model.onnx --calib frames.npz --data labelled.npz --labels label",
    "repsimc depth model.onnx --calib frames.npz --pick 5 -o depth/",
    "repsimc depth model.onnx --calib frames.npz --min-fidelity 0.97 -o depth/",
)


@with_settings(
    *("seed", "name", "frames", "frame_axis", "allow_script", "parse_memory", "parse_seconds")
)
def depth(
    call: Call,
    settings: CommandSettings,
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="An ONNX file.")] = None,
    calib: Annotated[
        list[str] | None,
        typer.Option("--calib", metavar="PATH", help="Frames, as for compile --calib."),
    ] = None,
    pick: Annotated[
        int | None, typer.Option("--pick", help="Compile the model with this many regions out.")
    ] = None,
    min_fidelity: Annotated[
        float | None,
        typer.Option(
            "--min-fidelity", help="Compile it with the most regions out that keep this fidelity."
        ),
    ] = None,
    most: Annotated[
        int | None, typer.Option("--most", help="End the curve after this many regions.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Labelled frames to measure accuracy on.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="The array in --data with class indices.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write depth.json, depth.png, plan.json and the bundle here."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a curve that is there.")
    ] = False,
) -> None:
    """Measure how a model's depth trades against its fidelity, and compile a point of the curve."""
    if (data is None) != (labels is None):
        raise UsageError(
            "--data and --labels go together", "give the labelled frames and the array's name"
        )
    if pick is not None and min_fidelity is not None:
        raise UsageError("--pick and --min-fidelity are two ways to choose", "give one of them")
    if output is None and (pick is not None or min_fidelity is not None):
        output = Path("depth")
    # What else a file sets is of whole compilations.
    told = CommandSettings(
        models=settings.models if model is None else (model,),
        name=settings.name,
        calib=tuple(calib) if calib else settings.calib,
        preprocess=settings.preprocess,
        metrics=settings.metrics,
        seed=settings.seed,
        frames=settings.frames,
        held_out=settings.held_out,
        frame_axis=settings.frame_axis,
        allow_script=settings.allow_script,
        parse_memory=settings.parse_memory,
        parse_seconds=settings.parse_seconds,
    )
    options = replace(compile_options(told), output=output)
    from ..isolation.process import start

    start()  # its imports go on beside ours
    from ..depth.curve import BUNDLE
    from ..depth.curve import depth as measure
    from ..depth.report import depth_grid
    from ..explore.accuracy import Labelled
    from ..reports.rewrites import rewrites_grid
    from ..reports.table import fidelity_grid, report_grid

    judged = None if data is None or labels is None else Labelled(data, labels)
    with call.progress() as progress:
        result = measure(
            options,
            labelled=judged,
            pick=pick,
            keep=min_fidelity,
            most=most,
            overwrite=overwrite,
            progress=progress,
        )
    value = {**result.curve.to_json(), "picked": result.picked}
    grids = [depth_grid(result.curve, result.picked)]
    if result.compiled is not None:
        value["compiled"] = result.compiled.report.to_json()
        report = result.compiled.report
        grids += [
            grid
            for grid in (report_grid(report), rewrites_grid(report), fidelity_grid(report))
            if grid is not None
        ]
    call.show(value, *grids)
    if output is not None:
        where = f"{output}/".replace("//", "/")
        bundle = f", the bundle to {where}{BUNDLE}/" if result.compiled is not None else ""
        call.say(f"curve written to {where}{bundle}")
