"""What only a process of its own can show: exit codes, pipes, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import SCORES, save

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


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*CALL, "passes"], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True
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
