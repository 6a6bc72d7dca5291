from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from repsimc.compiler.cli.main import app
from tests.cli.conftest import Ran

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
