"""The command that shows the whole trade-off of a set of models: explore."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..naming import paths_per_model, per_model
from .command import with_settings
from .config import compile_options
from .console import Call
from .options import CommandSettings, examples

EXPLORE_EXAMPLES = examples(
    "repsimc explore a.onnx b.onnx --calib frames.npz",
    "repsimc explore a.onnx b.onnx --calib frames.npz --points 20 --measure 6 -o explore/",
    "repsimc explore a.onnx b.onnx --calib frames.npz --precision auto -o explore/",
    "repsimc explore a.onnx b.onnx --calib frames.npz --data labelled.npz --labels a=digit -o e/",
    "repsimc compile a.onnx b.onnx --calib frames.npz --plan explore/plans/003.json",
)
_TAKEN = (
    *("models", "calib", "min_fidelity", "confidence", "only", "without", "precision"),
    *("seed", "name", "same_frames", "tie_inputs", "tie", "frame_axis", "frames", "allow_script"),
    *("parse_memory", "parse_seconds"),
)
# What only a file says. What else it sets, budgets and outputs, is of compilations.
_OF_FILES = ("preprocess", "metrics", "output_fidelity", "held_out")


@with_settings(*_TAKEN)
def explore(
    call: Call,
    settings: CommandSettings,
    points: Annotated[
        int, typer.Option("--points", help="Plans on the front, at most, the exact one included.")
    ] = 12,
    measure: Annotated[
        int | None,
        typer.Option(
            "--measure",
            help="Fit and measure so many of them beside the exact one (default: 4); the rest is "
            "predicted.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[MODEL=]PATH",
            help="Labelled frames to measure accuracy on, as for verify --data.",
        ),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels", metavar="[MODEL=]NAME", help="The array in --data with class indices."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write explore.json, explore.png, index.html and plans/ here."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an exploration that is there.")
    ] = False,
) -> None:
    """Show what a set of models can save and what that costs: plans, of which none is beaten."""
    if (not data) != (not labels):
        raise UsageError(
            "--data and --labels go together", "give the labelled frames and the array's name"
        )
    told = {name: getattr(settings, name) for name in (*_TAKEN, *_OF_FILES)}
    options = replace(compile_options(CommandSettings(**told)), output=output, overwrite=overwrite)
    from ..isolation.process import start

    start()  # its imports go on beside ours
    from ..explore.accuracy import Labelled
    from ..explore.exploration import ExploreOptions, explore_models
    from ..explore.report import explore_grid

    names = [name for name, _ in options.models]
    labelled = None
    if data and labels:
        labelled = Labelled(
            paths_per_model(data, "--data", names), per_model(labels, "--labels", names)
        )
    asked = ExploreOptions(points, measure, labelled, call.config)
    with call.progress() as progress:
        found = explore_models(options, asked, progress)
    call.show(found.to_json(), explore_grid(found))
    if output is not None:
        where = f"{output}/".replace("//", "/")
        call.say(f"front written to {where}, to look at: {where}index.html")
