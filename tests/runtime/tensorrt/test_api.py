"""The names that the facade touches, on the real Python bindings of every version it is for.

`make test-tensorrt` fetches the bindings; their libraries are stubs that are compiled here, enough
to import them and to look, not to call.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from repsimc.runtime.tensorrt.surface import EITHER, NEEDED, PROBED, SURFACE

ROOT = Path(__file__).parents[3]
WHEELS = Path(os.environ.get("REPSIMC_WHEELS", "no wheels"))
VERSIONS = ("8.6.1", "10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
TOOLS = ("gcc", "readelf", "nm")

LOOK = """
import json, sys
import {module} as module
from repsimc.runtime.tensorrt.api import TensorRT
from repsimc.runtime.tensorrt.surface import SURFACE
found = TensorRT(module, lambda severity, message: None)
print(json.dumps(dict(
    version=found.version, flags=found.has_flags, types=found.wants_types,
    lacks=sorted(name for name in SURFACE if not found.has(name)),
)))
"""
FLAGS = {"BuilderFlag.FP16", "BuilderFlag.INT8", "BuilderFlag.OBEY_PRECISION_CONSTRAINTS"}
RTX_ONLY = {
    "ComputeCapability.SM86",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}
REMOVED_IN_11 = {
    *FLAGS,
    "Builder.platform_has_fast_fp16",
    "Builder.platform_has_fast_int8",
    "ICudaEngine.create_execution_context_without_device_memory",
    "ICudaEngine.device_memory_size",
    "ILayer.precision",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
}
SINCE_10 = {
    "DataType.INT64",
    "ExecutionContextAllocationStrategy.USER_MANAGED",
    "ICudaEngine.device_memory_size_v2",
    "IExecutionContext.set_device_memory",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
}
SINCE_10_13 = {"Builder.build_engine_with_config"}
LACKS = {
    "8.6.1": RTX_ONLY | SINCE_10 | SINCE_10_13,
    "10.3.0": RTX_ONLY | SINCE_10_13,
    "10.13.3.9": RTX_ONLY,
    "10.16.1.11": RTX_ONLY,
    "11.4.0.106": RTX_ONLY | REMOVED_IN_11,
}


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def stub_libraries(bindings: Path, folder: Path) -> None:
    """Libraries with every symbol that the bindings want, each returning nothing."""
    needed = re.findall(r"Shared library: \[(libnv[^\]]+)\]", said("readelf", "-d", str(bindings)))
    symbols = [line.split()[-1] for line in said("nm", "-D", "-u", str(bindings)).splitlines()]
    wanted = [s for s in symbols if "@" not in s and not s.startswith(("Py", "_Py", "_ITM", "__"))]
    source = "\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in wanted)
    for name in needed:
        command = ["gcc", "-shared", "-fPIC", "-w", "-x", "c", "-", f"-Wl,-soname,{name}"]
        subprocess.run([*command, "-o", str(folder / name)], input=source, text=True, check=True)


def look(module: str, **environment: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(module=module)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_facade_finds_what_it_needs_in(version: str, tmp_path: Path) -> None:
    wheels = sorted(WHEELS.glob(f"tensorrt*_bindings-{version}-*.whl"))
    if not wheels:
        pytest.skip(f"no bindings of TensorRT {version} here: make test-tensorrt fetches them")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"{', '.join(missing)} not found: the stub libraries cannot be made")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(tmp_path / "site")
    [bindings] = (tmp_path / "site").rglob("tensorrt.so")
    stub_libraries(bindings, tmp_path)
    found = look(
        "tensorrt_bindings", PYTHONPATH=str(tmp_path / "site"), LD_LIBRARY_PATH=str(tmp_path)
    )
    assert found["version"] == version
    assert set(found["lacks"]) == LACKS[version]  # type: ignore[call-overload]
    assert found["flags"] is not version.startswith("11.")
    assert found["types"] is (version not in ("8.6.1", "10.3.0"))


def test_the_facade_finds_what_it_needs_in_rtx() -> None:
    place = WHEELS / "rtx"
    if not (place / "tensorrt_rtx").is_dir():
        pytest.skip("no TensorRT-RTX here: make test-tensorrt fetches it")
    found = look("tensorrt_rtx", PYTHONPATH=str(place))
    assert set(found["lacks"]) == REMOVED_IN_11 | SINCE_10_13  # type: ignore[call-overload]
    assert found["types"] is True


def test_a_module_that_lacks_something_is_refused() -> None:
    from types import SimpleNamespace

    from repsimc.runtime.errors import BackendError
    from repsimc.runtime.tensorrt.api import TensorRT

    empty = SimpleNamespace(__name__="tensorrt", __version__="7.0")
    with pytest.raises(BackendError, match=r"tensorrt 7\.0 lacks .*Builder\.create_network"):
        TensorRT(empty, lambda severity, message: None)  # type: ignore[arg-type]


def test_every_name_that_the_facade_touches_is_on_the_list() -> None:
    tree = ast.parse((ROOT / "runtime" / "tensorrt" / "api.py").read_text())
    theirs = {"builder", "network", "parser", "config", "profile", "layer", "engine", "context"}
    theirs |= {"cache", "after", "trt"}
    attributes = {"_engine", "_context", "_runtime", "module"}
    touched: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            base = node.value
            named = isinstance(base, ast.Name) and base.id in theirs
            held = isinstance(base, ast.Attribute) and base.attr in attributes
            if named or held:
                touched.add(node.attr)
    listed = {part for name in SURFACE for part in name.split(".")} | {"OnnxParser", "Runtime"}
    own = {"__name__", "__version__", "has", "module"}  # `trt` is the facade in one method
    assert touched and touched - listed - own == set()
    assert not set(NEEDED) & set(PROBED)
    assert {name for names in EITHER for name in names} <= set(PROBED)


def test_the_versions_of_the_makefile_are_those_of_the_project() -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [rtx] = extras["optional-dependencies"]["rtx"]
    assert f"RTX     = {rtx}\n" in makefile
    assert all(f"bindings=={version}" in makefile for version in VERSIONS)


def test_no_other_file_touches_tensorrt() -> None:
    for folder in ("runtime", "compiler", "passes"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != ROOT / "runtime" / "tensorrt" / "api.py":
                text = path.read_text()
                assert not re.search(r"^\s*(import|from) tensorrt", text, re.MULTILINE), path
