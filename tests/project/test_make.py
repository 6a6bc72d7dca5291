"""The commands a newcomer types first: `make demo`, and what the Makefile promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What make does with the virtual environment that runs this test, its stamps kept."""
    # A make that runs these tests hands its flags down; this one must not take them.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    venv = f"VENV={sys.prefix}"
    old = [f"--old-file={sys.prefix}/{stamp}" for stamp in (".repsimc", ".repsimc-dev")]
    command = ["make", "--no-print-directory", *old, venv, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@make
def test_demo_compiles_verifies_and_benches_twice(tmp_path: Path) -> None:
    for _ in range(2):
        done = run("demo", f"DEMO={tmp_path / 'demo'}")
        assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "demo" / "manifest.json").read_text())
    assert {model["name"] for model in manifest["models"]} == {"digit", "parity", "digit_deep"}


@make
def test_help_lists_the_targets() -> None:
    listed = set(re.findall(r"make (\w+)", run("help").stdout))
    assert {"demo", "test", "check", "links", "bench", "clean"} <= listed


@make
def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run("demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}")
    assert done.returncode != 0
    assert "Python 3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_ci_script_is_executable_and_names_no_place() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert all(f"step {target}" in text for target in ("demo", "check", "test"))
    assert "://" not in text
