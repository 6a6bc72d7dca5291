"""What a compilation is asked to do, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.manifest import LAYOUTS, MERGED, PRECISIONS
from .errors import UsageError
from .units import Budget, MacsLimit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .frames.calibration import Preprocessing

    Calibration = Path | NDArray[Any] | Mapping[str, Path] | Mapping[str, NDArray[Any]]

DEFAULT_OUTPUT = "bundle"
DEFAULT_FLOOR = 0.99


class Format(str, Enum):  # noqa: UP042 (StrEnum is of Python 3.11; JetPack 6 has 3.10)
    """How results are printed."""

    table = "table"
    json = "json"
    markdown = "markdown"

    def __str__(self) -> str:
        return self.value


def _no_preprocessing() -> dict[str, Preprocessing]:
    return {}


MEANS = ("share", "depth")


@dataclass(frozen=True)
class CompileOptions:
    """Everything that decides a compilation's outcome; same options and files, same bytes.

    `models` are (name, path) in command line order. `calibration` is one set for all models (a
    path or arrays) or a set per model name. `preprocessing` goes by model name, '' for every
    model. `min_fidelity` is the floor of every output; `output_fidelity` and `metrics` override
    floor and metric for 'model' or 'model/output' ('top1' or 'variance'). `frames` limits the
    frames used, of which the share `held_out` is kept from every fit. `same_frames` says that
    row k of every model's set is the same frame; `tie_inputs` lets one frame feed the inputs of
    equal name, dtype and shape where the calibration does not say otherwise. `plan` replays that
    plan. `only` leaves one means
    of the two ('share', 'depth'). `max_macs` and `max_latency` (seconds for one frame through all
    models, one thread) are budgets beside `budget`. `output` None writes nothing but the report,
    as does `dry_run`. `layout` is how sessions and engines divide the graph ('merged' or
    'trunk-heads'), `precision` what engines are meant to be built in: defaults that a build may
    override.
    """

    models: tuple[tuple[str, Path], ...]
    budget: Budget | None = None
    calibration: Calibration | None = None
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=_no_preprocessing)
    min_fidelity: float = DEFAULT_FLOOR
    output_fidelity: Mapping[str, float] = field(default_factory=dict[str, float])
    metrics: Mapping[str, str] = field(default_factory=dict[str, str])
    exact_only: bool = False
    plan: Path | None = None
    dry_run: bool = False
    seed: int = 0
    output: Path | None = None
    overwrite: bool = False
    same_frames: bool = False
    tie_inputs: bool = True
    allow_script: bool = False
    frames: int | None = None
    held_out: float = 0.25
    only: str | None = None
    max_macs: MacsLimit | None = None
    max_latency: float | None = None
    layout: str = MERGED
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("no models given", "repsimc compile a.onnx b.onnx --budget 2GB")
        for key, floor in (("", self.min_fidelity), *self.output_fidelity.items()):
            if not 0 <= floor <= 1:
                raise UsageError(
                    f"a fidelity floor of {floor}{f' for {key!r}' if key else ''} is not a share",
                    "give a number from 0 to 1, such as 0.99",
                )
        if not 0 < self.held_out < 1:
            raise UsageError(
                f"{self.held_out} of the frames can't be held out", "give a share such as 0.25"
            )
        if self.frames is not None and self.frames < 2:
            raise UsageError(
                f"{self.frames} frames can't be split into a fit and a held-out part",
                "give --frames at least 2; a few hundred are usual",
            )
        for what, value, known in (
            ("layout", self.layout, LAYOUTS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise UsageError(f"there is no {what} '{value}'", f"there are {', '.join(known)}")
        if self.only not in (None, *MEANS):
            raise UsageError(f"--only {self.only} is no means", f"there are {', '.join(MEANS)}")
        if self.exact_only and self.only is not None:
            raise UsageError("--exact-only leaves nothing for --only", "leave one of them out")
        if self.max_latency is not None and self.max_latency <= 0:
            raise UsageError(f"a latency of {self.max_latency:g} s is nothing", "give 0.008, say")
        if self.seed < 0:
            raise UsageError(f"a seed of {self.seed} is negative", "give 0 or more")
        names = {name for name, _ in self.models}
        for table, entries in (
            ("preprocess", self.preprocessing),
            ("fidelity", self.output_fidelity),
            ("metrics", self.metrics),
        ):
            for key in entries:
                model = key.split("/", 1)[0]
                if model and model not in names:
                    raise UsageError(
                        f"[{table}] names '{key}', but no model is called '{model}'",
                        f"the models are called {', '.join(sorted(names))}",
                    )

    def floor(self, model: str, output: str) -> float:
        """The fidelity floor of an output, by its own name."""
        by_model = self.output_fidelity.get(model, self.min_fidelity)
        return self.output_fidelity.get(f"{model}/{output}", by_model)

    def metric(self, model: str, output: str) -> str | None:
        """The metric asked for an output, by its own name; None means the default one."""
        return self.metrics.get(f"{model}/{output}", self.metrics.get(model))
