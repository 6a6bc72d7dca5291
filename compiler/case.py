"""The case of a compilation: the models as read, the same made one, and the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..passes.pipeline import run_exact
from .execution.feeds import input_specs
from .frames.calibration import FrameOptions, Frames, InputRef, load_frames
from .frontends.join import join
from .frontends.read import read_model
from .graph.opaque import NonTensorValue
from .graph.program import Program
from .options import CompileOptions
from .progress import Progress


@dataclass(frozen=True)
class Case:
    """What a compilation starts from, read once and never changed.

    `apart` are the models as programs of their own, `original` the same in one program (`tied`
    inputs are one), `program` that after the exact passes. Without `frames` only exact rewrites can
    be made and nothing is compared.
    """

    options: CompileOptions
    apart: tuple[Program, ...]
    original: Program
    program: Program
    frames: Frames | None
    tied: tuple[tuple[InputRef, ...], ...] = ()


def read_models(options: CompileOptions, progress: Progress) -> list[Program]:
    """The models that the options name, each a program of its own. Raises ModelError."""
    progress.stage("reading models", len(options.models))
    apart: list[Program] = []
    for name, path in options.models:
        apart.append(read_model(path, name))
        progress.advance()
    return apart


def case_of(apart: Sequence[Program], options: CompileOptions, progress: Progress) -> Case:
    """The case of these models and the options' frames. Raises DataError, UsageError."""
    frames = frames_of(options, apart)
    tied = _tied(options, apart, frames)
    original = join(list(apart), tied)
    progress.stage("sharing what is equal", None)
    program = original.copy()
    run_exact(program)
    return Case(options, tuple(apart), original, program, frames, tuple(map(tuple, tied)))


def frames_of(options: CompileOptions, apart: Sequence[Program]) -> Frames | None:
    """The frames that the options give for the models, None without any. Raises DataError."""
    if options.calibration is None:
        return None
    return load_frames(
        options.calibration,
        {name: input_specs(program) for program in apart for name in program.models},
        FrameOptions(
            options.preprocessing,
            same_frames=options.same_frames,
            allow_script=options.allow_script,
            seed=options.seed,
            limit=options.frames,
            held_out=options.held_out,
        ),
    )


def _tied(
    options: CompileOptions, apart: Sequence[Program], frames: Frames | None
) -> list[list[InputRef]]:
    """Which inputs one frame feeds: as the frames say, else those of equal name, dtype, shape."""
    if not options.tie_inputs:
        return []
    if frames is not None:
        return frames.tied_groups()
    alike: dict[object, list[InputRef]] = {}
    for program in apart:
        (model,) = program.models.values()
        values = program.values()
        for own, value in model.inputs.items():
            if isinstance(values[value], NonTensorValue):
                continue  # sequences and maps of equal name say too little of what they hold
            shape = tuple(
                size if isinstance(size, int) else None for size in values[value].shape or ()
            )
            alike.setdefault((own, str(values[value].dtype), shape), []).append((model.name, own))
    return [group for group in alike.values() if len(group) > 1]
