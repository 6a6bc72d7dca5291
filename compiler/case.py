"""The case of a compilation: the models as read, the same made one, and the frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..passes.pipeline import EXACT, run_exact
from .errors import ModelError, UsageError
from .execution.agreement import NOISE, Exactness, Probe, frame_probes, tolerance_of
from .execution.feeds import input_specs
from .execution.fidelity import metric_for
from .execution.first_frame import run_first_frame
from .execution.given import GivenModels, Originals
from .execution.measured_sizes import bind_to_frames, bind_to_shapes, take_sizes
from .execution.synthetic import synthetic_probes
from .frames.axes import with_axes
from .frames.calibration import FrameOptions, Frames, InputSpec, load_frames
from .frames.tying import Tying, tying
from .frontends.check import foreign_domains
from .frontends.join import join
from .frontends.read import read_model
from .graph.program import Program
from .isolation.allowance import ParseLimits
from .options import CompileOptions
from .progress import Progress


@dataclass(frozen=True)
class Case:
    """What a compilation starts from, read once and never changed.

    `apart` are the models as programs of their own, `original` the same in one program, in which
    the inputs of `tying` are one, `program` that after the exact passes. Without `frames` only
    exact rewrites can be made. `given` are the users' files, which everything is compared with. On
    `probes` the program was found to be theirs, but for models that are `unverified` (and why).
    `left_out` names exact passes that were not run because the program did not stay the files'.
    """

    options: CompileOptions
    apart: tuple[Program, ...]
    original: Program
    program: Program
    frames: Frames | None
    given: Originals
    tying: Tying = field(default_factory=Tying)
    probes: tuple[Probe, ...] = ()
    unverified: Mapping[str, str] = field(default_factory=dict[str, str])
    left_out: tuple[str, ...] = ()

    @property
    def allowed(self) -> float:
        """What is taken for rounding of float outputs: the most of any output that was compared."""
        compared = {name for probe in self.probes for name in probe.expected}
        return max((tolerance_of(self.original, n).floats for n in compared), default=NOISE)


def read_models(options: CompileOptions, progress: Progress) -> list[Program]:
    """The models that the options name, each a program of its own. Raises ModelError."""
    progress.stage("reading models", len(options.models))
    apart: list[Program] = []
    for name, path in options.models:
        apart.append(read_model(path, name, options.parse_limits))
        progress.advance()
    for program in apart:
        _require_outputs(program, options)
    return apart


def _require_outputs(program: Program, options: CompileOptions) -> None:
    """Raises UsageError for a floor or metric that would go unheard: of no output, or unknown."""
    for metric in options.metrics.values():
        metric_for(None, metric)
    for table, keys in (("fidelity", options.output_fidelity), ("metrics", options.metrics)):
        for key in keys:
            name, _, output = key.partition("/")
            model = program.models.get(name)
            if model is not None and output and output not in model.outputs:
                raise UsageError(
                    f"[{table}] names '{key}', and model '{name}' has no output '{output}'",
                    f"its outputs are called {', '.join(model.outputs)}",
                )


def case_of(apart: Sequence[Program], options: CompileOptions, progress: Progress) -> Case:
    """The case of these models and the options' frames.

    Raises DataError, UsageError, and ModelError where what was read of a file does not compute what
    the file does.
    """
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
    progress.stage("running the files", None)
    given = GivenModels(original.models)
    unverified = {
        name: f"ONNX Runtime does not know its operators of domain {', '.join(sorted(domains))}"
        for program in apart
        for name in program.models
        if (domains := foreign_domains(program))
    }
    probes, unknown = _probes(original, frames, given, tuple(unverified), options.parse_limits)
    unverified |= unknown
    progress.stage("sharing what is equal", None)
    program, left_out = exact_program(original, probes, given)
    _bind(program, frames, options)
    return Case(
        options,
        tuple(apart),
        original,
        program,
        frames,
        given,
        tied,
        probes=tuple(probes),
        unverified=unverified,
        left_out=left_out,
    )


def exact_program(
    original: Program, probes: Sequence[Probe], given: Originals
) -> tuple[Program, tuple[str, ...]]:
    """The program after the exact passes, as it computes what the files do.

    Passes that move an output are left out: none, else the first that mends it alone, else all.
    Their names come with the program. Raises ModelError if the program as it was read differs from
    the files, too.
    """
    program = original.copy()
    run_exact(program)
    if Exactness(program, given).difference(probes) is None:
        return program, ()
    if wrong := Exactness(original, given).difference(probes):
        source = original.models[wrong.model].source.path
        raise ModelError(
            f"repsimc reads {source} wrongly: beside the file, as ONNX Runtime runs it, {wrong}",
            "this is a fault of repsimc, not of your model: please report it with the file",
        )
    names = tuple(dict.fromkeys(step.name for step in reversed(EXACT)))
    for name in names:
        program = original.copy()
        run_exact(program, without=(name,))
        if Exactness(program, given).difference(probes) is None:
            return program, (name,)
    return original.copy(), names


def _probes(
    original: Program,
    frames: Frames | None,
    given: GivenModels,
    foreign: Sequence[str],
    limits: ParseLimits,
) -> tuple[list[Probe], dict[str, str]]:
    if frames is not None:
        if foreign:
            raise ModelError(
                f"model '{foreign[0]}' has operators that ONNX Runtime does not know, so that it "
                "cannot be run on frames",
                "leave out --calib: what is exact is shared without running anything",
            )
        return frame_probes(original, frames, given)
    known = [name for name in original.models if name not in foreign]
    return synthetic_probes(original, given, known, limits=limits)


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
        bind_to_shapes(program, options.size, options.parse_limits)


def _specs(apart: Sequence[Program], options: CompileOptions) -> dict[str, tuple[InputSpec, ...]]:
    found = {name: input_specs(program) for program in apart for name in program.models}
    return with_axes(found, options.frame_axis)
