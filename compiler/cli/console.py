"""Where a call's results, warnings and errors go: stdout, stderr, and the exit code."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import BackendError, InternalFault, RepsimcError, UsageError
from ..units import printable
from .shell import Stopped, discard

if TYPE_CHECKING:
    from ..progress import Progress
    from ..reports.outcome import Outcome
    from ..reports.table import Grid

ERROR_SCHEMA = "repsimc.error/1"
DEBUG = "REPSIMC_DEBUG"  # set to anything: tracebacks of unexpected errors, as with -v
_LONGEST = 4000  # characters of a message
BROKEN_PIPE = 141  # 128 + SIGPIPE


class Format(str, Enum):  # noqa: UP042 (StrEnum is of Python 3.11; JetPack 6 has 3.10)
    """How results are printed."""

    table = "table"
    json = "json"
    markdown = "markdown"
    github = "github"
    junit = "junit"
    gha_benchmark = "gha-benchmark"

    @property
    def for_builds(self) -> bool:
        """Whether a build service reads it, of the commands that have an outcome."""
        return self in (Format.github, Format.junit, Format.gha_benchmark)

    def __str__(self) -> str:
        return self.value


@dataclass
class Call:
    """What is true of a whole call: the form of its results, and how much it tells besides.

    `doing` is the stage that it is in, in words; `config` the file of options that was named;
    `command` the first word of the command line.
    """

    format: Format = Format.table
    verbose: bool = False
    quiet: bool = False
    doing: str = ""
    config: Path | None = None
    command: str = ""

    def take(
        self,
        format: Format | None,
        verbose: bool = False,
        quiet: bool = False,
        judges: bool = False,
    ) -> Call:
        """The call, with what a command was told on top; one that `judges` has an outcome.

        Raises UsageError for a format of outcomes where there is none.
        """
        self.format = format or self.format
        if self.format.for_builds and not judges:
            told, self.format = self.format, Format.table
            raise UsageError(
                f"--format {told} is for check, verify, bench and compile",
                "this command has table, json and markdown",
            )
        self.verbose = verbose or self.verbose
        self.quiet = quiet or self.quiet
        return self

    @contextmanager
    def progress(self) -> Generator[Progress]:
        """Where long work tells how far it is, until the block ends."""
        from ..progress import progress_for

        found = _Followed(progress_for(self.verbose, self.quiet), self)
        try:
            yield found
        finally:
            found.done()

    def show(self, value: dict[str, Any], *grids: Grid, outcome: Outcome | None = None) -> None:
        """Print a result: the grids as tables or Markdown, the value as JSON, or the outcome."""
        if self.format.for_builds:
            assert outcome is not None
            print_outcome(self.format, outcome)
            return
        if self.format is Format.json:
            print(json_text(value))
            return
        from ..reports.table import markdown, print_grid

        for index, grid in enumerate(grids):
            if index:
                print()
            if self.format is Format.markdown:
                print(markdown(grid), end="")
            else:
                print_grid(grid)

    def say(self, text: str) -> None:
        """Print a line for people; what programs read never has it."""
        if self.format is not Format.json and not self.format.for_builds:
            print(printable(text))

    def warn(self, text: str) -> None:
        """Print a warning to stderr; -q keeps it away."""
        if not self.quiet:
            _tell(f"warning: {text}")


@dataclass
class _Followed:
    """Progress as it is shown, and the call told of its stage."""

    shown: Progress
    call: Call

    def stage(self, title: str, total: int | None) -> None:
        self.call.doing = title
        self.shown.stage(title, total)

    def advance(self, n: int = 1) -> None:
        self.shown.advance(n)

    def note(self, text: str) -> None:
        self.shown.note(text)

    def done(self) -> None:
        self.shown.done()


def print_outcome(format: Format, outcome: Outcome) -> None:
    """Print what a command found as a build service reads it; nothing leaves the encoding."""
    from ..reports.outcome import FORMATS

    text = FORMATS[format.value](outcome)
    encoding = sys.stdout.encoding or "utf-8"
    if "utf" not in encoding.lower():
        # A document in XML says UTF-8 of itself, and has words of its own for other characters.
        how = "xmlcharrefreplace" if format is Format.junit else "backslashreplace"
        text = text.encode("ascii", how).decode()
    print(text.encode("utf-8", "backslashreplace").decode(), end="")


def json_text(value: Any) -> str:
    """The value as JSON that stdout can take: a name that is no valid Unicode is escaped in it."""
    plain = "utf" not in (sys.stdout.encoding or "utf-8").lower()
    text = json.dumps(value, indent=2, ensure_ascii=plain, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode()


def call_of(ctx: typer.Context) -> Call:
    """The call that a command belongs to."""
    return ctx.ensure_object(Call)


def guarded(run: Callable[[Call], object], arguments: Sequence[str]) -> int:
    """The exit code of `run`; whatever it raises is told in a line or two, never as a traceback.

    The one place where errors become messages and exit codes. With --format json the error is a
    JSON object on stdout too, whatever went wrong, the command line itself included.
    """
    call = _asked(arguments)

    def warn(message: Warning | str, *_: object) -> None:
        call.warn(str(message))

    try:
        with warnings.catch_warnings():
            # Python's own form of a warning shows a line of our source, which is of no use here.
            warnings.showwarning = warn
            # Whatever PYTHONWARNINGS says: what is to be told is neither an error nor kept away.
            warnings.simplefilter("default", UserWarning)
            code = run(call)
        sys.stdout.flush()
        code = code if isinstance(code, int) else 0
    except BaseException as error:
        code = _told(error, call)
    # Python flushes what is left at exit, and would complain.
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (OSError, ValueError):
            discard(name)
    return code


def _told(error: BaseException, call: Call) -> int:
    """The exit code of what was raised, once it is told; what is no Exception is raised again."""
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return BROKEN_PIPE  # the reader has gone: `repsimc passes | head -1`
    if (stopped := _interruption(error)) is not None:
        _tell(stopped.told)
        return stopped.exit_code
    if not isinstance(error, Exception):
        raise error
    if not isinstance(error, RepsimcError) and (call.verbose or os.environ.get(DEBUG)):
        _tell("".join(traceback.format_exception(error)).rstrip())
    shown = _as_shown(error, call)
    tell_error(shown)
    if call.format is Format.json or call.format.for_builds:
        try:
            if call.format.for_builds:
                from ..reports.outcome import error_outcome

                print_outcome(call.format, error_outcome(call.command, shown))
            else:
                print(json_text({"schema": ERROR_SCHEMA, "error": error_json(shown)}))
            sys.stdout.flush()
        except OSError:
            discard("stdout")
    return shown.exit_code


def _interruption(error: BaseException) -> Stopped | None:
    """The signal that ended an interrupted call; None of any other.

    A library that is interrupted may raise something of its own.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, Stopped):
            return seen
        if isinstance(seen, (KeyboardInterrupt, typer.Abort)):
            return Stopped(signal.SIGINT)
        seen = seen.__cause__ or seen.__context__
    return None


