"""The command that compares models' layers: similarity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..naming import model_names, paths_per_model
from .config import load_config, preprocessings
from .console import call_of
from .options import (
    AllowScript,
    ConfigOption,
    FormatOption,
    Frames,
    Models,
    Names,
    Quiet,
    SameFrames,
    Seed,
    Verbose,
    examples,
    names_of,
)

SIMILARITY_EXAMPLES = examples(
    "repsimc similarity a.onnx b.onnx --calib frames.npz",
    "repsimc similarity a.onnx b.onnx --calib images/ --measure cka,r2 -o similarity/",
    "repsimc similarity a.onnx --calib frames.npz --measure cosine --format json",
    "repsimc similarity a.onnx b.onnx --within a --calib frames.npz --sketch",
)


def similarity(
    ctx: typer.Context,
    models: Models = None,
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
    seed: Seed = None,
    name: Names = None,
    same_frames: SameFrames = None,
    frames: Frames = None,
    allow_script: AllowScript = False,
    config: ConfigOption = None,
    format: FormatOption = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure which layers of which models compute the same thing, on frames without labels."""
    call = call_of(ctx).take(format, verbose, quiet)
    settings = load_config(config, Path.cwd())
    call.take(format or settings.get("format"))
    from ..similarity.compare import DEFAULT_MEASURES
    from ..similarity.compare import similarity as analyse
    from ..similarity.files import check_folder, write_similarity
    from ..similarity.report import similarity_grid

    paths = models or settings.get("models", [])
    names = settings.get("name", {})
    if name:
        names = names_of(name)
    called = model_names(paths, names)
    if output is not None:
        # Told now, not after minutes of work.
        check_folder(output, overwrite)
    measures = [each.strip() for text in measure or () for each in text.split(",") if each.strip()]
    progress = call.progress()
    own = [each for each, _ in called]
    result = analyse(
        paths,
        paths_per_model(calib, "--calib", own) if calib else settings.get("calib"),
        measures=measures or DEFAULT_MEASURES,
        within=within or (),
        names=names,
        frames=settings.get("frames") if frames is None else frames,
        seed=settings.get("seed", 0) if seed is None else seed,
        sketch=sketch,
        sites=output is not None and len(called) > 1,
        cache=cache,
        preprocessing=preprocessings(settings, own),
        same_frames=same_frames or settings.get("same-frames", False),
        allow_script=allow_script,
        progress=progress,
    )
    for warning in result.warnings:
        call.warn(warning)
    if output is not None:
        write_similarity(result, output, dict(called), overwrite)
    call.show(result.to_json(), similarity_grid(result))
    if output is not None:
        call.say(f"written to {output}/".replace("//", "/"))
