"""Commands around a device: build engines, export for other tools, say what is there."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..units import parse_bytes
from .console import call_of
from .options import (
    BundleArgument,
    EnginePrecision,
    FormatOption,
    LayoutOption,
    PluginOption,
    Quiet,
    Verbose,
    examples,
)

BUILD_EXAMPLES = examples(
    "repsimc build bundle/ --backend tensorrt --precision fp16     # on the device",
    "repsimc build bundle/ --backend tensorrt --batch 1:4:8 --workspace 512MiB",
    "repsimc build bundle/ --backend tensorrt-rtx                  # anywhere, no GPU needed",
)


class BuildBackend(str, Enum):  # noqa: UP042 (StrEnum is of Python 3.11; JetPack 6 has 3.10)
    """What builds engines."""

    tensorrt = "tensorrt"
    rtx = "tensorrt-rtx"


BatchOption = Annotated[
    str | None,
    typer.Option(
        "--batch",
        metavar="N|LEAST:USUAL:MOST",
        help="Batch of inputs whose first axis is free (default: 1).",
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="INPUT=1x3x224x224",
        help="Sizes of an input's other free axes, where the bundle's frames do not tell them.",
    ),
]


def build(
    ctx: typer.Context,
    bundle: BundleArgument,
    backend: Annotated[
        BuildBackend,
        typer.Option(
            "--backend",
            help="tensorrt builds engines for this device; tensorrt-rtx only checks that the "
            "bundle compiles, and needs no GPU.",
        ),
    ] = BuildBackend.tensorrt,
    precision: EnginePrecision = None,
    layout: LayoutOption = None,
    workspace: Annotated[
        str | None,
        typer.Option(
            "--workspace",
            metavar="SIZE",
            help="Scratch memory TensorRT may use: 1GB, 512MiB (default: 1 GiB, or a quarter of "
            "what is free).",
        ),
    ] = None,
    batch: BatchOption = None,
    shape: ShapeOption = None,
    plugin: PluginOption = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0,
            help="How far an output may be from its reference, by the largest value of that "
            "reference (default: 0.005 in fp32, 0.05 in fp16, 0.1 in int8).",
        ),
    ] = None,
    format: FormatOption = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Build a bundle's TensorRT engines on the device that will run them."""
    call = call_of(ctx).take(format, verbose, quiet)
    from ...runtime.tensorrt.building import BuildOptions
    from ...runtime.tensorrt.building import build as build_engines
    from ...runtime.tensorrt.shapes import parse_batch, parse_shape
    from ..reports.engines import build_grid, check_grid, gate_grid

    options = BuildOptions(
        layout=layout,
        precision=precision,
        workspace_nbytes=None if workspace is None else parse_bytes(workspace),
        batch=None if batch is None else parse_batch(batch),
        shapes=dict(parse_shape(text) for text in shape or ()),
        tolerance=tolerance,
        plugins=tuple(plugin or ()),
    )
    if backend is BuildBackend.rtx:
        from ...runtime.tensorrt.gate import run_gate

        with call.progress() as progress:
            passed = run_gate(bundle, options, progress)
        call.show(passed.to_json(), gate_grid(passed))
        return
    with call.progress() as progress:
        found = build_engines(bundle, options, progress)
    value = {"folder": str(found.folder), "built": found.built, **found.record.to_json()}
    call.show(value, build_grid(found.record), check_grid(found.record))
    for note in found.record.notes:
        call.warn(note)
    call.say(
        f"engines written to {found.folder}/"
        if found.built
        else f"nothing to do: the engines in {found.folder}/ are up to date"
    )


EXPORT_EXAMPLES = examples(
    "repsimc export bundle/ --triton models/",
    "repsimc export bundle/ --deepstream deepstream/ --layout trunk-heads",
    "repsimc export bundle/ --trtexec",
)


def export(
    ctx: typer.Context,
    bundle: BundleArgument,
    triton: Annotated[
        Path | None, typer.Option("--triton", help="Write a Triton model repository there.")
    ] = None,
    deepstream: Annotated[
        Path | None, typer.Option("--deepstream", help="Write DeepStream nvinfer configs there.")
    ] = None,
    trtexec: Annotated[
        bool, typer.Option("--trtexec", help="Print the trtexec commands that build the engines.")
    ] = False,
    layout: LayoutOption = None,
    precision: EnginePrecision = None,
    batch: BatchOption = None,
    shape: ShapeOption = None,
    format: FormatOption = None,
    verbose: Verbose = False,
) -> None:
    """Write a bundle for those who bring their own build step: Triton, DeepStream, trtexec."""
    call = call_of(ctx).take(format, verbose)
    from ...runtime.tensorrt.building import BuildOptions
    from ...runtime.tensorrt.shapes import parse_batch, parse_shape
    from ..bundle.other_builders import export_deepstream, export_triton, trtexec_commands

    asked = [triton is not None, deepstream is not None, trtexec]
    if sum(asked) != 1:
        raise UsageError("say one thing to export", "--triton DIR, --deepstream DIR or --trtexec")
    options = BuildOptions(
        layout=layout,
        precision=precision,
        batch=None if batch is None else parse_batch(batch),
        shapes=dict(parse_shape(text) for text in shape or ()),
    )
    if trtexec:
        lines = trtexec_commands(bundle, options)
        call.show({"schema": "repsimc.trtexec/1", "commands": lines})
        for line in lines:
            call.say(line)
        return
    if triton is not None:
        written = export_triton(bundle, triton, options)
    else:
        assert deepstream is not None
        written = export_deepstream(bundle, deepstream, options)
    call.show({"schema": "repsimc.export/1", "files": [str(path) for path in written]})
    for path in written:
        call.say(str(path))


DOCTOR_EXAMPLES = examples("repsimc doctor", "repsimc doctor --format json")


def doctor(ctx: typer.Context, format: FormatOption = None, verbose: Verbose = False) -> None:
    """Say what is installed, which device this is, and what would work here."""
    call = call_of(ctx).take(format, verbose)
    from .doctor import diagnose, doctor_grid

    found = diagnose()
    call.show(found.to_json(), *doctor_grid(found))
