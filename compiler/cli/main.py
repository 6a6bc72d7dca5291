"""The entry of the command line: `repsimc` and `python -m repsimc`.

The commands themselves are in `app`, and are imported when signals have their answer.
"""

from __future__ import annotations

import os
import sys

from .shell import Signals, Stopped, open_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line (default: this process's); errors are told, not raised.

    For this process's own command line signals are answered, and closed streams opened.
    """
    if arguments is None:
        return _own_call()
    from .app import call

    return call(list(arguments))


def _own_call() -> int:
    signals = Signals()
    try:
        signals.answer()
        open_streams()
        from .app import call

        code = call(sys.argv[1:])
    except Stopped as stopped:  # before there was anything that could tell it
        os.write(2, f"{stopped.told}\n".encode())
        code = stopped.exit_code
    except BaseException:
        # A library whose import was interrupted may raise what it likes.
        if signals.asked is None:
            raise
        code = signals.asked.exit_code
    else:
        if signals.asked is not None:
            code = signals.asked.exit_code
    signals.end()
    return code
