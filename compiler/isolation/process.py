"""The compiler's side of its child process: started once, watched, and started anew if it ends.

One child serves a whole process, so that its start (a quarter of a second, beside the parent's own
imports) is paid once. It ends when the parent's end of its stdin closes, however the parent ended.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import BackendError, ModelError, RepsimcError
from ..units import format_bytes
from .allowance import ModelAllowance
from .messages import Message, receive, send

# Between two looks at a child that works: it fills some 20 MB of memory in this time.
_PERIOD_SECONDS = 0.01
# A busy machine gives a child less than a processor; one that waits for something uses none.
_WALL_PER_SECOND = 4
# A child that keeps more than this from earlier requests is not asked again.
_KEPT_NBYTES = 128 << 20
_START = "import sys; sys.path[:] = sys.argv[1:]; from {} import main; main()"


class Refused(Exception):
    """What a library in the child said of a model; `kind` is the name of the exception's class."""

    def __init__(self, said: str, kind: str) -> None:
        super().__init__(said)
        self.kind = kind


class _Child:
    """A running child process. Used by one thread at a time."""

    def __init__(self) -> None:
        # Not by -m, which would put the working directory, where models come from, first on the
        # path of imports.
        module = f"{__package__}.work"
        path = [entry or str(Path.cwd()) for entry in sys.path]
        self.owner = os.getpid()
        self.answered = False
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START.format(module), *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests: BinaryIO = self.process.stdin  # pyright: ignore[reportAttributeAccessIssue]
        self.replies: BinaryIO = self.process.stdout  # pyright: ignore[reportAttributeAccessIssue]

    def usable(self) -> bool:
        """Whether it runs, and is this process's own: a fork shares its parent's pipes."""
        return self.owner == os.getpid() and self.process.poll() is None

    def end(self) -> None:
        """Kill it."""
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
        for stream in (self.requests, self.replies):
            with suppress(OSError):
                stream.close()

    def nbytes(self) -> int:
        """Memory of its own that it has filled; 0 where the system does not tell."""
        try:
            text = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii")
        except OSError:
            return 0
        _, resident, shared, *_ = map(int, text.split())
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")

    def seconds(self) -> float:
        """Processor time it has used; 0 where the system does not tell."""
        try:
            text = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        except OSError:
            return 0.0
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Watch:
    """Kills a child that goes beyond an allowance; `broken` then says which limit, in words."""

    def __init__(self, child: _Child, allowance: ModelAllowance) -> None:
        self.broken = ""
        self._child, self._allowance = child, allowance
        self._began = (time.monotonic(), child.seconds(), child.nbytes())

    def reply(self) -> Message | None:
        """What the child answers; None where it has ended, by its own fault or by ours."""
        if hasattr(select, "poll"):  # not on Windows, where nothing is watched
            ready = select.poll()
            ready.register(self._child.replies, select.POLLIN)
            while not ready.poll(_PERIOD_SECONDS * 1000):
                self._look()
        reply = receive(self._child.replies)
        self._child.answered |= reply is not None
        self._allowance.spend(self._child.seconds() - self._began[1])
        return reply

    def _look(self) -> None:
        wall, processor, nbytes = self._began
        allowed = self._allowance
        least = max(allowed.seconds, 0.1)  # of the last step, where earlier ones took nearly all
        used = self._child.seconds() - processor
        waited = time.monotonic() - wall - 1
        if self._child.nbytes() - nbytes > allowed.memory_nbytes:
            self.broken = "memory"
        elif max(used, waited / _WALL_PER_SECOND) > least:
            self.broken = "seconds"
        if self.broken:
            self._child.process.kill()


_lock = threading.Lock()
_child: _Child | None = None


def start() -> None:
    """Start the child, if it does not run: its imports then go on beside what the caller does."""
    with _lock:
        _started()


def stop() -> None:
    """End the child, if one runs; the next request starts another."""
    global _child
    with _lock:
        if _child is not None:
            _child.end()
        _child = None


def ask(request: Message, allowance: ModelAllowance, step: str) -> Message:
    """The child's reply; `step` says in errors what it was doing, as 'opening'.

    Raises Refused if the library that was asked raises, and ModelError, naming the model, if it
    needs more than the allowance or ends its process.
    """
    global _child
    with _lock:
        child = _started()
        message = Message({**request.head, "seconds": allowance.seconds}, request.pieces)
        watch = _Watch(child, allowance)
        reply = None
        try:
            with suppress(BrokenPipeError):
                send(child.requests, message)
                reply = watch.reply()
        finally:
            # Also after Ctrl-C: its reply to this request must not be taken for one to the next.
            if reply is None:
                child.end()
                _child = None
    if reply is None:
        raise _ended(child, watch.broken, allowance, step)
    if not reply.head["ok"]:
        said, kind = str(reply.head["said"]), str(reply.head["kind"])
        if kind == "MemoryError" or "bad_alloc" in said or "bad allocation" in said:
            raise _ended(child, "memory", allowance, step)
        raise Refused(said, kind)
    return reply


def _started() -> _Child:
    global _child
    if _child is None or not _child.usable() or _child.nbytes() > _KEPT_NBYTES:
        if _child is not None:
            _child.end()
        _child = _Child()
    return _child


def _ended(child: _Child, broken: str, allowance: ModelAllowance, step: str) -> RepsimcError:
    where = allowance.where
    if broken == "memory":
        return ModelError(
            f"{step} {where} takes more than {format_bytes(allowance.memory_nbytes)} of memory",
            "if the file is to be trusted, allow more with --parse-memory",
        )
    if broken == "seconds":
        return ModelError(
            f"{step} {where} takes more than {allowance.whole_seconds:.3g} s of processor time",
            "if the file is to be trusted, allow more with --parse-seconds",
        )
    code = child.process.returncode
    if code > 0 and not child.answered:
        return BackendError(
            "the process in which models are opened cannot start",
            f"see what it says: {sys.executable} -c 'import onnx, onnxruntime'",
        )
    how = f"exit status {code}"
    if code < 0:
        how = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return ModelError(
        f"{step} {where} ends the process that does it, with {how}",
        "the file is damaged, or made to do so: export or download it again",
    )


atexit.register(stop)
