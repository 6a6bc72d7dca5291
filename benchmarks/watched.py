"""Worker processes that are reused and watched: what kills, hangs or bloats one costs one job.

A worker is `python robustness_worker.py`: a line of JSON in is a job, lines of JSON out say which
step it is at and what came of it. Time and resident memory of the process and all its children are
looked at while a job runs; a worker that goes over either is killed, and the next job gets another.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOOK_SECONDS = 0.02
# A worker is replaced after so many jobs, or once it holds so much between two: what earlier jobs
# have left behind is not to be counted to later ones.
_JOBS, _LEFT_NBYTES = 200, 700 * 2**20


@dataclass(frozen=True)
class Limits:
    """What a job may take before its worker is killed."""

    seconds: float = 60.0
    nbytes: int = 3 * 2**30


@dataclass(frozen=True)
class Watched:
    """What became of a job.

    `end` is 'done', 'hang' (over the time), 'memory' (over the limit) or 'abort' (the process
    died), `step` the one it was at, `result` what it gave when done. `peak_nbytes` is the most
    resident memory that the process and its children held together.
    """

    job: Mapping[str, Any]
    end: str
    step: str
    seconds: float
    peak_nbytes: int
    result: Mapping[str, Any]


def tree_nbytes(pid: int) -> int:
    """Resident bytes of a process and of everything it started; 0 where it is gone."""
    total, stack = 0, [pid]
    while stack:
        one = stack.pop()
        with suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE
            for task in Path(f"/proc/{one}/task").iterdir():
                stack += [int(word) for word in (task / "children").read_text().split()]
    return total


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a session of its own, and all that it started there."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Worker:
    """One process, started at the first job and after each that ended it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs = 0

    def do(self, job: Mapping[str, Any]) -> Watched:
        """Run one job to its end, whatever that is."""
        process = self._ready()
        assert process.stdin is not None and process.stdout is not None
        self._jobs += 1
        start = time.perf_counter()
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        peak, step, text = 0, "start", b""
        while True:
            found, _, _ = select.select([process.stdout], [], [], _LOOK_SECONDS)
            peak = max(peak, tree_nbytes(process.pid))
            seconds = time.perf_counter() - start
            if found:
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                text += chunk
                *lines, text = text.split(b"\n")
                for line in lines:
                    said = json.loads(line)
                    if "done" in said:
                        return Watched(job, "done", step, seconds, peak, said["done"])
                    step = said["step"]
                if not chunk:
                    return self._ended(job, "abort", step, seconds, peak)
            if seconds > self._limits.seconds:
                return self._ended(job, "hang", step, seconds, peak)
            if peak > self._limits.nbytes:
                return self._ended(job, "memory", step, seconds, peak)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            kill_tree(self._process)
            for stream in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    assert stream is not None
                    stream.close()
            self._process, self._jobs = None, 0

    def _ended(
        self, job: Mapping[str, Any], end: str, step: str, seconds: float, peak: int
    ) -> Watched:
        process = self._process
        self.close()
        status = None if process is None else process.returncode
        return Watched(job, end, step, seconds, peak, {"status": status})

    def _ready(self) -> subprocess.Popen[bytes]:
        held = 0 if self._process is None else tree_nbytes(self._process.pid)
        if self._jobs >= _JOBS or held > _LEFT_NBYTES:
            self.close()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("robustness_worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                start_new_session=True,
            )
            assert self._process.stdout is not None
            # Loading libraries is no part of a job; the worker says when it is ready.
            self._process.stdout.readline()
        return self._process


def watch_all(jobs: Iterable[Mapping[str, Any]], workers: int, limits: Limits) -> Iterator[Watched]:
    """What became of every job, as they end, over that many workers."""
    waiting: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    ended: queue.SimpleQueue[Watched | BaseException] = queue.SimpleQueue()
    every = list(jobs)
    for job in [*every, *([None] * workers)]:
        waiting.put(job)

    def work() -> None:
        worker = Worker(limits)
        try:
            while (job := waiting.get()) is not None:
                ended.put(worker.do(job))
        except BaseException as error:  # told where the results are read
            ended.put(error)
        finally:
            worker.close()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for _ in every:
        one = ended.get()
        if isinstance(one, BaseException):
            raise one
        yield one
    for thread in threads:
        thread.join()


@dataclass(frozen=True)
class Ran:
    """A command that was run in a process of its own: as `Watched`, with what it printed."""

    end: str
    code: int | None
    seconds: float
    peak_nbytes: int
    stdout: str
    stderr: str


def run_command(arguments: Sequence[str], folder: Path, limits: Limits) -> Ran:
    """Run `repsimc ARGUMENTS` in a fresh process, in `folder`, and watch it."""
    code = "import sys; from repsimc.compiler.cli.main import main; sys.exit(main())"
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    start = time.perf_counter()
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            start_new_session=True,
        )
        peak, end = 0, "done"
        while process.poll() is None:
            peak = max(peak, tree_nbytes(process.pid))
            if time.perf_counter() - start > limits.seconds:
                end = "hang"
            elif peak > limits.nbytes:
                end = "memory"
            if end != "done":
                kill_tree(process)
                break
            time.sleep(_LOOK_SECONDS)
    seconds = time.perf_counter() - start
    if end == "done" and (process.returncode is None or process.returncode < 0):
        end = "abort"
    texts = [path.read_bytes().decode("utf-8", "replace") for path in (out, err)]
    return Ran(end, process.returncode, seconds, peak, *texts)
