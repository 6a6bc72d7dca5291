"""The command that compares models' layers: similarity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..isolation.allowance import ParseLimits
from ..naming import model_names
from .command import with_settings
from .config import calibration, preprocessings
from .console import Call
from .options import CommandSettings, examples

SIMILARITY_EXAMPLES = examples(
    "repsimc similarity a.onnx b.onnx --calib frames.npz",
    "repsimc similarity a.onnx b.onnx --calib images/ --measure cka,r2 -o similarity/",
    "repsimc similarity a.onnx --calib frames.npz --measure cosine --format json",
    "repsimc similarity a.onnx b.onnx --within a --calib frames.npz --sketch",
)


@with_settings(
    *("models", "seed", "name", "same_frames", "frames", "frame_axis", "allow_script"),
    *("parse_memory", "parse_seconds"),
)
def similarity(
    call: Call,
    settings: CommandSettings,
    calib: Annotated[
        list[str] | None,
        typer.Option("--calib", metavar="[MODEL=]PATH", help="Frames, as for compile --calib."),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="NAME,...",
            help="cka (default), cka-minibatch, cka-maps, rsa, r2, svcca, pwcca, procrustes, "
            "cosine, swap, wasserstein. The first ranks the matches.",
        ),
    ] = None,
    within: Annotated[
        list[str] | None,
        typer.Option("--within", metavar="MODEL", help="Compare its own layers, too."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write JSON, matrices, heatmaps and annotated models here."
        ),
    ] = None,
    sketch: Annotated[
        bool,
        typer.Option("--sketch", help="Bounded memory for large models, at a stated error."),
    ] = False,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Keep what was computed for the next call."),
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an analysis that is there.")
    ] = False,
) -> None:
    """Measure which layers of which models compute the same thing, on frames without labels."""
    from ..isolation.process import start

    start()  # its imports go on beside ours
    from ..similarity.compare import DEFAULT_MEASURES
    from ..similarity.compare import similarity as analyse
    from ..similarity.files import check_folder, write_similarity
    from ..similarity.report import similarity_grid

    if calib:
        settings = replace(settings, calib=tuple(calib))
    called = model_names(settings.models, settings.name)
    if output is not None:
        # Told now, not after minutes of work.
        check_folder(output, overwrite)
    measures = [each.strip() for text in measure or () for each in text.split(",") if each.strip()]
    own = [each for each, _ in called]
    with call.progress() as progress:
        result = analyse(
            settings.models,
            calibration(settings, own),
            measures=measures or DEFAULT_MEASURES,
            within=within or (),
            names=settings.name,
            frames=settings.frames,
            seed=settings.seed,
            sketch=sketch,
            sites=output is not None and len(called) > 1,
            cache=cache,
            preprocessing=preprocessings(settings, own),
            same_frames=settings.same_frames,
            allow_script=settings.allow_script,
            parse_limits=ParseLimits(settings.parse_memory, settings.parse_seconds),
            frame_axis=settings.frame_axis,
            progress=progress,
        )
    for warning in result.warnings:
        call.warn(warning)
    if output is not None:
        write_similarity(result, output, dict(called), overwrite)
    call.show(result.to_json(), similarity_grid(result))
    if output is not None:
        call.say(f"written to {output}/".replace("//", "/"))
