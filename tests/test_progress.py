from __future__ import annotations

import io
import time

from repsimc.compiler.progress import Lines, Live, NoProgress, Progress, progress_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def work(progress: Progress) -> None:
    progress.stage("reading [bold]models", None)
    progress.stage("fitting", 3)
    for _ in range(3):
        progress.advance()
    progress.done()
    progress.done()


def told(out: io.StringIO) -> list[str]:
    """What the lines say, without when."""
    return [line.split(" s  ", 1)[1] for line in out.getvalue().splitlines()]


def test_what_is_shown_is_for_who_looks() -> None:
    assert isinstance(progress_for(True, True, Terminal()), NoProgress)
    assert isinstance(progress_for(False, False, Terminal()), Live)
    for verbose, stream in ((False, io.StringIO()), (True, io.StringIO()), (True, Terminal())):
        assert isinstance(progress_for(verbose, False, stream), Lines)


def test_off_a_terminal_each_stage_has_a_line_as_it_begins() -> None:
    out = io.StringIO()
    progress = progress_for(False, False, out)
    progress.stage("reading\nmodels", None)
    assert told(out) == ["reading\\nmodels"]
    progress.stage("fitting", 3)
    assert told(out) == ["reading\\nmodels", "fitting"]
    progress.note("of no interest")
    progress.done()
    assert told(out) == ["reading\\nmodels", "fitting"]


def test_a_long_stage_is_told_of_every_30_seconds_with_the_share_done() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Lines(out, clock=clock, pulse=None)
    progress.stage("reading", None)
    clock.now += 12.34
    progress.stage("fitting", 9)
    for _ in range(7):
        clock.now += 10
        progress.advance()
    progress.stage("trying regions", None)
    clock.now += 30
    progress.advance(2)
    progress.stage("writing", None)
    clock.now += 31
    progress.advance(0)
    progress.done()
    assert out.getvalue().splitlines() == [
        "    0.0 s  reading",
        "   12.3 s  fitting",
        "   42.3 s  fitting: 3 of 9",
        "   72.3 s  fitting: 6 of 9",
        "   82.3 s  trying regions",
        "  112.3 s  trying regions: 2 done",
        "  112.3 s  writing",
        "  143.3 s  writing",
    ]


def test_verbose_tells_ends_and_notes_too() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Lines(out, ends=True, clock=clock, pulse=None)
    progress.stage("reading", None)
    clock.now += 2.5
    progress.note("nothing was kept")
    progress.stage("fitting", 3)
    clock.now += 4
    progress.done()
    progress.done()
    assert out.getvalue().splitlines() == [
        "    0.0 s  reading",
        "    2.5 s  nothing was kept",
        "    2.5 s  reading: done in 2.5 s",
        "    2.5 s  fitting",
        "    6.5 s  fitting: done in 4.0 s",
    ]


def test_a_step_that_advances_nothing_is_told_of_all_the_same() -> None:
    class Impatient(Lines):
        EVERY_SECONDS = 0.02

    out = io.StringIO()
    progress = Impatient(out, pulse=0.005)
    progress.stage("one long step", None)
    until = time.monotonic() + 10
    while len(told(out)) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    progress.done()
    lines = told(out)
    assert len(lines) >= 3 and set(lines) == {"one long step"}
    time.sleep(0.06)
    assert told(out) == lines, "nothing is told when all is over"


def test_a_reader_that_has_gone_ends_no_work() -> None:
    out = io.StringIO()
    progress = progress_for(False, False, out)
    out.close()
    work(progress)


def test_live_shows_stages_literally_and_cleans_up() -> None:
    out = Terminal()
    work(Live(out))
    text = out.getvalue()
    assert "[bold]models" in text and "fitting" in text


def test_live_shows_the_share_done() -> None:
    out = Terminal()
    progress = Live(out)
    progress.stage("fitting", 4)
    progress.advance(3)
    until = time.monotonic() + 10
    while " 75 %" not in out.getvalue() and time.monotonic() < until:
        time.sleep(0.01)
    progress.done()
    assert " 75 %" in out.getvalue()


def test_live_without_stages_prints_nothing() -> None:
    out = Terminal()
    Live(out).done()
    assert out.getvalue() == ""
