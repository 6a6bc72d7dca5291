"""Bundles in other people's builds: what is shipped for them, and examples/integration, run.

What is missing here (CMake, Ninja, Make, a C++ compiler, Bazel, systemd, ONNX Runtime's headers) is
skipped by name. No container and no GitHub runner is started: what they would call is.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repsimc.runtime.session import load

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "repsimc" / "cmake"
EXAMPLE = ROOT / "examples" / "integration"
BIN = Path(sys.executable).parent
REPSIMC = BIN / "repsimc"
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"  # the extra `dev` brings CMake and Ninja
DIGITS = ("digit.onnx", "parity.onnx", "frames.npz", "labelled.npz")
COMPILING, NOTHING = "Compiling the bundle", "nothing to do"
STAND_IN = Path(__file__).with_name("onnxruntime_cxx_api.h")


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool, path=PATH) is None:
            pytest.skip(f"there is no {tool} here")


def call(*words: object, cwd: Path | None = None, ok: bool = True) -> str:
    """What a command prints, errors too; it has to end well unless told otherwise."""
    done = subprocess.run(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, "PATH": PATH, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert (done.returncode == 0) is ok, done.stdout
    return done.stdout


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A copy of the example's models and frames, written long ago, in a folder with a blank."""
    folder = tmp_path / "the digits"
    folder.mkdir()
    for name in DIGITS:
        shutil.copy(ROOT / "examples" / "digits" / name, folder)
        os.utime(folder / name, (1e9, 1e9))
    return folder


def touch(path: Path) -> None:
    """Newer than anything that was made until now; file systems may count in seconds."""
    time.sleep(1.1)
    path.touch()


def configure(source: Path, build: Path, *words: str, ok: bool = True) -> str:
    folder = call(REPSIMC, "--cmake-dir").strip()
    assert Path(folder).samefile(SHIPPED)
    found = (f"-Drepsimc_DIR={folder}", f"-DREPSIMC_EXECUTABLE={REPSIMC}")
    return call("cmake", "-S", source, "-B", build, *found, *words, ok=ok)


# -- CMake -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("generator", "tool"), [("Ninja", "ninja"), ("Unix Makefiles", "make")])
def test_the_cmake_example_compiles_once_and_again_when_something_changed(
    tmp_path: Path, digits: Path, generator: str, tool: str
) -> None:
    need("cmake", "c++", tool)
    build = tmp_path / "build"
    configure(EXAMPLE, build, "-G", generator, f"-DDIGITS={digits}")
    graph = build / "nets" / "merged.onnx"
    assert COMPILING in call("cmake", "--build", build)
    assert load(build / "nets").models == ("digit", "parity")
    before = graph.stat().st_mtime_ns
    assert COMPILING not in call("cmake", "--build", build)

    touch(digits / "frames.npz")  # newer, and the same
    assert NOTHING in call("cmake", "--build", build)
    assert COMPILING not in call("cmake", "--build", build)
    assert graph.stat().st_mtime_ns == before

    touch(digits / "frames.npz")
    shutil.copyfile(digits / "labelled.npz", digits / "frames.npz")
    told = call("cmake", "--build", build)
    assert COMPILING in told and NOTHING not in told
    assert COMPILING not in call("cmake", "--build", build)

    call("cmake", "--install", build, "--prefix", tmp_path / "there")
    assert load(tmp_path / "there" / "share" / "run_bundle" / "nets").models
    call("cmake", "--build", build, "--target", "clean")
    assert not (build / "nets").exists()


