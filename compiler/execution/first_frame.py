"""Models run on one frame in the child process, before they run on all frames in this one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from google.protobuf.message import EncodeError

from ..frames.calibration import Frames
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
        weights = sum(nbytes_of(constant) for constant in program.weights().values())
        for model in program.models.values() if weights < _WHOLE_NBYTES else ():
            rows = frames.rows(model.name)[: frames.batch(model.name) or 1]
            feed = frames.feed(model.name, rows)
            feeds = {value: feed[own] for own, value in model.inputs.items() if own in feed}
            where = f"model '{model.name}' ({model.source.path}) on its first frame"
            with suppress(Refused, EncodeError):
                content = to_proto(program).SerializeToString()
                fed = sum(array.nbytes for array in feeds.values())
                allowance = ModelAllowance(where, len(content), limits, fed)
                run_session(content, feeds, None, allowance)
