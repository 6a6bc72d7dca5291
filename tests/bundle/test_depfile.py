from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repsimc.compiler.bundle.compile_inputs import CompileInputs
from repsimc.compiler.bundle.depfile import check_depfile, depfile_text, write_depfile
from repsimc.compiler.errors import UsageError

BUNDLE = Path("out dir/bundle")
# What Make and Ninja have a meaning for, and a path may well hold.
NAMES = ("plain", "a b", "c#d", "e$f", "${HOME}", "two  blanks", "g:h", "k~l", "é")
MAKEFILE = """
all: out\\ dir/bundle/manifest.json
out\\ dir/bundle/manifest.json:
\t@echo RAN; touch "$@"
-include out.d
"""
NINJA = """
rule step
  command = echo RAN && cp out.d own.d && touch "out dir/bundle/manifest.json"
  depfile = own.d
build out$ dir/bundle/manifest.json: step
"""


def of(*names: str, folders: tuple[str, ...] = ()) -> CompileInputs:
    return CompileInputs(tuple(map(Path, names)), tuple(map(Path, folders)), "", {})


def test_one_rule_and_an_empty_one_for_what_may_go() -> None:
    text = depfile_text(Path("b"), of("a.onnx", "in/x y.npz", "a.onnx", folders=("in",)))
    assert text.decode() == (
        "b/manifest.json: \\\n  a.onnx \\\n  in/x\\ y.npz \\\n  in\n\na.onnx:\nin/x\\ y.npz:\nin:\n"
    )


@pytest.mark.parametrize("tool", ["make", "ninja"])
@pytest.mark.parametrize("name", NAMES)
def test_the_tools_see_every_change_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, name: str
) -> None:
    # The extra `dev` brings Ninja.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = shutil.which(tool, path=path)
    if found is None:
        pytest.skip(f"there is no {tool} here")
    monkeypatch.chdir(tmp_path)
    BUNDLE.mkdir(parents=True)
    files = [Path("in") / name, Path("in/other")]
    Path("in").mkdir()
    for path in files:
        path.touch()
        os.utime(path, (1e9, 1e9))
    Path("Makefile").write_text(MAKEFILE)
    Path("build.ninja").write_text(NINJA)
    write_depfile(Path("out.d"), BUNDLE, of(*map(str, files)))

    def ran() -> bool:
        done = subprocess.run([found], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return "RAN" in done.stdout

    assert ran() and not ran()
    later = time.time() + 100
    os.utime(files[0], (later, later))
    assert ran()
    os.utime(files[0], (1e9, 1e9))
    os.utime(BUNDLE / "manifest.json")
    ran()  # Ninja keeps the time of its own
    assert not ran()
    files[0].unlink()
    assert ran()


@pytest.mark.parametrize("name", ["a;b", "a\nb", "a\tb", "a\\", "a\\ b", "a\x7f"])
def test_names_that_would_be_something_else_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="which no depfile can hold"):
        depfile_text(BUNDLE, of("plain", name))
    with pytest.raises(UsageError, match="which no depfile can hold"):
        depfile_text(Path(f"{name}#"), of("plain"))


@pytest.mark.parametrize("name", ["a%b", "run=3/b"])
def test_a_target_is_no_pattern_and_no_variable(name: str) -> None:
    with pytest.raises(UsageError, match="which no depfile can hold"):
        depfile_text(Path(name), of("plain"))


def test_a_prerequisite_never_sets_a_variable() -> None:
    with pytest.raises(UsageError, match="which no depfile can hold"):
        depfile_text(BUNDLE, of("run=3/a.onnx", "run=3/b.onnx"))
    text = depfile_text(Path("b"), of("run=3/a.onnx", "z%.npz", "c.onnx")).decode()
    assert text.split()[2:7:2] == ["z%.npz", "c.onnx", "run=3/a.onnx"]
    assert text.endswith("\n\nc.onnx:\n")  # neither a pattern nor a variable gets a rule


def test_names_that_are_no_unicode_are_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"mod\xe8le.onnx")
    assert b"  mod\xe8le.onnx\n" in depfile_text(BUNDLE, of(name))


def test_it_is_written_in_one_step_and_only_if_it_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d" / "out.d"
    write_depfile(path, BUNDLE, of("a"))
    os.utime(path, (1e9, 1e9))
    write_depfile(path, BUNDLE, of("a"))
    assert path.stat().st_mtime == 1e9
    write_depfile(path, BUNDLE, of("b"))
    assert path.read_bytes() == depfile_text(BUNDLE, of("b"))
    assert list(path.parent.iterdir()) == [path]

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        write_depfile(path, BUNDLE, of("c"))
    assert path.read_bytes() == depfile_text(BUNDLE, of("b"))
    assert list(path.parent.iterdir()) == [path]


def test_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    model, bundle = tmp_path / "a.onnx", tmp_path / "bundle"
    inputs = of(str(model))
    check_depfile(tmp_path / "out.d", bundle, inputs)
    for path, said in (
        (model, "is what the bundle is compiled from"),
        (bundle / "out.d", "would lie in the bundle"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(UsageError, match=said):
            check_depfile(path, bundle, inputs)