def test_the_ten_lines_of_the_readme(tmp_path: Path, digits: Path) -> None:
    need("cmake", "make")
    [text] = re.findall(r"```cmake\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(text.splitlines()) <= 10
    (digits / "CMakeLists.txt").write_text(text)
    [line] = [line for line in text.splitlines() if line.startswith("# ")]
    told = call("sh", "-c", line.removeprefix("# "), cwd=digits)
    assert COMPILING in told
    assert load(digits / "build" / "nets").models == ("digit", "parity")


PROJECT = """
cmake_minimum_required(VERSION 3.20)
project(test NONE)
find_package(repsimc CONFIG REQUIRED)
"""


def test_every_word_of_the_function_reaches_the_command(tmp_path: Path, digits: Path) -> None:
    need("cmake", "make")
    (digits / "own.toml").write_text("seed = 3\n")
    (digits / "plan.json").write_text("{}")
    echo = digits / "echo"
    echo.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done >"$0.words"\nmkdir -p "$OUT"\n')
    echo.chmod(0o755)
    (digits / "CMakeLists.txt").write_text(
        PROJECT
        + """
        set(REPSIMC_EXECUTABLE "${CMAKE_CURRENT_SOURCE_DIR}/echo")
        repsimc_bundle(nets MODELS digit.onnx "${CMAKE_CURRENT_SOURCE_DIR}/parity.onnx"
          CALIB digit=frames.npz parity=labelled.npz BUDGET 60% PRECISION int8 PLAN plan.json
          CONFIG own.toml OUTPUT "own out" FLAGS --max-macs "70%" --name "a b=c" DEPENDS echo)
        foreach(kind BUNDLE MANIFEST GRAPH)
          message(STATUS "${kind} is ${nets_${kind}}")
        endforeach()
        """
    )
    build = tmp_path / "build"
    said = configure(digits, build, "-G", "Unix Makefiles")
    out = build / "own out"
    assert f"BUNDLE is {out}\n" in said and f"GRAPH is {out}/merged.onnx\n" in said
    call("cmake", "--build", build, ok=False)  # the stand-in writes no manifest
    words = re.findall(r"<(.*)>", (digits / "echo.words").read_text())
    assert words == [
        *("compile", f"{digits}/digit.onnx", f"{digits}/parity.onnx"),
        *("--calib", f"digit={digits}/frames.npz", "--calib", f"parity={digits}/labelled.npz"),
        *("--plan", f"{digits}/plan.json", "--config", f"{digits}/own.toml"),
        *("--budget", "60%", "--precision", "int8", "--output", f"{out}", "--overwrite"),
        *("--depfile", f"{out}.d", "--max-macs", "70%", "--name", "a b=c"),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("CALIB frames.npz", "no MODELS, and no CONFIG that names some"),
        ("a.onnx MODELS b.onnx", "unknown words: a.onnx"),
        ("MODELS a.onnx BUDGET", "no value for BUDGET"),
    ],
)
def test_a_call_that_makes_no_sense_ends_the_configuration(
    tmp_path: Path, words: str, said: str
) -> None:
    need("cmake", "make")
    (tmp_path / "CMakeLists.txt").write_text(f"{PROJECT}repsimc_bundle(nets {words})\n")
    told = configure(tmp_path, tmp_path / "build", "-G", "Unix Makefiles", ok=False)
    assert f"repsimc_bundle(nets): {said}" in " ".join(told.split())


# -- the C++ program -----------------------------------------------------------------------------


def headers() -> Path | None:
    """The folder of ONNX Runtime's own C++ header, where there is one."""
    root = os.environ.get("ONNXRUNTIME_ROOT", "")
    places = [Path(root, "include")] if root else []
    places += [Path(top, "onnxruntime") for top in ("/usr/include", "/usr/local/include")]
    return next((place for place in places if (place / STAND_IN.name).is_file()), None)


def test_the_program_is_sound_cpp_and_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    """Against a stand-in for the header, which declares what the program uses as it is declared."""
    need("c++")
    program = tmp_path / "run_bundle"
    strict = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
    call("c++", *strict, f"-I{STAND_IN.parent}", EXAMPLE / "run_bundle.cpp", "-o", program)
    assert "usage: run_bundle BUNDLE" in call(program, ok=False)
    assert f"{tmp_path} is no bundle" in call(program, tmp_path, ok=False)
    (tmp_path / "merged.onnx").write_bytes(b"")
    assert call(program, tmp_path) == "a/y: 0\nb/y: 0\n"  # the stand-in's output is the sum
    (tmp_path / "frame.bin").write_bytes(b"\0\0\x80\x3f" * 4)  # ones
    assert call(program, tmp_path, tmp_path / "frame.bin") == "a/y: 4\nb/y: 4\n"
    (tmp_path / "frame.bin").write_bytes(b"\0\0")
    assert "does not hold 4 float32" in call(program, tmp_path, tmp_path / "frame.bin", ok=False)


def test_the_program_runs_the_bundle(tmp_path: Path, digits: Path) -> None:
    need("cmake", "c++", "make")
    if headers() is None:
        pytest.skip("ONNX Runtime's C++ headers are not here: set ONNXRUNTIME_ROOT")
    build = tmp_path / "build"
    root = os.environ.get("ONNXRUNTIME_ROOT", "/usr")
    configure(EXAMPLE, build, f"-DDIGITS={digits}", f"-DONNXRUNTIME_ROOT={root}")
    call("cmake", "--build", build)
    said = call(build / "run_bundle", build / "nets")
    assert [line.split(":")[0] for line in said.splitlines()] == ["digit/logits", "parity/logits"]


# -- Make ----------------------------------------------------------------------------------------


