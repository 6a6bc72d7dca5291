"""Nothing leaves the machine: no command opens a connection, nor does a library it loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import MAP, SCORES, save

# Runs at the start of every Python process of a call, those that measure included.
BLOCKED = """
import os, sys

def refuse(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{event} {arguments} {sys.argv}\\n")
        raise PermissionError(f"a test blocks {event}")

sys.addaudithook(refuse)
"""
# What audit hooks cannot see: a library's own uploader. It keeps an identifier in the user's home.
STARTED = """
import os
import onnxruntime
onnxruntime.get_device()
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def environment(folder: Path) -> dict[str, str]:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(BLOCKED)
    (folder / "home").mkdir()
    # ONNX Runtime sends nothing in CI whatever we do: take its signs away.
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "SYSTEMROOT", "TMPDIR")}
    home = str(folder / "home")
    return {
        **kept,
        "PYTHONPATH": str(folder / "site"),
        "CONNECTIONS": str(folder / "connections"),
        "HOME": home,
        "XDG_CACHE_HOME": f"{home}/cache",
        "XDG_DATA_HOME": f"{home}/data",
        "XDG_STATE_HOME": f"{home}/state",
        "XDG_CONFIG_HOME": f"{home}/config",
    }


def test_compile_verify_and_bench_open_no_connection(tmp_path: Path) -> None:
    env = environment(tmp_path)
    save(tmp_path, a=SCORES, b=MAP)
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(48, 3)).astype("f4"))
    for words in (
        ["compile", "a.onnx", "b.onnx", "--calib", "x.npz", "-o", "bundle"],
        ["verify", "bundle", "--data", "x.npz"],
        ["bench", "bundle", "--runs", "2", "--warmup", "0"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "repsimc", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "connections").exists(), (tmp_path / "connections").read_text()
    # Nor did ONNX Runtime's uploader start: it would have made itself an identifier.
    kept = tmp_path / "home" / "cache" / "repsimc"  # our own, as README and docs/ say
    left = {path.parent for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert left == {kept / "evidence", kept / "models"}, left


def test_the_hook_sees_a_connection(tmp_path: Path) -> None:
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "a test blocks socket." in done.stderr
    assert (tmp_path / "connections").read_text().startswith("socket.")


@pytest.mark.parametrize("module", ["repsimc", "repsimc.runtime.session", "repsimc.runtime.ort"])
def test_telemetry_is_off_whatever_is_imported_first(tmp_path: Path, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}{STARTED}"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_telemetry_of_a_runtime_that_was_there_first_is_turned_off(tmp_path: Path) -> None:
    code = """
import sys, types
there = types.ModuleType("onnxruntime")
there.disable_telemetry_events = lambda: print("off")
sys.modules["onnxruntime"] = there
import repsimc
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "off\n"), done.stderr
