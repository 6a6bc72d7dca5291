from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from repsimc.compiler.cli.app import app
from tests.cli.conftest import SCORES, Ran, save

Call = Callable[..., Ran]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def told(command: Any) -> str:
    """What a command's help tells, in a form that no version of typer draws differently."""
    params = sorted(command.params, key=lambda param: param.opts[0].startswith("-"))
    return "\n".join([command.help, "", *map(_told, params), "", command.epilog, ""])


def _told(param: Any) -> str:
    default = getattr(param.default, "value", param.default)
    parts = [" / ".join([*param.opts, *param.secondary_opts]), param.metavar or ""]
    parts += ["(required)"] if param.required else []
    parts += [] if default in (None, False, [], ()) else [f"(default {default})"]
    return f"{' '.join(filter(None, parts))}\n    {param.help}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str, golden: Callable[[str, str], None]) -> None:
    golden(f"help/{command}.txt", told(COMMANDS[command]))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert "Examples:" in shown.output
    assert f"repsimc {command}" in shown.output.split("Examples:")[1]


def test_help_tells_the_exit_codes(repsimc: Call) -> None:
    ran = repsimc("--help")
    assert ran.code == 0
    assert repsimc() == ran
    assert "5 budget not met" in " ".join(ran.out.split())


def test_version(repsimc: Call) -> None:
    from repsimc import __version__

    assert repsimc("--version").out == f"repsimc {__version__}\n"


# -- what only a process of its own can show: exit codes, pipes, start-up ---------------------

CALL = [
    sys.executable,
    "-c",
    "import sys; from repsimc.compiler.cli.main import main; sys.exit(main())",
]


def call(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CALL, *words], cwd=cwd, capture_output=True, text=True, check=False)


def test_exit_codes_and_streams(tmp_path: Path) -> None:
    done = call("compile", "none.onnx", "--frobnicate", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")

    done = call("inspect", "none.onnx", "--format", "json", cwd=tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["exit_code"] == 3

    save(tmp_path, net=SCORES)
    done = call("inspect", "net.onnx", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, unbuffered: str) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*CALL, "passes"],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writing)
    os.close(reading)  # before the first byte is written
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (141, "")


def test_help_needs_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from repsimc.compiler.cli.main import main; main(['compile', '--help']);"
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'torch', 'scipy', 'networkx', 'PIL'};"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_installed_command_is_this_one() -> None:
    from importlib.metadata import entry_points

    (found,) = entry_points(group="console_scripts", name="repsimc")
    assert found.value == "repsimc.compiler.cli.main:main"
