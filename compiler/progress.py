"""A sign of life in long work: what is being done, how far, and how long it has taken."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

from .units import printable_line

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID


class Progress(Protocol):
    """What long work tells: the stage it is in, its steps, and that it is over."""

    def stage(self, title: str, total: int | None) -> None:
        """A new stage begins; `total` steps, or None where nobody knows."""
        ...

    def advance(self, n: int = 1) -> None:
        """`n` steps of the stage are done."""
        ...

    def note(self, text: str) -> None:
        """What only those want to know who look closely (-v)."""
        ...

    def done(self) -> None:
        """All stages are over."""
        ...


class NoProgress:
    """Progress that nobody sees."""

    def stage(self, title: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, n: int = 1) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def done(self) -> None:
        """Nothing."""


class Lines:
    """Progress as lines for logs: one as a stage begins, one every 30 s while it lasts.

    '  12.3 s  fitting: 4 of 9' is so long after the first stage began. `ends` adds a line as a
    stage ends, with its own time, and the notes. A thread looks every `pulse` seconds whether a
    line is due, since a long step advances nothing; None: only `advance` looks.
    """

    EVERY_SECONDS = 30.0

    def __init__(
        self,
        stream: IO[str] | None = None,
        ends: bool = False,
        clock: Callable[[], float] = time.monotonic,
        pulse: float | None = 1.0,
    ) -> None:
        self._stream = stream or sys.stderr
        self._ends = ends
        self._clock = clock
        self._pulse = pulse
        self._stage: _Stage | None = None
        self._first: float | None = None
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._watch: threading.Thread | None = None

    def stage(self, title: str, total: int | None) -> None:
        """Tell that the stage begins."""
        with self._lock:
            self._end()
            now = self._clock()
            self._first = now if self._first is None else self._first
            self._stage = _Stage(printable_line(title), total, now, now)
            self._tell(self._stage.title)
        if self._pulse is not None and self._watch is None:
            self._over.clear()
            self._watch = threading.Thread(target=self._look, args=(self._pulse,), daemon=True)
            self._watch.start()

    def advance(self, n: int = 1) -> None:
        """Count the steps; tell how far the stage is where that was long ago."""
        with self._lock:
            if self._stage is not None:
                self._stage.steps += n
            self._tell_if_due()

    def note(self, text: str) -> None:
        """Tell it where the ends of stages are told, too."""
        if self._ends:
            with self._lock:
                self._tell(printable_line(text))

    def done(self) -> None:
        """End the last stage."""
        with self._lock:
            self._end()
        if self._watch is not None:
            self._over.set()
            self._watch.join(1.0)
        self._watch = None

    def _look(self, pulse: float) -> None:
        while not self._over.wait(pulse):
            with self._lock:
                self._tell_if_due()

    def _tell_if_due(self) -> None:
        stage = self._stage
        if stage is not None and self._clock() - stage.told >= self.EVERY_SECONDS:
            stage.told = self._clock()
            self._tell(str(stage))

    def _end(self) -> None:
        stage, self._stage = self._stage, None
        if stage is not None and self._ends:
            self._tell(f"{stage.title}: done in {self._clock() - stage.began:.1f} s")

    def _tell(self, text: str) -> None:
        seconds = 0.0 if self._first is None else self._clock() - self._first
        # Whether anybody reads along is nothing that work could depend on.
        with suppress(OSError, ValueError):
            print(f"{seconds:7.1f} s  {text}", file=self._stream, flush=True)


@dataclass
class _Stage:
    """A stage as it is told of: `began` and when it was `told` of last are seconds of a clock."""

    title: str
    total: int | None
    began: float
    told: float
    steps: int = 0

    def __str__(self) -> str:
        if self.total is not None:
            return f"{self.title}: {min(self.steps, self.total)} of {self.total}"
        return f"{self.title}: {self.steps} done" if self.steps else self.title


class Live:
    """Progress on a terminal: a clock that always runs, a bar only where the total is known."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream
        self._rich: RichProgress | None = None
        self._task: TaskID | None = None

    def stage(self, title: str, total: int | None) -> None:
        """Finish the stage before and show the next."""
        rich = self._shown()
        self._finish(rich)
        self._task = rich.add_task(title, total=total)

    def advance(self, n: int = 1) -> None:
        """Move the bar."""
        if self._rich is not None and self._task is not None:
            self._rich.advance(self._task, n)

    def note(self, text: str) -> None:
        """Nothing: with -v there are lines."""

    def done(self) -> None:
        """Take the display down; the terminal keeps only what was printed."""
        if self._rich is not None:
            self._finish(self._rich)
            self._rich.stop()
        self._rich = None

    def _finish(self, rich: RichProgress) -> None:
        if self._task is not None:
            rich.remove_task(self._task)
        self._task = None

    def _shown(self) -> RichProgress:
        if self._rich is None:
            from rich.console import Console, RenderableType
            from rich.progress import Progress as RichProgress
            from rich.progress import ProgressColumn, SpinnerColumn, TimeElapsedColumn
            from rich.progress_bar import ProgressBar
            from rich.text import Text

            class Title(ProgressColumn):
                def render(self, task: Task) -> RenderableType:
                    return Text(printable_line(task.description))

            class Steps(ProgressColumn):
                # Where the total is unknown a pulsing bar would look like progress.
                def render(self, task: Task) -> RenderableType:
                    if task.total is None:
                        return Text("")
                    return ProgressBar(total=task.total, completed=task.completed, width=24)

            class Share(ProgressColumn):
                def render(self, task: Task) -> RenderableType:
                    return Text("" if task.total is None else f"{task.percentage:3.0f} %")

            self._rich = RichProgress(
                SpinnerColumn("line"),
                TimeElapsedColumn(),
                Title(),
                Steps(),
                Share(),
                console=Console(file=self._stream, stderr=self._stream is None),
                transient=True,
            )
            self._rich.start()
        return self._rich


def progress_for(verbose: bool, quiet: bool, stream: IO[str] | None = None) -> Progress:
    """The progress to show: live on a terminal, lines off it or with -v; none with -q."""
    if quiet:
        return NoProgress()
    if not verbose and (stream or sys.stderr).isatty():
        return Live(stream)
    return Lines(stream, ends=verbose)
