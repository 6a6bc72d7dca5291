"""The whole way of an exploration: options, case, front, and the files, written as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

import numpy as np

from ...runtime import arguments
from ..actions.action import Action
from ..actions.kinds import chosen
from ..case import Case, case_of, read_models
from ..driver import options_of
from ..errors import UsageError
from ..frames.warnings import frame_warnings
from ..options import CompileOptions
from ..output_folders import check_output_folder, write_together
from ..planning.damage import Output
from ..planning.front import Explorer, FrontPoint
from ..planning.trial import Trial
from ..planning.workbench import Workbench
from ..progress import NoProgress, Progress
from ..reports.chart import chart_png
from ..reports.report import OutputFidelity
from ..structure.cost import model_cost, predicted_memory
from .accuracy import Judge, Labelled
from .charts import charts_of
from .page import explore_page
from .replay_command import replay_command
from .report import Exploration, ExploredOutput, ExploredPoint

if TYPE_CHECKING:
    from typing import Unpack

    from ..frames.calibration import Preprocessing
    from ..options import Calibration

Item = TypeVar("Item")
RESULT, PICTURE, PAGE, PLANS = "explore.json", "explore.png", "index.html", "plans"
DEFAULT_POINTS, DEFAULT_MEASURED = 12, 4
# Plans are numbered with three digits, and a table of more points than that is of no use.
MOST_POINTS = 1000


@dataclass(frozen=True)
class ExploreOptions:
    """What is asked of a front beside the options of its case.

    At most `points` points, the exact program among them, which is always measured; `measured` of
    the others are (None: a few). `labelled` frames are for judging the measured ones. `config` is
    the file of options that was named, for the commands that compile a point. Raises UsageError for
    what makes no sense.
    """

    points: int = DEFAULT_POINTS
    measured: int | None = None
    labelled: Labelled | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.points <= MOST_POINTS:
            raise UsageError(
                f"--points {self.points} is no number of points", f"give 1 to {MOST_POINTS}"
            )
        if self.measured is not None and not 0 <= self.measured < self.points:
            raise UsageError(
                f"--measure {self.measured} is not among the {self.points - 1} points beside the "
                "exact program",
                f"give 0 to {self.points - 1}, or more --points",
            )

    @property
    def measurements(self) -> int:
        """How many points beside the exact program are measured."""
        few = min(DEFAULT_MEASURED, self.points - 1)
        return few if self.measured is None else self.measured


def explore_models(
    options: CompileOptions,
    asked: ExploreOptions | None = None,
    progress: Progress | None = None,
) -> Exploration:
    """The trade-off of the models that `options` name, on their frames.

    `options.output` is the folder to write explore.json, explore.png, index.html and plans/ to
    (None: nothing). Budgets and floors hold nothing back here: a floor is a line in the charts.

    Raises UsageError, ModelError or DataError; nothing is written then.
    """
    progress = progress or NoProgress()
    try:
        return _explored(options, asked or ExploreOptions(), progress)
    finally:
        progress.done()


def _explored(options: CompileOptions, asked: ExploreOptions, progress: Progress) -> Exploration:
    if options.calibration is None:
        raise UsageError(
            "explore measures on frames, and none were given",
            "give --calib PATH (an .npz keyed by input name, a folder of them, or of images)",
        )
    if options.output is not None:
        check_output_folder(options.output, RESULT, options.overwrite)
    chosen(options.only, options.without)  # refused before any work
    case = case_of(read_models(options, progress), options, progress)
    judge = None if asked.labelled is None else Judge(case, asked.labelled)
    judged: dict[tuple[Action, ...], Mapping[Output, float]] = {}

    def seen(trial: Trial) -> None:
        if judge is not None:
            judged[trial.actions] = judge.accuracy(trial.program)

    bench = Workbench(case, progress)
    front = Explorer(bench, progress, seen).front(asked.points, asked.measurements)
    points = tuple(
        _point(case, asked, number, point, judged) for number, point in enumerate(front.points)
    )
    assert case.frames is not None
    apart = predicted_memory(case.program, case.apart)["apart_weights_nbytes"]
    macs = sum(model_cost(case.original, name).macs for name in case.original.models)
    fits, held_out = _frame_counts(case)
    found = Exploration(
        tuple(case.original.models),
        points,
        apart,
        macs,
        options.min_fidelity,
        fits,
        held_out,
        (*front.notes, *_notes(case)),
    )
    if options.output is not None:
        progress.stage("writing the front", None)
        write_together(options.output, _files(found))
    return found


def _point(
    case: Case,
    asked: ExploreOptions,
    number: int,
    point: FrontPoint,
    judged: Mapping[tuple[Action, ...], Mapping[Output, float]],
) -> ExploredPoint:
    """A point of the front as it is told."""
    measured = () if point.trial is None else point.trial.outputs
    fidelity = {(one.model, one.output): OutputFidelity.of(one) for one in measured}
    accuracy: Mapping[Output, float] = {}
    if point.trial is not None:
        accuracy = judged.get(point.trial.actions, {})
    outputs = tuple(
        ExploredOutput(
            name,
            own,
            point.predicted.get((name, own), 0.0),
            fidelity.get((name, own)),
            accuracy.get((name, own)),
        )
        for name, model in case.original.models.items()
        for own in model.outputs
    )
    folder = case.options.output
    command = ""
    if folder is not None:
        command = replay_command(case.options, folder / _plan_file(number), outputs, asked.config)
    bill = point.bill
    return ExploredPoint(number, bill.weights_nbytes, bill.macs, outputs, point.plan, command)


def _plan_file(number: int) -> str:
    return f"{PLANS}/{number:03}.json"


def _frame_counts(case: Case) -> tuple[int, int]:
    """Frames to fit on and held out, of all streams together."""
    assert case.frames is not None
    first = [models[0] for models in case.frames.streams]
    fits = sum(len(case.frames.fit_rows(name)) for name in first)
    return fits, sum(len(case.frames.held_out_rows(name)) for name in first)


def _notes(case: Case) -> list[str]:
    """What is to be known of the models and the frames."""
    assert case.frames is not None
    notes = [f"{name} is unverified: {why}" for name, why in case.unverified.items()]
    notes += case.tying.notes
    for stream in case.frames.streams:
        every = [case.frames.fit_rows(stream[0]), case.frames.held_out_rows(stream[0])]
        notes += frame_warnings(case.frames, stream[0], np.sort(np.concatenate(every)))
    return notes


def _files(found: Exploration) -> dict[str, bytes]:
    """The files of an exploration by name; the one that marks its folder is the last."""
    files = {_plan_file(point.number): _json(point.plan.to_json()) for point in found.points}
    files[PICTURE] = chart_png(charts_of(found))
    files[PAGE] = explore_page(found).encode()
    files[RESULT] = _json({**found.to_json(), "files": list(files)})
    return files


def _json(value: object) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


# -- from Python ---------------------------------------------------------------------------


class ExploreWishes(TypedDict, total=False):
    """Further options of `explore`, by name: the fields of Settings that decide a front."""

    min_fidelity: float
    confidence: float
    output_fidelity: Mapping[str, float]
    metrics: Mapping[str, str]
    only: str | None
    without: Sequence[str]
    precision: str
    seed: int
    same_frames: bool
    tie_inputs: bool
    tie: Sequence[str]
    frame_axis: Sequence[str]
    frames: int | None
    held_out: float
    allow_script: bool
    overwrite: bool
    parse_memory: str | int | None
    parse_seconds: str | float | None
    preprocessing: Mapping[str, Preprocessing | Mapping[str, Any]]


def explore(
    models: Sequence[str | Path] | str | Path,
    calibration: Calibration | str | Mapping[str, str] | None = None,
    *,
    output: str | Path | None = None,
    names: Mapping[str, str | Path] | None = None,
    points: int = DEFAULT_POINTS,
    measure: int | None = None,
    data: str | Path | Mapping[str, str | Path] | None = None,
    labels: str | Mapping[str, str] | None = None,
    **wishes: Unpack[ExploreWishes],
) -> Exploration:
    """The trade-off of models between size, compute and fidelity: `explore` from Python.

    `models`, `calibration` and `names` are as for `repsimc.compile`, which carries out the `plan`
    of a point. `output` is a folder to write to (None: nothing). Of at most `points` points
    `measure` (None: a few) are measured beside the exact one, and judged by labelled frames:
    `data` is one set or one by model, `labels` the name of their array, or by model. `wishes` are
    the fields of ExploreWishes.

    Raises the errors of `explore_models`, UsageError for a value of another type.
    """
    unknown = set(wishes) - set(ExploreWishes.__annotations__)
    if unknown:
        raise UsageError(f"repsimc.explore knows no option {', '.join(sorted(unknown))}")
    told = dict(wishes) | {"calibration": calibration, "output": output}
    asked = ExploreOptions(
        arguments.whole("points", points),
        None if measure is None else arguments.whole("measure", measure),
        _labelled(data, labels),
    )
    return explore_models(options_of(models, names, told), asked)


def _labelled(data: object, labels: object) -> Labelled | None:
    """The labelled frames of a Python call. Raises UsageError."""
    if (data is None) != (labels is None):
        raise UsageError(
            "data and labels go together", "give the labelled frames and the name of their array"
        )
    if data is None:
        return None
    return Labelled(
        _one_or_several("data", data, arguments.path),
        _one_or_several("labels", labels, arguments.text),
    )


def _one_or_several(
    name: str, value: object, read: Callable[[str, object], Item]
) -> Item | dict[str, Item]:
    """A value for all models, or one by model. Raises UsageError."""
    if isinstance(value, Mapping):
        return arguments.table(name, cast("object", value), read)
    return read(name, value)
