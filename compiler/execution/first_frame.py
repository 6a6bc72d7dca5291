"""Models run once in the child process, before they run on all frames in this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from google.protobuf.message import EncodeError

from ..frames.calibration import Frames
from ..graph.arrays import Array
from ..graph.export import to_proto
from ..graph.program import Program
from ..graph.weights import nbytes_of
from ..isolation.allowance import ModelAllowance, ParseLimits
from ..isolation.steps import Refused, run_session

_WHOLE_NBYTES = 2**30  # of weights; above, a model is not tried: protobuf stops at 2 GB


def run_first_frame(
    programs: Sequence[Program], frames: Frames, limits: ParseLimits | None = None
) -> None:
    """Raises ModelError if a model takes too much, or ends its process, on its first frame.

    A graph of a few nodes may widen its input as far as it likes. Models whose batch is fixed run
    on their first batch. What ONNX Runtime merely refuses is told later, by what needs it.
    """
    for program in programs:
        for model in program.models.values():
            rows = frames.rows(model.name)[: frames.batch(model.name) or 1]
            feed = frames.feed(model.name, rows)
            feeds = {value: feed[own] for own, value in model.inputs.items() if own in feed}
            run_first(program, model.name, feeds, "its first frame", limits)


def run_first(
    program: Program,
    model: str,
    feeds: Mapping[str, Array],
    on: str,
    limits: ParseLimits | None = None,
) -> None:
    """Raises ModelError if a model takes too much of arrays by value; `on` says what they are.

    What ONNX Runtime merely refuses, and models of more than 1 GiB, are not told.
    """
    if sum(map(nbytes_of, program.weights().values())) >= _WHOLE_NBYTES:
        return
    where = f"model '{model}' ({program.models[model].source.path}) on {on}"
    outputs = list(dict.fromkeys(program.models[model].outputs.values()))
    with suppress(Refused, EncodeError):
        content = to_proto(program, outputs=outputs).SerializeToString()
        fed = sum(array.nbytes for array in feeds.values())
        allowance = ModelAllowance(where, len(content), limits, fed)
        run_session(content, feeds, None, allowance)
