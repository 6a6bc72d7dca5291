"""What compiling takes in plain passes: processor seconds by those of one run over the same frames.

Processor seconds, because a machine that others use stretches the time of both by chance.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from compiling import Compiled, Models, compiled
from numpy.typing import NDArray
from records import Record, figure

from repsimc.compiler.execution.executable import BATCH, BATCH_NBYTES

Array = NDArray[Any]


@dataclass(frozen=True)
class Counted:
    """A compilation beside plain passes of the originals over its frames.

    `pass_seconds` are the processor seconds of one pass, the mean of one before and one after.
    """

    compiled: Compiled
    pass_seconds: float

    @property
    def passes(self) -> float:
        """All that compiling took, as so many passes."""
        return self.compiled.processor_seconds / self.pass_seconds

    def in_stages(self, *titles: str) -> float:
        """What some of its stages took, as so many passes; 0 where it did not come to them."""
        stages = self.compiled.stages
        return sum(stages.get(title, 0.0) for title in titles) / self.pass_seconds


def pass_seconds(models: Models, calibration: Path) -> float:
    """Processor seconds in which ONNX Runtime runs each model once over the frames of an .npz.

    Sessions are open, and their threads do not spin: the compiler's do not either.
    """
    with np.load(calibration, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    seconds = 0.0
    for _, path in models:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        # One set for all models goes by any name.
        feeds = {one.name: arrays.get(one.name, next(iter(arrays.values()))) for one in inputs}
        count, size = len(next(iter(feeds.values()))), inputs[0].shape[0]
        batch = batch_of(size, feeds)
        # A model of a fixed batch takes no smaller one at the end.
        starts = range(0, count if batch != size else count - batch + 1, batch)
        session.run(None, {name: x[:batch] for name, x in feeds.items()})
        begun = time.process_time()
        for start in starts:
            session.run(None, {name: x[start : start + batch] for name, x in feeds.items()})
        seconds += time.process_time() - begun
    return seconds


def batch_of(size: object, feeds: Mapping[str, Array]) -> int:
    """Frames of a run: what the model's batch axis asks for, or else as the compiler runs it."""
    if isinstance(size, int) and size > 0:
        return size
    frame_nbytes = sum(x[:1].nbytes for x in feeds.values())
    return max(1, min(BATCH, BATCH_NBYTES // max(frame_nbytes, 1)))


def counted_compile(models: Models, calibration: Path, output: Path, **wishes: Any) -> Counted:
    """Compile between two plain passes."""
    before = pass_seconds(models, calibration)
    found = compiled(models, output, calibration=calibration, **wishes)
    return Counted(found, (before + pass_seconds(models, calibration)) / 2)


def passes_records(
    case: str, counted: Counted, most: float | None = None, peak_mib: float | None = None
) -> list[Record]:
    """Passes and peak memory, held against the most that is allowed of each.

    What was refused took no compilation: its bars are missed, however soon it ended.
    """
    found = counted.compiled
    bar = None if most is None else f"<= {most:g}"
    peak_bar = None if peak_mib is None else f"<= {peak_mib:g}"
    title, peak_title = f"{case}/compiling by plain passes", f"{case}/peak memory of compiling"
    if found.refusal:
        why = f"{found.refusal} ({cost_in_words(counted)})"
        return [
            figure(title, None, "passes", bar, why),
            figure(peak_title, None, "MiB", peak_bar, found.refusal),
        ]
    return [
        figure(title, counted.passes, "passes", bar, cost_in_words(counted)),
        figure(peak_title, found.peak_nbytes / 2**20, "MiB", peak_bar),
    ]


def cost_in_words(counted: Counted) -> str:
    """Processor seconds, those of the longest stages, and of a pass."""
    found = counted.compiled
    longest = sorted(found.stages.items(), key=lambda item: -item[1])[:3]
    stages = ", ".join(f"{title} {seconds:.1f} s" for title, seconds in longest)
    return (
        f"{found.processor_seconds:.1f} processor seconds ({stages}), one pass "
        f"{counted.pass_seconds:.2f} s; {found.compile_seconds:.0f} s by the clock"
    )
