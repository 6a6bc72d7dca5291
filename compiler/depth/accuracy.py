"""Accuracy on labelled frames: asked for beside fidelity, never fitted or chosen by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..case import frames_of
from ..errors import UsageError
from ..execution.executable import Executable
from ..execution.feeds import held_out_feeds
from ..frames.labels import load_labels
from ..graph.program import Program
from ..options import CompileOptions


@dataclass(frozen=True)
class Labelled:
    """Frames with labels, to judge accuracy by: a set as for calibration, and the array's name."""

    data: Path
    labels: str


class Judge:
    """Accuracy on labelled frames, of every output with class scores.

    Raises DataError where there are fewer labels than frames, UsageError where no output of the
    original holds class scores [N, C].
    """

    def __init__(self, options: CompileOptions, original: Program, labelled: Labelled) -> None:
        self._frames = frames_of(
            replace(options, calibration=labelled.data, frames=None, held_out=0.5), [original]
        )
        assert self._frames is not None
        (self._model,) = original.models
        self._rows = self._frames.rows(self._model)
        self._labels = load_labels(labelled.data, labelled.labels, self._rows)
        values = original.values()
        outputs = original.models[self._model].outputs
        self._scores = {
            own: value for own, value in outputs.items() if len(values[value].shape or ()) == 2
        }
        if not self._scores:
            raise UsageError(
                f"labels are given, and no output of {self._model} holds class scores [N, C]",
                "leave --labels out",
            )

    def accuracy(self, program: Program) -> dict[str, float]:
        """The share of frames whose largest score is the label's, 0..1, by output."""
        assert self._frames is not None
        source = held_out_feeds(program, self._frames, self._model)
        feeds = replace(source, rows=self._rows)
        names = list(self._scores.values())
        segment = Executable(program, None, names)
        right = dict.fromkeys(self._scores, 0)
        start = 0
        for batch in feeds.batches(segment.inputs):
            arrays = segment(batch)
            count = len(arrays[0])
            truth = self._labels[feeds.ordered[start : start + count]]
            for own, array in zip(self._scores, arrays):
                right[own] += int((array.argmax(axis=-1) == truth).sum())
            start += count
        return {own: count / max(start, 1) for own, count in right.items()}
