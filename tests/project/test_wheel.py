"""What is shipped: the sdist, the wheel built from it, their files and what they ask to install."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "compiler": "repsimc/compiler",
    "passes": "repsimc/passes",
    "runtime": "repsimc/runtime",
    "repsimc": "repsimc",
}


def setuptools_here() -> bool:
    """Whether the build can do without fetching setuptools: the one installed is new enough."""
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        return False
    return int(version.split(".")[0]) >= 77


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel made from it, built from a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    command = [sys.executable, "-m", "build", "--outdir", str(tree / "dist"), str(tree)]
    if setuptools_here():
        command.append("--no-isolation")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tree)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return tree / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    [path] = built.glob("*.whl")
    return zipfile.ZipFile(path)


def sources() -> set[str]:
    """Every source file under the name it is installed with."""
    found = {"repsimc/py.typed"}
    found |= {f"repsimc/cmake/{path.name}" for path in (ROOT / "repsimc" / "cmake").iterdir()}
    assert {f"repsimc/cmake/repsimc.{kind}" for kind in ("cmake", "mk", "bzl")} <= found
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            found.add(f"{package}/{path.relative_to(ROOT / folder).as_posix()}")
    return found


def test_wheel_holds_every_source_file_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    shipped = {entry for entry in wheel.namelist() if ".dist-info/" not in entry}
    assert shipped - sources() == set()
    assert sources() - shipped == set(), "list the sub-package in [tool.setuptools] packages"


def test_wheel_has_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    [points] = [entry for entry in wheel.namelist() if entry.endswith("entry_points.txt")]
    assert "repsimc = repsimc.compiler.cli.main:main" in wheel.read(points).decode()
    assert [entry for entry in wheel.namelist() if entry.endswith("licenses/LICENSE")]


def test_torch_comes_with_its_extra_only(wheel: zipfile.ZipFile) -> None:
    [metadata] = [entry for entry in wheel.namelist() if entry.endswith("METADATA")]
    required = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist") or []
    asking = [line for line in required if re.match(r"torch\b", line)]
    assert asking and all('extra == "torch"' in line for line in asking)


def test_sdist_builds_and_holds_no_stray_folders(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        tops = {entry.split("/")[1] for entry in archive.getnames() if entry.count("/") >= 2}
    assert tops <= {*FOLDERS, "repsimc.egg-info"}


def test_installed_wheel_imports_without_torch(built: Path, tmp_path: Path) -> None:
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    program = """
import sys
for blocked in ("torch", "tensorrt", "sklearn"):
    sys.modules[blocked] = None
import repsimc, repsimc.runtime.session
heavy = {"onnx", "onnx_graphsurgeon", "networkx", "scipy", "typer"} & set(sys.modules)
assert not heavy, f"the runtime imported {heavy}"
assert not [name for name in sys.modules if name.startswith("repsimc.compiler")]
import repsimc.compiler.cli.main, repsimc.compiler.driver, repsimc.passes.pipeline
print(repsimc.__file__)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def test_dev_extra_and_base_leave_torch_out() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        assert not line.startswith(("torch", "repsimc")), line


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    import repsimc

    assert project["version"] == repsimc.__version__
