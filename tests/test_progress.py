from __future__ import annotations

import io

from repsimc.compiler.progress import Lines, Live, NoProgress, Progress, progress_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(progress: Progress) -> None:
    progress.stage("reading [bold]models", None)
    progress.stage("fitting", 3)
    for _ in range(3):
        progress.advance()
    progress.done()
    progress.done()


def test_silent_when_not_a_terminal_and_with_q() -> None:
    assert isinstance(progress_for(False, False, io.StringIO()), NoProgress)
    assert isinstance(progress_for(True, True, Terminal()), NoProgress)
    assert isinstance(progress_for(False, False, Terminal()), Live)


def test_verbose_prints_one_line_per_stage() -> None:
    out = io.StringIO()
    progress = progress_for(True, False, out)
    assert isinstance(progress, Lines)
    work(progress)
    assert [line.split(" s  ")[1] for line in out.getvalue().splitlines()] == [
        "reading [bold]models",
        "fitting",
    ]


def test_live_shows_stages_literally_and_cleans_up() -> None:
    out = Terminal()
    work(Live(out))
    text = out.getvalue()
    assert "[bold]models" in text and "fitting" in text


def test_live_without_stages_prints_nothing() -> None:
    out = Terminal()
    Live(out).done()
    assert out.getvalue() == ""