def error_json(error: RepsimcError) -> dict[str, Any]:
    """The error as JSON types."""
    return {
        "kind": type(error).__name__,
        "message": _shortened(error.message),
        "hint": _shortened(error.hint),
        "exit_code": error.exit_code,
    }


def tell_error(error: RepsimcError) -> None:
    """Print `error: ...` and the hint to stderr."""
    hint = f"\n  hint: {_shortened(error.hint)}" if error.hint else ""
    _tell(f"error: {_shortened(error.message)}{hint}")


def _shortened(text: str) -> str:
    # A name or a value in it may be as long as a file.
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _asked(arguments: Sequence[str]) -> Call:
    """What the raw command line asks for: a command line that can't be parsed has a form too."""
    words = list(arguments)
    # Of two the last counts, as it does for the command.
    said = [pair[1] for pair in pairwise([*words, ""]) if pair[0] == "--format"]
    said += [word.partition("=")[2] for word in words if word.startswith("--format=")]
    known = [Format(word) for word in said if word in tuple(Format)]
    return Call(
        known[-1] if known else Format.table,
        command=words[0] if words else "",
        verbose=bool({"-v", "--verbose"} & set(words)),
        quiet=bool({"-q", "--quiet"} & set(words)),
    )


def _as_shown(error: Exception, call: Call) -> RepsimcError:
    if isinstance(error, RepsimcError):
        return error
    # Typer's errors have no public common class in the versions supported; this method tells them.
    told = getattr(error, "format_message", None)
    if callable(told):
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", "repsimc")
        return UsageError(str(told()), f"{command} --help")
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("repsimc"):
        return BackendError(
            f"this command needs {error.name}, which is not installed",
            "pip install 'repsimc[compile]' (on a device, building, running, measuring and "
            "inspecting bundles need no more than repsimc itself)",
        )
    if isinstance(error, OSError) and error.strerror:
        return RepsimcError(
            f"{error.filename or 'the system'}: {error.strerror}",
            "free some space and call again" if error.errno == errno.ENOSPC else "",
        )
    if isinstance(error, MemoryError):
        return RepsimcError("memory ran out", "give fewer frames: --frames 256")
    doing = f" while {call.doing}" if call.doing else ""
    return InternalFault(f"internal error{doing}: {type(error).__name__}: {error}")


def _tell(text: str) -> None:
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:  # nobody listens
        discard("stderr")