def test_the_make_example_makes_again_only_what_changed(tmp_path: Path) -> None:
    need("make")
    shutil.copytree(EXAMPLE, tmp_path / "own")
    (tmp_path / "digits").mkdir()
    for name in DIGITS:
        shutil.copy(ROOT / "examples" / "digits" / name, tmp_path / "digits")
    make = ("make", "-C", tmp_path / "own", f"REPSIMC={REPSIMC}")
    first = call(*make)
    assert "bundle written to build/nets/" in first and "sha256sum" in first
    assert "repsimc compile" not in call(*make)

    touch(tmp_path / "digits" / "parity.onnx")
    told = call(*make)
    assert NOTHING in told and "sha256sum" not in told
    told = call(*make)
    assert "repsimc compile" not in told and "sha256sum" not in told

    touch(tmp_path / "digits" / "frames.npz")
    shutil.copyfile(tmp_path / "digits" / "labelled.npz", tmp_path / "digits" / "frames.npz")
    assert "bundle written to" in call(*make)
    call(*make, "clean")
    assert not (tmp_path / "own" / "build").exists()


# -- Bazel ---------------------------------------------------------------------------------------


def starlark(path: Path, **names: Any) -> dict[str, Any]:
    """A .bzl file carried out; what it uses of Starlark is Python too, but for type()."""
    scope: dict[str, Any] = {"type": lambda value: type(value).__name__, **names}
    exec(compile(path.read_text(), path.name, "exec"), scope)
    return scope


class Bazel:
    """Stands in for Bazel: takes rules and calls, and keeps the action that a target asks for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command: list[str] = []
        self.inputs: list[str] = []
        attr = SimpleNamespace(
            **{
                kind: lambda default=None, **_: default
                for kind in (
                    *("label_list", "string_list", "label", "string"),
                    "label_keyed_string_dict",
                )
            }
        )
        self.scope = starlark(
            SHIPPED / "repsimc.bzl",
            rule=self.rule,
            attr=attr,
            DefaultInfo=lambda **given: given,
            depset=list,
        )

    def file(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(path=name)

    def rule(self, implementation: Callable[..., Any], attrs: dict[str, Any]) -> Callable[..., Any]:
        def target(name: str, **given: Any) -> None:
            assert set(given) <= set(attrs), "an attribute that the rule does not have"
            frames = given.pop("calib")
            lists = {"models": given.get("models", []), "calib": list(frames)}
            lists["data"] = given.get("data", [])
            targets = {Target(self.file(one)): names for one, names in frames.items()}
            actions = SimpleNamespace(
                declare_directory=lambda name: self.file(f"out/{name}"),
                args=Words,
                run_shell=self.run_shell,
            )
            implementation(
                SimpleNamespace(
                    label=SimpleNamespace(name=name),
                    actions=actions,
                    attr=SimpleNamespace(
                        **{key: given.get(key, default) for key, default in attrs.items()}
                        | {"calib": targets}
                    ),
                    files=SimpleNamespace(
                        **{key: [self.file(name) for name in value] for key, value in lists.items()}
                    ),
                    file=SimpleNamespace(
                        **{
                            key: self.file(given[key]) if key in given else None
                            for key in ("config", "plan")
                        }
                    ),
                    runfiles=list,
                )
            )

        return target

    def run_shell(self, *, command: str, arguments: list[Any], inputs: Any, **_: Any) -> None:
        self.inputs = [file.path for file in inputs]
        self.command = ["sh", "-c", command, "sh", *arguments[0].words]


class Target:
    """What a label of one file stands for."""

    def __init__(self, file: SimpleNamespace) -> None:
        self.files = SimpleNamespace(to_list=lambda: [file])


class Words:
    def __init__(self) -> None:
        self.words: list[str] = []

    def add(self, word: str) -> None:
        self.words.append(word)

    def add_all(self, words: Any) -> None:
        self.words += words or []


def test_the_bazel_macro_asks_for_a_compilation_that_ends_well(digits: Path) -> None:
    bazel = Bazel(digits)
    bazel.scope["repsimc_bundle"](
        name="nets",
        models=["digit.onnx", "parity.onnx"],
        calib=["frames.npz"],
        budget="80%",
        flags=["-q", "--seed", "1"],
    )
    assert bazel.inputs == ["digit.onnx", "parity.onnx", "frames.npz"]
    (digits / "out" / "nets").mkdir(parents=True)  # Bazel makes the folders of its outputs
    call(*bazel.command, cwd=digits)
    assert load(digits / "out" / "nets").models == ("digit", "parity")


BUILD = """
load("//tools:repsimc.bzl", "repsimc_bundle")

