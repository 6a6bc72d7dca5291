"""A sign of life in long work: what is being done, how far, and how long it has taken."""

from __future__ import annotations

import sys
import time
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

    def done(self) -> None:
        """All stages are over."""
        ...


class NoProgress:
    """Progress that nobody sees."""

    def stage(self, title: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, n: int = 1) -> None:
        """Nothing."""

    def done(self) -> None:
        """Nothing."""


class Lines:
    """Progress as one line per finished stage, for logs: '  12.3 s  fitting adapters'."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._title = ""
        self._began = 0.0

    def stage(self, title: str, total: int | None) -> None:
        """Print the stage that ends here, begin the next."""
        self.done()
        self._title, self._began = title, time.monotonic()

    def advance(self, n: int = 1) -> None:
        """Nothing: a log takes stages, not steps."""

    def done(self) -> None:
        """Print the last stage."""
        if self._title:
            seconds = time.monotonic() - self._began
            print(f"{seconds:7.1f} s  {printable_line(self._title)}", file=self._stream, flush=True)
        self._title = ""


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

            self._rich = RichProgress(
                SpinnerColumn("line"),
                TimeElapsedColumn(),
                Title(),
                Steps(),
                console=Console(file=self._stream, stderr=self._stream is None),
                transient=True,
            )
            self._rich.start()
        return self._rich


def progress_for(verbose: bool, quiet: bool, stream: IO[str] | None = None) -> Progress:
    """The progress to show: live on a terminal, lines with -v, else none; none with -q."""
    if quiet:
        return NoProgress()
    if verbose:
        return Lines(stream)
    if (stream or sys.stderr).isatty():
        return Live(stream)
    return NoProgress()
