"""The case of a compilation: the models as read, the same made one, and the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..passes.pipeline import run_exact
from .execution.feeds import input_specs
from .execution.first_frame import run_first_frame
from .execution.measured_sizes import bind_to_frames, bind_to_shapes, take_sizes
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
        apart.append(read_model(path, name, options.parse_limits))
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
    _bind(original, frames, options)
    for one in apart:
        take_sizes(one, original)
    progress.stage("sharing what is equal", None)
    program = original.copy()
    run_exact(program)
    _bind(program, frames, options)
    return Case(options, tuple(apart), original, program, frames, tied)


def frames_of(options: CompileOptions, apart: Sequence[Program]) -> Frames | None:
    """The frames that the options give for the models, None without any. Raises DataError."""
    if options.calibration is None:
        return None
    frames = load_frames(
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
    run_first_frame(apart, frames, options.parse_limits)
    return frames


def _bind(program: Program, frames: Frames | None, options: CompileOptions) -> None:
    """Gives free dimensions the sizes of the frames, or those that the user says."""
    if frames is not None:
        # Sizes that the frames do not have matter where approximate sharing goes by sizes.
        bind_to_frames(program, frames, others=not options.exact_only)
    if options.size:
        bind_to_shapes(program, options.size)


def _specs(apart: Sequence[Program], options: CompileOptions) -> dict[str, tuple[InputSpec, ...]]:
    found = {name: input_specs(program) for program in apart for name in program.models}
    return with_axes(found, options.frame_axis)
