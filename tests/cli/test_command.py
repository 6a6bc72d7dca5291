from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from repsimc.compiler.cli.command import with_settings
from repsimc.compiler.cli.console import Call, Format
from repsimc.compiler.cli.options import CommandSettings

SEEN: dict[str, Any] = {}
app = typer.Typer()


@app.command()
@with_settings("models", "seed", "frames")
def look(
    call: Call,
    settings: CommandSettings,
    depth: Annotated[int, typer.Option("--depth", help="How deep.")] = 1,
) -> None:
    """Look at it."""
    SEEN.update(call=call, settings=settings, depth=depth)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repsimc.toml in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "repsimc.toml"
    path.write_text('models = ["x.onnx"]\nseed = 7\nformat = "json"\nheld-out = 0.5\n')
    return path


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def test_own_options_come_first_then_those_of_the_settings() -> None:
    shown = run("--help")
    flags = ("--depth", "--seed", "--frames", "--config", "--format", "--verbose", "--quiet")
    assert sorted(flags, key=shown.index) == list(flags)
    assert "Look at it." in shown and "MODELS..." in shown and "--budget" not in shown


def test_what_is_said_wins_over_the_file_and_that_over_the_default(file: Path) -> None:
    run("y.onnx", "--frames", "64", "-q")
    assert SEEN["settings"] == CommandSettings(
        models=(Path("y.onnx"),), seed=7, frames=64, held_out=0.5, format=Format.json
    )
    assert SEEN["depth"] == 1
    assert SEEN["call"] == Call(Format.json, quiet=True)
    run("--seed", "0", "--depth", "3", "--format", "table")
    assert (SEEN["settings"].models, SEEN["settings"].seed) == ((file.parent / "x.onnx",), 0)
    assert (SEEN["depth"], SEEN["call"].format) == (3, Format.table)


def test_a_file_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("seed = 5\n")
    run("--config", "c.toml")
    assert SEEN["settings"] == CommandSettings(seed=5)
