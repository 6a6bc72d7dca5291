"""The child process: reused, limited, replaced when it ends, and gone when its parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc.compiler.errors import ModelError
from repsimc.compiler.isolation import process
from repsimc.compiler.isolation.allowance import MEMORY_NBYTES, ModelAllowance, ParseLimits
from repsimc.compiler.isolation.messages import Message
from repsimc.compiler.isolation.steps import Refused, infer_shapes, open_session, run_session
from tests.programs import model_of_text

SMALL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }"""
HUGE = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1] x) => (float[Q] y) <float[1] one = {1}, int64[1] s = {8589934592}>
{ k = Expand(one, s)  y = Add(x, k) }"""
SLOW = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1] x) => (float[2] y) <int64[4] a = {1,5,6,7}>
{ k = TfIdfVectorizer <max_gram_length = 2, max_skip_count = 1099511627776, min_gram_length = 1,
    mode = "TF", ngram_counts = [0, 1], ngram_indexes = [0, 1], pool_int64s = [1, 5, 6]> (a)
  y = Add(x, k) }"""


def small() -> onnx.ModelProto:
    return model_of_text(SMALL)


def allowed(limits: ParseLimits | None = None) -> ModelAllowance:
    return ModelAllowance("model 'net' (net.onnx)", 100, limits)


def child() -> int:
    """The process id of the child that is running."""
    infer_shapes(small(), allowed())
    assert process._child is not None
    return process._child.process.pid


def test_one_child_serves_one_request_after_another() -> None:
    assert child() == child()


def test_what_takes_too_much_memory_is_told_of_the_model_and_the_next_child_works() -> None:
    before = child()
    with pytest.raises(ModelError) as caught:
        infer_shapes(model_of_text(HUGE), allowed(ParseLimits(memory_nbytes=64 << 20)))
    assert caught.value.message == (
        "inferring the shapes of model 'net' (net.onnx) takes more than 64 MiB of memory"
    )
    assert "--parse-memory" in caught.value.hint
    assert child() != before


def test_what_takes_too_long_is_told_of_the_model() -> None:
    began = time.monotonic()
    with pytest.raises(ModelError) as caught:
        open_session(model_of_text(SLOW).SerializeToString(), allowed(ParseLimits(seconds=0.3)))
    assert caught.value.message == (
        "opening model 'net' (net.onnx) takes more than 0.3 s of processor time"
    )
    assert "--parse-seconds" in caught.value.hint
    assert time.monotonic() - began < 10


def test_a_library_that_aborts_ends_the_child_alone() -> None:
    threading.Timer(0.2, os.kill, (child(), signal.SIGABRT)).start()
    with pytest.raises(ModelError) as caught:
        open_session(model_of_text(SLOW).SerializeToString(), allowed())
    assert caught.value.message == (
        "opening model 'net' (net.onnx) ends the process that does it, with SIGABRT"
    )
    assert child()


def test_a_killed_child_is_replaced() -> None:
    before = child()
    os.kill(before, signal.SIGKILL)
    # Until all of its threads are gone: the first may be a zombie before.
    while os.waitid(os.P_PID, before, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.01)
    assert child() != before


def test_the_steps_of_a_model_share_its_time() -> None:
    allowance = allowed(ParseLimits(seconds=5))
    allowance.spend(4.5)
    assert allowance.seconds == 0.5
    allowance.spend(9)
    assert (allowance.seconds, allowance.whole_seconds) == (0, 5)


def test_the_allowance_grows_with_the_model() -> None:
    small_model, large = ModelAllowance("m", 100), ModelAllowance("m", 10**9)
    assert small_model.memory_nbytes == MEMORY_NBYTES + 800
    assert large.memory_nbytes > 8 * 10**9 and large.seconds > 1000


def test_what_a_library_says_arrives() -> None:
    with pytest.raises(Refused, match="No Op registered for Nothing") as caught:
        open_session(model_of_text(SMALL.replace("Relu", "Nothing")).SerializeToString(), allowed())
    assert caught.value.kind


def test_an_interrupted_request_leaves_no_reply_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = child()

    def interrupted(self: process._Watch) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(process._Watch, "reply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            infer_shapes(small(), allowed())
    assert child() != before


def test_threads_take_turns() -> None:
    found: list[list[float]] = []

    def work(value: float) -> None:
        feed = {"x": np.full((1, 2), value, np.float32)}
        (made,) = run_session(small().SerializeToString(), feed, ["y"], allowed())
        found.append(made.ravel().tolist())

    threads = [threading.Thread(target=work, args=(float(k),)) for k in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(found) == [[float(k)] * 2 for k in range(8)]


def test_a_child_that_keeps_much_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    before = child()
    monkeypatch.setattr(process, "_KEPT_NBYTES", 0)
    assert child() != before


ORPHAN = """
import time
from repsimc.compiler.isolation import process
process.start()
print(process._child.process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_child_ends_with_its_parent(ending: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    parent.send_signal(ending)
    parent.wait()
    deadline = time.monotonic() + 30
    while runs(orphan) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(orphan)


def runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False


def test_no_module_is_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Models and what lies beside them come from elsewhere.
    for name in ("onnx", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken')")
    process.stop()
    monkeypatch.chdir(tmp_path)
    assert child()


def test_an_unknown_request_is_an_answer() -> None:
    with pytest.raises(Refused):
        process.ask(Message({"do": "nothing"}), allowed(), "doing")
