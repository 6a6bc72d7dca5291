"""The process of a command line: its streams and signals, made ready before anything is imported.

Light on purpose: whoever presses Ctrl-C while libraries are still being imported gets an answer,
and not their traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import time

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
# How long after a signal that a library swallowed it is sent again.
_AGAIN_SECONDS = 0.05
# `timeout` and terminals may send a signal to a process and to its group: that is one signal.
_SAME_SECONDS = 0.4


class Stopped(BaseException):
    """A signal asked this process to end: `number` is the signal's.

    Not a KeyboardInterrupt: typer makes something of those, and libraries drop them.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells count."""
        return 128 + self.number

    @property
    def told(self) -> str:
        """What happened, in a word or two."""
        return "interrupted" if self.number == signal.SIGINT else "stopped by a signal"


class Signals:
    """What ended the call, if a signal did; `asked` is None until then."""

    def __init__(self) -> None:
        self.asked: Stopped | None = None
        self._when = 0.0

    def answer(self) -> None:
        """From now on SIGINT, SIGTERM and SIGHUP raise `Stopped`; a second one ends at once.

        Ignored signals (nohup, a shell's background job) stay ignored.
        """
        for name in _SIGNALS:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._raise)
        sys.unraisablehook = self._again_if_lost

    def end(self) -> None:
        """The call is over: a signal that comes while Python takes itself down ends it at once."""
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == self._raise:
                signal.signal(number, _leave)

    def _raise(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self.asked is not None:
            if now - self._when > _SAME_SECONDS:
                _leave(number, frame)
            return
        self.asked, self._when = Stopped(number), now
        raise self.asked

    def _again_if_lost(self, lost: sys.UnraisableHookArgs) -> None:
        # A signal may arrive in a destructor or a callback of a library, which can raise nothing.
        if self.asked is None or not isinstance(lost.exc_value, Stopped):
            sys.__unraisablehook__(lost)
            return
        import threading

        number, self.asked = self.asked.number, None
        again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()


def open_streams() -> None:
    """Stdin, stdout and stderr that can be read and written whatever the caller closed.

    A file that is opened later must not get the number of a closed stream: libraries write to it.
    What an encoding has no character for is written as an escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the least free number, which is this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            made = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, made)
            stream = made
        stream.reconfigure(errors="backslashreplace")


def discard(name: str) -> None:
    """Nothing more is written to that stream ('stdout', 'stderr'), whose reader has gone.

    Python would write what is left of it at exit, fail, and say so.
    """
    stream = getattr(sys, name)
    try:
        number = stream.fileno()
    except (OSError, ValueError, AttributeError):  # a stream that is no file, as in a test
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _leave(number: int, frame: object) -> None:
    os._exit(128 + number)
