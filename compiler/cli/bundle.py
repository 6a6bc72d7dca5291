"""Commands on bundles: verify, run, bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..naming import paths_per_model, per_model
from ..units import parse_sizes
from .config import load_config, preprocessings
from .console import Call, call_of, error_json, tell_error
from .options import (
    AllowScript,
    BundleArgument,
    ConfigOption,
    EnginePrecision,
    FormatOption,
    FrameAxis,
    Frames,
    LayoutOption,
    Originals,
    PluginOption,
    Quiet,
    SameFrames,
    Threads,
    Verbose,
    examples,
)

if TYPE_CHECKING:
    from ...runtime.tensorrt.building import BuildOptions

VERIFY_EXAMPLES = examples(
    "repsimc verify bundle/ --data frames.npz",
    "repsimc verify bundle/ --data labelled.npz --labels a=digit --labels b=parity",
    "repsimc verify bundle/ --data a=a.npz --data b=images/ --originals models/",
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
    same_frames: SameFrames = None,
    frames: Frames = None,
    frame_axis: FrameAxis = None,
    allow_script: AllowScript = False,
    config: ConfigOption = None,
    format: FormatOption = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compare every output of a bundle with the original's; exit 4 below the recorded floor."""
    call = call_of(ctx).take(format, verbose, quiet, judges=True)
    settings = load_config(config, Path.cwd())
    from ...runtime.session import load
    from ..bundle.verification import VerificationOptions, verify_bundle
    from ..frames.calibration import FrameOptions
    from ..reports.measurements import missed_floor, verification_grid, verification_json
    from ..reports.outcome import verification_outcome

    opened = load(bundle)
    names = list(opened.models)
    with call.progress() as progress:
        found = verify_bundle(
            opened,
            paths_per_model(data, "--data", names),
            VerificationOptions(
                originals,
                None if labels is None else per_model(labels, "--labels", names),
                settings.metrics,
                FrameOptions(
                    preprocessings(settings, names),
                    same_frames=same_frames or settings.same_frames,
                    allow_script=allow_script,
                    limit=frames,
                    axes=tuple(frame_axis or settings.frame_axis),
                ),
            ),
            progress,
        )
    value = verification_json(found)
    error = missed_floor(found)
    if error is not None:
        value |= {"error": error_json(error)}
    call.show(value, verification_grid(found), outcome=verification_outcome(found))
    if error is not None:
        # The result on stdout holds the error already: one JSON document per call.
        tell_error(error)
        raise typer.Exit(error.exit_code)


RUN_EXAMPLES = examples(
    "repsimc run bundle/ --model a --input frame.npy",
    "repsimc run bundle/ --input a=frame.npy --input b=other.npy -o outputs.npz",
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
    from ..bundle.run_files import run_files, write_outputs
    from ..reports.outputs import outputs_grid, outputs_json

    found = run_files(bundle, input, model, threads)
    if output is not None:
        write_outputs(output, found)

    call.show(outputs_json(found), outputs_grid(found))
    if output is not None:
        call.say(f"outputs written to {output}")


BENCH_EXAMPLES = examples(
    "repsimc bench bundle/",
    "repsimc bench bundle/ --threads 1 --format json",
    "repsimc bench bundle/ --size x=1x3x640x640",
    "repsimc bench bundle/ --backend tensorrt --precision fp16     # on the device",
)


def bench(
    ctx: typer.Context,
    bundle: BundleArgument,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs.")] = 100,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Runs before those.")] = 10,
    threads: Threads = None,
    originals: Originals = None,
    backend: Annotated[
        str,
        typer.Option("--backend", help="onnxruntime, or tensorrt on a device with engines."),
    ] = "onnxruntime",
    layout: LayoutOption = None,
    precision: EnginePrecision = None,
    plugin: PluginOption = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            metavar="[MODEL.]INPUT=1x3x224x224",
            help="What an input of free size is fed (default: as the bundle was compiled for).",
        ),
    ] = None,
    format: FormatOption = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency and memory in fresh processes, the merged graph beside the models apart."""
    # Engines on a device have no models of ours beside them to be judged by.
    call = call_of(ctx).take(format, verbose, quiet, judges=backend == "onnxruntime")
    if backend not in ("onnxruntime", "tensorrt"):
        raise UsageError(f"there is no backend '{backend}'", "there are onnxruntime, tensorrt")
    if backend == "tensorrt":
        if threads is not None:
            raise UsageError("TensorRT has no --threads", "leave it out")
        if size:
            raise UsageError(
                "engines are measured at the sizes that they were built for",
                "leave out --size, or build them with --shape",
            )
        from ...runtime.tensorrt.building import BuildOptions

        options = BuildOptions(layout, precision, plugins=tuple(plugin or ()))
        _bench_engines(call, bundle, options, runs, warmup, originals)
        return
    if layout is not None or precision is not None or plugin:
        raise UsageError(
            "--layout, --precision and --plugin are of engines",
            "add --backend tensorrt, on the device",
        )
    from ...runtime.bench import BenchOptions
    from ...runtime.bench import bench as measure
    from ...runtime.session import load
    from ..reports.measurements import bench_grid
    from ..reports.outcome import bench_outcome

    opened = load(bundle)
    paths = None
    if originals is not None:
        from ..bundle.verification import original_path

        paths = {e.name: original_path(opened, e, originals) for e in opened.manifest.models}
    with call.progress() as progress:
        progress.stage("measuring in fresh processes", None)
        result = measure(
            opened,
            BenchOptions(runs, warmup, threads=threads),
            paths,
            sizes=parse_sizes(size or []),
        )
    call.show(result.to_json(), bench_grid(result), outcome=bench_outcome(result))


def _bench_engines(
    call: Call,
    bundle: Path,
    options: BuildOptions,
    runs: int,
    warmup: int,
    originals: Path | None,
) -> None:
    from ...runtime.session import load
    from ...runtime.tensorrt.device_bench import device_bench
    from ..reports.engines import device_bench_grid

    entries = load(bundle).manifest.models
    paths = None if originals is None else {e.name: originals / e.source.file for e in entries}
    with call.progress() as progress:
        found = device_bench(bundle, options, progress, runs, warmup, paths)
    call.show(found.to_json(), device_bench_grid(found))
