"""The case of a compilation: the models as read, the same made one, and the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..passes.pipeline import run_exact
from .execution.feeds import input_specs
from .frames.axes import with_axes
from .frames.calibration import FrameOptions, Frames, InputSpec, load_frames
from .frames.tying import Tying, tying
from .frontends.join import join
from .frontends.read import read_model
from .graph.program import Program
from .options import CompileOptions
from .progress import Progress


@dataclass(frozen=True)
class Case:
    """What a compilation starts from, read once and never changed.

    `apart` are the models as programs of their own, `original` the same in one program, in which
    the inputs of `tying` are one, `program` that after the exact passes. Without `frames` only
    exact rewrites can be made and nothing is compared.
    """

    options: CompileOptions
    apart: tuple[Program, ...]
    original: Program
    program: Program
    frames: Frames | None
    tying: Tying = field(default_factory=Tying)


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
    tied = tying(
        _specs(apart, options) if frames is None else frames.inputs,
        frames,
        options.tie,
        options.tie_inputs,
    )
    if frames is not None:
        frames = tied.joined(frames)
    original = join(list(apart), tied.groups)
    progress.stage("sharing what is equal", None)
    program = original.copy()
    run_exact(program)
    return Case(options, tuple(apart), original, program, frames, tied)


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
            axes=options.frame_axis,
        ),
    )


def _specs(apart: Sequence[Program], options: CompileOptions) -> dict[str, tuple[InputSpec, ...]]:
    found = {name: input_specs(program) for program in apart for name in program.models}
    return with_axes(found, options.frame_axis)
