"""benchmarks/tensorrt.py says what it could not measure, and does not stand in TensorRT's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tensorrt.py"


def test_what_is_missing_is_told_in_the_record(tmp_path: Path) -> None:
    for module in ("tensorrt_rtx",):
        looked = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True)
        if looked.returncode == 0:
            pytest.skip(f"{module} is installed")
    records = tmp_path / "records.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(records)],
        env={**os.environ, "REPSIMC_ZOO": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "only the shipped example is measured" in done.stderr
    found = {record["name"]: record for record in json.loads(records.read_text())}
    assert found["gate"]["value"] is None and "extra rtx" in found["gate"]["extra"]
    assert found["segments"]["value"] is None and found["gpu"]["value"] is None


def test_a_file_called_tensorrt_is_not_taken_for_the_library() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import importlib.util
spec = importlib.util.spec_from_file_location("bench", {str(SCRIPT)!r})
module = importlib.util.module_from_spec(spec)
sys.modules["bench"] = module
spec.loader.exec_module(module)
module.PARTS = ()
module.main([])
assert importlib.util.find_spec("tensorrt") is None or "benchmarks" not in str(
    importlib.util.find_spec("tensorrt").origin
)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
