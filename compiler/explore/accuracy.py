"""Accuracy on labelled frames: asked for beside fidelity, never fitted or chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..case import Case, frames_of
from ..errors import UsageError
from ..execution.executable import Executable
from ..execution.feeds import StreamFeeds, run_groups
from ..execution.fidelity import TOP1, metric_of
from ..frames.calibration import Frames
from ..frames.labels import load_labels, require_classes
from ..graph.arrays import Int64
from ..graph.program import Program
from ..planning.damage import Output


@dataclass(frozen=True)
class Labelled:
    """Frames with labels, to judge accuracy by.

    `data` is a set as for calibration, or one by model; `labels` the name of its array of class
    indices, one for all models that give class scores, or by model.
    """

    data: Path | Mapping[str, Path]
    labels: str | Mapping[str, str]


class Judge:
    """Accuracy on labelled frames, of every output with class scores.

    Raises DataError where there are fewer labels than frames or a label is no class of an output,
    UsageError for labels of an unknown model, or where no output holds class scores [N, C].
    """

    def __init__(self, case: Case, labelled: Labelled) -> None:
        wanted = _wanted(case.original, labelled.labels)
        scores = _class_scores(case, wanted, isinstance(labelled.labels, str))
        # All of these frames are used: nothing is fitted on them.
        options = replace(case.options, calibration=labelled.data, frames=None, held_out=0.5)
        frames = frames_of(options, case.apart)
        assert frames is not None
        self._frames = case.tying.joined(frames)
        self._scores = scores
        self._labels: dict[str, Int64] = {}
        for model in dict.fromkeys(model for model, _ in scores):
            path = labelled.data[model] if isinstance(labelled.data, Mapping) else labelled.data
            self._labels[model] = load_labels(path, wanted[model], frames.rows(model))

    def accuracy(self, program: Program) -> dict[Output, float]:
        """The share of frames whose largest score is the label's, 0..1, by output."""
        found: dict[Output, float] = {}
        for models in run_groups(self._frames):
            judged = [output for output in self._scores if output[0] in models]
            if judged:
                feeds = StreamFeeds(program, self._frames, models, self._frames.rows(models[0]))
                found |= self._of_group(program, feeds, judged)
        return {output: found[output] for output in self._scores}

    def _of_group(
        self, program: Program, feeds: StreamFeeds, judged: Sequence[Output]
    ) -> dict[Output, float]:
        """The accuracy of outputs of models that run on the same frames."""
        values = [program.models[model].outputs[own] for model, own in judged]
        segment = Executable(program, None, values)
        _require_fed(program, feeds, segment.inputs, self._frames)
        right = dict.fromkeys(judged, 0)
        ordered, start = feeds.ordered, 0
        for count, batch in zip(feeds.counts, feeds.batches(segment.inputs)):
            rows = ordered[start : start + count]
            start += count
            for output, scores in zip(judged, segment(batch)):
                truth = self._labels[output[0]][rows]
                require_classes(truth, scores.shape[-1], *output)
                right[output] += int(np.sum(scores.argmax(axis=-1) == truth))
        return {output: count / max(start, 1) for output, count in right.items()}


def _wanted(original: Program, labels: str | Mapping[str, str]) -> dict[str, str]:
    """The array of labels of each model that has one."""
    if isinstance(labels, str):
        return dict.fromkeys(original.models, labels)
    for name in labels:
        if name not in original.models:
            raise UsageError(
                f"labels are given for '{name}', and there is no such model",
                f"the models are called {', '.join(original.models)}",
            )
    return dict(labels)


def _class_scores(case: Case, wanted: Mapping[str, str], for_all: bool) -> list[Output]:
    """The outputs of labelled models that hold class scores.

    One name for all models is meant for those that classify; a model's own is meant for it.
    """
    values = case.original.values()
    found: list[Output] = []
    for model in wanted:
        outputs = case.original.models[model].outputs
        mine = [
            (model, own)
            for own, value in outputs.items()
            if len(values[value].shape or ()) == 2
            and metric_of(values[value], case.options.metric(model, own)) == TOP1
        ]
        if not mine and not for_all:
            raise _no_scores(model)
        found += mine
    if not found:
        raise _no_scores(", ".join(wanted))
    return found


def _no_scores(models: str) -> UsageError:
    return UsageError(
        f"labels are given, and no output of {models} holds class scores [N, C]",
        "leave --labels out for models that do not classify",
    )


def _require_fed(
    program: Program, feeds: StreamFeeds, inputs: Sequence[str], frames: Frames
) -> None:
    """Raise UsageError where a model needs what one computes that is fed other frames."""
    given = {v for name in feeds.models for v in program.models[name].inputs.values()}
    for value in inputs:
        if value in given:
            continue
        other = next(n for n, m in program.models.items() if value in m.inputs.values())
        alone = [name for name in feeds.models if not frames.aligned(name, other)]
        raise UsageError(
            f"model '{(alone or feeds.models)[0]}' reads what '{other}' computes, and the labelled "
            "frames do not say that both see the same",
            "give one --data for both, or --same-frames if row k is the same frame",
        )
