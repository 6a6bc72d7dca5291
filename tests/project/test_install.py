"""What `pip install repsimc` brings: on a device the runtime and the build, and nothing heavier."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.reports.test_table import REPORT
from tests.runtime.bundles import bundled, tied_pair

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = ("torch", "onnx", "onnxruntime", "onnx_graphsurgeon", "scipy", "networkx", "PIL")
# What JetPack 7 has: Ubuntu 24.04, Python 3.12.
PLATFORM = ("--platform", "manylinux_2_28_aarch64", "--python-version", "3.12")


def resolve(*requirements: str) -> subprocess.CompletedProcess[str]:
    """What pip would install of wheels for a Jetson; nothing is installed."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--disable-pip-version-check", "--retries", "0", "--timeout", "10"]
    command += ["--only-binary=:all:", *PLATFORM, "--target", "nowhere", *requirements]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_base_install_has_nothing_that_only_compiling_needs() -> None:
    names = {line.split(">")[0].split("=")[0].strip() for line in PROJECT["dependencies"]}
    assert names == {"numpy", "typer", "rich"}
    extras = PROJECT["optional-dependencies"]
    assert any(line.startswith("onnx>=") for line in extras["compile"])
    assert any(line.startswith("onnxruntime>=") for line in extras["onnxruntime"])
    # TensorRT is JetPack's: pip cannot fetch it, and must not try.
    everything = [*PROJECT["dependencies"], *(line for e in extras.values() for line in e)]
    assert not [line for line in everything if line.startswith("tensorrt") and "rtx" not in line]


def test_the_runtime_install_resolves_for_aarch64() -> None:
    if resolve("rich").returncode != 0:
        pytest.skip("pip finds no package index here")
    done = resolve(*PROJECT["dependencies"])
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("Would install")]
    brought = {word.rsplit("-", 1)[0].lower() for word in line.split()[2:]}
    assert "numpy" in brought and not brought & {"torch", "onnx", "onnxruntime", "scipy"}


def without_heavy(
    code: str, *arguments: object, there: str = ""
) -> subprocess.CompletedProcess[str]:
    """What a Python without the compiler's libraries, but the one `there`, says to `code`."""
    heavy = tuple(name for name in HEAVY if name != there)
    block = f"import sys\nfor name in {heavy!r}:\n    sys.modules[name] = None\n"
    return subprocess.run(
        [sys.executable, "-c", block + code, *map(str, arguments)], capture_output=True, text=True
    )


RUN = "from repsimc.compiler.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["build", "BUNDLE"], 6),  # no GPU here, or no engines: never a missing module
        (["bench", "BUNDLE", "--backend", "tensorrt"], 6),
        (["export", "BUNDLE", "--trtexec"], 0),
        (["doctor"], 0),
        (["inspect", "BUNDLE"], 0),
        (["inspect", "BUNDLE", "--format", "json"], 0),
        (["--help"], 0),
    ],
)
def test_commands_for_a_device_need_nothing_else(
    tmp_path: Path, words: list[str], code: int
) -> None:
    path = bundled(tmp_path, tied_pair(), report=REPORT.to_json())
    done = without_heavy(RUN, *(path if word == "BUNDLE" else word for word in words))
    assert done.returncode == code, done.stderr
    assert "repsimc[compile]" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["compile", "x.onnx"],
        ["inspect", "x.onnx"],
        ["passes"],
        ["similarity", "a", "b", "--calib", "c"],
    ],
)
def test_commands_that_compile_say_what_to_install(words: list[str]) -> None:
    done = without_heavy(RUN, *words)
    assert done.returncode == 6
    assert "pip install 'repsimc[compile]'" in done.stderr and "Traceback" not in done.stderr


def test_running_without_onnx_runtime_says_what_to_install(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    for words in (["bench", path], ["run", path, "--input", "x"]):
        done = without_heavy(RUN, *words)
        assert done.returncode in (3, 6) and "Traceback" not in done.stderr
    done = without_heavy(RUN, "bench", path)
    assert done.returncode == 6 and "pip install 'repsimc[onnxruntime]'" in done.stderr


def test_with_onnx_runtime_alone_bundles_run(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair(), report=REPORT.to_json())
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    words = ["run", path, "--input", f"x={tmp_path / 'x.npy'}", "-o", tmp_path / "y.npz"]
    for line in (words, ["inspect", path]):
        done = without_heavy(RUN, *line, there="onnxruntime")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "y.npz").is_file()
    done = without_heavy(RUN, "inspect", path / "merged.onnx", there="onnxruntime")
    assert done.returncode == 6 and "this command needs onnx" in done.stderr


def test_python_says_what_to_install() -> None:
    done = without_heavy("import repsimc; repsimc.load; repsimc.compile")
    assert done.returncode == 1
    assert "ImportError: repsimc.compile needs" in done.stderr
    assert "pip install 'repsimc[compile]'" in done.stderr


def test_the_session_of_a_device_imports_nothing_heavy(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    code = """
import repsimc
from repsimc.runtime.errors import BackendError
from repsimc.runtime.tensorrt import building, execution, gate
try:
    repsimc.load(sys.argv[1]).session(backend="tensorrt")
except BackendError:
    print("asked the device")
"""
    done = without_heavy(code, path)
    assert (done.returncode, done.stdout) == (0, "asked the device\n"), done.stderr
