"""The process that is measured: `python -m repsimc.runtime.measured` reads a job, prints figures.

Run by `bench`, one fresh process per case, since what a process once held can not be unheld.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .conditions import Watch
from .memory import usage
from .ort import import_onnxruntime, session_options

if TYPE_CHECKING:
    import onnxruntime

Feeds = dict[str, NDArray[Any]]

# Conv, Relu, MatMul on 4x4 floats: every case runs it first, so that what ONNX Runtime takes
# once per process (code, thread pools, tables) is in the baseline and not in the models.
_TRIVIAL = (
    "2nagY0SXZc0eA`lcM<_(A_PNkZgx5V3JwYZV-f*!A_P)pY;`&S3KI$eatZ-<5&?N422EjfO?7NK01^RbDia6+2mu"
    "HI2mufQA_M>c06;<kcPdK=1PBBW0U|&E0DwOL000000000000000000000DwOL000000000000000000000DwOL0"
    "00000000000000000000DwP20d`s&3ITW$777#y0TK`j0tf*L0tf*L0tf^O0tf_R8wvq=5*7*+2mulh3IYfL3IYf"
    "L3IYfO3IYfOLIer`5D@"
)


# The network that latencies of other sessions are held beside: always the same, run in turns.
# Seconds of another run, or another machine, compare with nothing here; by how much a bundle takes
# longer than this network does.
YARDSTICK_SHAPE = (1, 16, 24, 24)
YARDSTICK_VERSION = 1  # of the network: shares of another one compare with nothing

# Two convolutions with a sum, a pool and a product, 2.7 M multiply-accumulates; the weights are
# made by ConstantOfShape, which ONNX Runtime folds. Its text is in the test.
_YARDSTICK = (
    "2nafw0}40_24-n&bY*f90e2z~LvL<#bYX6EPi9kSVQ^(C7zzb;VQh6}Dhvn#5CI|t004kILI9uv1Udi;I0^=BVRUk7"
    "coG3^A`e4vZgX^DZgfv(Q)ppuWhxj71$JR<b!93H2mufQA_M>cfIUJ0paBFr016}u0eA`lcM<_%A_PNkZgwgW3IuRr"
    "WOG0PKmkAjKmniu2RZ->4hjKb5&>c&1X5*ebvghFBnkmy3ITT#0b?QrLvL<&DiI0<aA9O~KmkAjKmkAjpaBOu016Na"
    "0b>dQcoG3*A_GBWWI6x}4hjKe5&>l*1X5*ebvghF8wvqs5&>o+5l3uqVqt7Sc4cy5XJt@tZ)`dM3K0qcW)cBsA_qon"
    "VRUq5ZaM%86AA%m3IS~r0eK<@O<{CRb!<8S5(#->a%6LKX=7_D5(oqk2RZ~05Ca2324-n&bY*fX5C{Sg2RZ@}5JCoR"
    "VRUk7cv>3@0eBJ?3KR$d5)cXk2muNL2oMSa2p9?i2pD1$3ITZ%4hjqi0TKub0tf*L0tgU71PTBU5d"
)

# Runs of the yardstick in one turn: beyond that a turn is long enough for anything.
_MOST = 64


class _Case:
    """Models that run one after another on one frame, each in a session of its own."""

    def __init__(self, models: list[dict[str, Any]], threads: int | None, frame: Feeds) -> None:
        ort = import_onnxruntime()
        self._runs: list[tuple[onnxruntime.InferenceSession, Feeds]] = []
        for model in models:
            session = ort.InferenceSession(
                model.get("content") or model["path"],
                session_options(threads),
                providers=["CPUExecutionProvider"],
            )
            wanted = {value.name for value in session.get_inputs()}
            inputs: dict[str, str] = model["inputs"]
            feeds = {name: frame[key] for name, key in inputs.items() if name in wanted}
            self._runs.append((session, feeds))

    def run(self) -> None:
        for session, feeds in self._runs:
            session.run(None, feeds)


def yardstick() -> bytes:
    """The network as the bytes of an ONNX file: x [1, 16, 24, 24] -> y [1, 16]."""
    return base64.b85decode(_YARDSTICK)


def _measure_memory(job: dict[str, Any], frame: Feeds) -> dict[str, Any]:
    case = _Case(job["cases"][0], job["threads"], frame)
    for _ in range(2):  # what is allocated on the first run is used by the second
        case.run()
    return usage().to_json()


def _measure_latency(job: dict[str, Any], frame: Feeds) -> dict[str, Any]:
    """Seconds of every run of every case; cases take turns, so that drift hits all alike.

    A job with a yardstick has it run as a last case, as often in a turn as the first case takes
    time for: what disturbs the one then disturbs the other as likely.
    """
    cases = [_Case(models, job["threads"], frame) for models in job["cases"]]
    for case in cases:  # what is made in the first run is no part of the others
        case.run()
    times = [1] * len(cases)
    if job.get("yardstick"):
        cases.append(_yardstick(job["threads"]))
        cases[-1].run()
        first, last = (min(_timed(case, 1)[0] for _ in range(5)) for case in (cases[0], cases[-1]))
        times.append(max(1, min(_MOST, round(first / last))))
    seconds: list[list[float]] = [[] for _ in cases]
    processor_seconds: list[list[float]] = [[] for _ in cases]
    order = list(zip(cases, times, seconds, processor_seconds))
    watch = Watch()
    for turn in range(job["warmup"] + job["runs"]):
        for case, often, found, processor in order if turn % 2 == 0 else reversed(order):
            wall, used = _timed(case, often)
            if turn >= job["warmup"]:
                found.append(wall / often)
                processor.append(used / often)
    return {
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "conditions": watch.saw().to_json(),
    }


def _timed(case: _Case, often: int) -> tuple[float, float]:
    """Seconds on the clock, and of processor time, of so many runs of a case."""
    start, used = time.perf_counter(), time.process_time()
    for _ in range(often):
        case.run()
    return time.perf_counter() - start, time.process_time() - used


def _yardstick(threads: int | None) -> _Case:
    shape = YARDSTICK_SHAPE
    models = [{"content": yardstick(), "inputs": {"x": "yardstick"}}]
    return _Case(models, threads, {"yardstick": np.full(shape, 0.5, np.float32)})


def main() -> None:
    """Reads the job from stdin and prints what was measured, as JSON."""
    job = json.load(sys.stdin)
    with np.load(job["frame"], allow_pickle=False) as arrays:
        frame = {key: arrays[key] for key in arrays.files}
    trivial = import_onnxruntime().InferenceSession(
        base64.b85decode(_TRIVIAL),
        session_options(job["threads"]),
        providers=["CPUExecutionProvider"],
    )
    trivial.run(None, {"x": np.zeros((1, 1, 4, 4), np.float32)})
    measure = {"memory": _measure_memory, "latency": _measure_latency}[job["kind"]]
    print(json.dumps(measure(job, frame)))


if __name__ == "__main__":
    main()
