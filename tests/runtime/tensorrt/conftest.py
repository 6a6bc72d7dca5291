from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.tensorrt.bundles import bundle

DOUBLE = Path(__file__).parent / "double"
ROOT = Path(__file__).parents[3]
PRELUDE = """
import json, sys
import numpy as np
import repsimc
from repsimc.runtime.session import load
from tests.runtime.tensorrt.bundles import FRAMES
path = sys.argv[1]
def same(one, other):
    assert list(one) == list(other)
    for model in one:
        for name, array in one[model].items():
            assert array.dtype == other[model][name].dtype
            np.testing.assert_allclose(array, other[model][name], rtol=1e-4, atol=1e-5)
"""


@dataclass(frozen=True)
class Ran:
    """What a process printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The JSON that it printed."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Machine:
    """A pretended device: the stub of the driver and the double of TensorRT, for children."""

    library: Path
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.library.parent),
            "PYTHONPATH": str(DOUBLE),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "DOUBLE_LOG": str(self.folder / "asked.jsonl"),
            **more,
        }

    def repsimc(self, *words: object, env: Mapping[str, str] | None = None) -> Ran:
        """A call of the command line on that device."""
        return self.python(
            "import sys; from repsimc.compiler.cli.main import main; sys.exit(main(sys.argv[1:]))",
            *words,
            env=env,
        )

    def python(self, code: str, *words: object, env: Mapping[str, str] | None = None) -> Ran:
        """A Python process on that device."""
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            env=self.environment(**(env or {})),
            capture_output=True,
            text=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def session(self, path: Path, code: str, **env: str) -> str:
        """What a process on the device prints that runs `code` on a bundle; it must end well."""
        places = os.pathsep.join([self.environment()["PYTHONPATH"], str(ROOT)])
        done = self.python(PRELUDE + code, path, env={"PYTHONPATH": places, **env})
        assert done.code == 0, done.err
        return done.out

    def asked(self) -> list[dict[str, Any]]:
        """What the double's builder was asked for since the last call."""
        path = self.folder / "asked.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def stub_cuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub of libcuda.so.1, compiled here."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler for the stub of the CUDA driver")
    path = tmp_path_factory.mktemp("stub") / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-w", "-o", str(path), str(DOUBLE / "stub_cuda.c")]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def machine(stub_cuda: Path, tmp_path: Path) -> Machine:
    """A pretended Jetson."""
    return Machine(stub_cuda, tmp_path)


@pytest.fixture(scope="session")
def ready(stub_cuda: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with engines of both layouts for the default version."""
    folder = tmp_path_factory.mktemp("ready")
    path = bundle(folder)
    for layout in ("merged", "trunk-heads"):
        done = Machine(stub_cuda, folder).repsimc("build", path, "--layout", layout)
        assert done.code == 0, done.err
    return path