repsimc_bundle(
    name = "nets",
    models = ["digit.onnx", "parity.onnx"],
    calib = {"digit": "frames.npz", "parity": "frames.npz"},
    flags = ["-q", "--exact-only"],
)
"""


def test_bazel_builds_the_bundle(tmp_path: Path) -> None:
    need("bazel")
    work = tmp_path / "workspace"
    (work / "tools").mkdir(parents=True)
    for name in ("WORKSPACE", "tools/BUILD"):
        (work / name).touch()
    shutil.copy(SHIPPED / "repsimc.bzl", work / "tools")
    shutil.copytree(ROOT / "examples" / "digits", work / "nets")
    (work / "nets" / "BUILD").write_text(BUILD)
    bazel = ("bazel", "--batch", f"--output_user_root={tmp_path / 'root'}")
    call(*bazel, "build", "//nets:nets", "--action_env=PATH", "--verbose_failures", cwd=work)
    assert load(work / "bazel-bin" / "nets" / "nets").models == ("digit", "parity")
    subprocess.run(["chmod", "-R", "u+w", tmp_path / "root"], check=True)  # for who cleans up


def test_the_bazel_macro_takes_frames_by_model_and_files_of_options(tmp_path: Path) -> None:
    bazel = Bazel(tmp_path)
    bazel.scope["repsimc_bundle"](
        name="nets",
        models=["a.onnx"],
        calib={"a": "a.npz", "c": "c.npz", "b": "a.npz"},
        config="own.toml",
        plan="plan.json",
        precision="int8",
        data=["a.bin"],
        tool="own/repsimc",
    )
    assert bazel.inputs == ["a.onnx", "a.npz", "c.npz", "a.bin", "own.toml", "plan.json"]
    assert bazel.command[4:] == shlex.split(
        "own/repsimc compile a.onnx --calib a=a.npz --calib b=a.npz --calib c=c.npz "
        "--config own.toml --plan plan.json "
        "--precision int8 --output out/nets"
    )


# -- containers, systemd, GitHub -------------------------------------------------------------------


def test_the_stages_of_the_container_file_compile_and_take_the_bundle_along(digits: Path) -> None:
    text = (EXAMPLE / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    stages = [line for line in lines if line.startswith("FROM")]
    assert len(stages) == 2 and stages[0].endswith(" AS compile")
    [copy] = [line.split()[1:-1] for line in lines if re.match(r"COPY [a-z]", line)]
    assert set(copy) <= {path.name for path in digits.iterdir()}
    [compiling] = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN repsimc")]
    call("sh", "-c", compiling, cwd=digits)
    assert load(digits / "bundle").manifest.precision == "fp16"
    assert "COPY --from=compile /models/bundle /bundle" in lines
    [start] = [line for line in lines if line.startswith("CMD")]
    words = re.findall(r'"([^"]*)"', start)
    assert words[:3] == ["repsimc", "build", "/bundle"]
    if shutil.which("nvidia-smi") is None:  # what the device would do ends here in our own words
        said = call(*words[:2], digits / "bundle", *words[3:], ok=False)
        assert "\nerror: there is no CUDA driver on this machine" in said


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    need("systemd-analyze")
    text = (EXAMPLE / "repsimc-engines.service").read_text()
    [start] = re.findall(r"^ExecStart=(\S+) build \S+ --backend tensorrt$", text, re.MULTILINE)
    unit = tmp_path / "repsimc-engines.service"
    unit.write_text(text.replace(start, str(REPSIMC)))
    said = call("systemd-analyze", "verify", "--man=no", unit)
    assert "repsimc-engines" not in said, said
    unit.write_text(text.replace(start, str(REPSIMC)).replace("Type=oneshot", "Type=oneshort"))
    assert "Failed to parse" in call("systemd-analyze", "verify", "--man=no", unit)


def test_the_steps_of_the_workflow_end_well_and_the_second_push_has_nothing_to_do(
    digits: Path,
) -> None:
    text = (EXAMPLE / "workflow.yml").read_text()
    steps = re.findall(r"^ +run: (.*)$", text, re.MULTILINE)
    assert steps[0] == "pip install 'repsimc[compile]'"
    told = [call("sh", "-c", step, cwd=digits) for step in steps[1:]]
    assert "bundle written to bundle/" in told[0]
    assert (digits / "bench.json").stat().st_size
    for name in DIGITS:  # a checkout writes every file anew
        (digits / name).touch()
    assert NOTHING in call("sh", "-c", steps[1], cwd=digits)
