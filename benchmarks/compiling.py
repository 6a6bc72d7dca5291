"""Compiles in a process of its own: `python compiling.py` reads a job from stdin, prints JSON.

What a compilation takes, start of Python included, and how much memory it held at its peak can
only be told of a process that does nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repsimc.compiler.errors import RepsimcError
from repsimc.compiler.reports.report import Report

Models = Sequence[tuple[str, Path]]


@dataclass(frozen=True)
class Compiled:
    """A compilation: its report and bundle, or why there is none, and what it took.

    `seconds` is the time of the whole process, `compile_seconds` without starting Python and
    loading libraries, `processor_seconds` that on all cores, with the processes that compiling
    started; `stages` are its own processor seconds by stage. `peak_nbytes` is the most resident
    memory it had at any time.
    """

    report: Report | None
    bundle: Path | None
    plan: Mapping[str, Any]
    refusal: str
    seconds: float
    compile_seconds: float
    peak_nbytes: int
    processor_seconds: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def share(self) -> float | None:
        """Weight bytes of the merged program by those of the models apart."""
        if self.report is None:
            return None
        return self.report.weights_after_nbytes / self.report.weights_before_nbytes


def compiled(models: Models, output: Path | None = None, **wishes: Any) -> Compiled:
    """Compile `models` (name, path) in a fresh process; `wishes` are JSON fields of CompileOptions.

    `budget` is text as on the command line. Raises RuntimeError if the process fails for another
    reason than an error that repsimc explains.
    """
    job: dict[str, Any] = {
        "models": [[name, str(path)] for name, path in models],
        "output": None if output is None else str(output),
        "wishes": {k: str(v) if isinstance(v, Path) else v for k, v in wishes.items()},
    }
    start, before = time.perf_counter(), _children_seconds()
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"compiling failed with status {done.returncode}:\n{done.stderr}")
    said = json.loads(done.stdout)
    # What the process waited for is counted to it, and it to this one, once each has ended.
    started = max(0.0, _children_seconds() - before - said["process_seconds"])
    return Compiled(
        report=None if said["report"] is None else Report.from_json(said["report"]),
        bundle=output if said["report"] is not None else None,
        plan=said["plan"],
        refusal=said["refusal"],
        seconds=seconds,
        compile_seconds=said["seconds"],
        peak_nbytes=said["peak_nbytes"],
        processor_seconds=said["processor_seconds"] + started,
        stages=said["stages"],
    )


def _children_seconds() -> float:
    """Processor seconds of all processes that this one waited for."""
    times = os.times()
    return times.children_user + times.children_system


def _peak_nbytes() -> int:
    """The most resident memory of this process so far.

    Not ru_maxrss where it can be helped: Linux lets it start at what the parent held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Stages:
    """Progress that adds up the processor seconds of each stage, by its title."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._title = ""
        self._begun = 0.0

    def stage(self, title: str, total: int | None) -> None:
        """The stage before ends."""
        self.done()
        self._title, self._begun = title, time.process_time()

    def advance(self, n: int = 1) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def done(self) -> None:
        """The last stage ends."""
        if self._title:
            spent = time.process_time() - self._begun
            self.seconds[self._title] = self.seconds.get(self._title, 0.0) + spent
        self._title = ""


def main() -> None:
    """Compile as the job on stdin says and print what came of it."""
    from repsimc.compiler.driver import compile_models
    from repsimc.compiler.options import CompileOptions
    from repsimc.compiler.units import parse_budget

    job = json.load(sys.stdin)
    wishes = dict(job["wishes"])
    if wishes.get("budget") is not None:
        wishes["budget"] = parse_budget(wishes["budget"])
    for key in ("calibration", "plan"):
        if wishes.get(key) is not None:
            wishes[key] = Path(wishes[key])
    start, begun = time.perf_counter(), time.process_time()
    report, plan, refusal = None, {}, ""
    stages = Stages()
    try:
        options = CompileOptions(
            models=tuple((name, Path(path)) for name, path in job["models"]),
            output=None if job["output"] is None else Path(job["output"]),
            **wishes,
        )
        result = compile_models(options, stages)
        report, plan = result.report.to_json(), result.plan.to_json()
    except RepsimcError as error:
        refusal = f"{type(error).__name__}: {error.message}"
    seconds = time.perf_counter() - start
    json.dump(
        {
            "report": report,
            "plan": plan,
            "refusal": refusal,
            "seconds": seconds,
            "processor_seconds": time.process_time() - begun,
            "process_seconds": time.process_time(),
            "stages": stages.seconds,
            "peak_nbytes": _peak_nbytes(),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
