from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from repsimc.compiler.cli.shell import Signals, Stopped, discard, open_streams
from repsimc.runtime.session import load
from tests.cli.conftest import MAP, SCORES, bundle_of, save

CALL = [sys.executable, "-m", "repsimc"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and POSIX shells")


def call(
    *words: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        [*CALL, *words], cwd=cwd, env=environment, capture_output=True, check=False
    )


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`line` in a shell; REPSIMC in it is the command."""
    line = line.replace("REPSIMC", f"'{sys.executable}' -m repsimc")
    return subprocess.run(["sh", "-c", line], cwd=cwd, capture_output=True, text=True, check=False)


def test_python_m_repsimc(tmp_path: Path) -> None:
    done = call("--version", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(b"repsimc ")


@linux
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("REPSIMC passes >&-", 0),
        ("REPSIMC compile none.onnx <&- >&- 2>&-", 3),
        ("REPSIMC passes > /dev/full", 1),
        ("REPSIMC compile none.onnx 2> /dev/full", 3),
    ],
)
def test_streams_that_cannot_be_written(tmp_path: Path, line: str, code: int) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert not list(tmp_path.iterdir())


@linux
def test_closed_streams_do_not_become_other_files(tmp_path: Path) -> None:
    save(tmp_path, a=SCORES)
    done = shell("REPSIMC compile a.onnx -o bundle >&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert shell("REPSIMC inspect bundle", tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"PYTHONIOENCODING": "ascii"}, ()),
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, ("--format", "json")),
    ],
)
def test_streams_that_are_not_utf8(
    tmp_path: Path, env: dict[str, str], words: tuple[str, ...]
) -> None:
    save(tmp_path, größe=SCORES)
    done = call("inspect", "größe.onnx", *words, cwd=tmp_path, env=env)
    assert done.returncode == 0 and done.stderr == b""
    said = done.stdout.decode("ascii")
    if words:
        assert os.fsencode(json.loads(said)["file"]) == "größe.onnx".encode()
    else:
        assert "gr\\xf6\\xdfe.onnx" in said


@linux
def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/mod\xe8le"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    save(folder, a=SCORES, b=MAP)
    models = [str(folder / "a.onnx"), str(folder / "b.onnx")]
    done = call("compile", *models, "-o", str(folder / "bundle"), cwd=tmp_path)
    assert done.returncode == 2 and b"not UTF-8" in done.stderr
    done = call("compile", *models, "-o", "bundle", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    source = load(tmp_path / "bundle").manifest.models[0].source
    assert (source.file, source.path) == ("a.onnx", "")
    done = call("bench", "bundle", "--runs", "1", cwd=tmp_path)
    assert done.returncode == 0 and b"apart: not measured" in done.stdout, done.stderr
    assert len(list(folder.iterdir())) == 2


# -- signals ---------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("after_seconds", [0.1, 0.4])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_imports(
    tmp_path: Path, after_seconds: float, number: signal.Signals
) -> None:
    save(tmp_path, a=SCORES)
    # It begins when main does: what Python does before is not ours.
    code = (
        "import sys; from repsimc.compiler.cli import main; "
        "from repsimc.compiler.cli.shell import Signals; begin = Signals.answer\n"
        "def answer(self):\n    begin(self); sys.stdout.write('.'); sys.stdout.flush()\n"
        "Signals.answer = answer; sys.exit(main.main())"
    )
    words = ["similarity", "a.onnx", "--calib", "none.npz"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.read(1) == b"."
    time.sleep(after_seconds)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    # On a fast machine the call is over by then.
    assert process.returncode in (128 + number, 3), told
    assert b"Traceback" not in told and b"Exception" not in told


def test_a_signal_that_was_swallowed_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # A process of its own: an unraisable hook is everybody's.
    code = """
import os, signal, time
from repsimc.compiler.cli.shell import Signals, Stopped
signals = Signals()
signals.answer()
class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
Dying()  # raised in there, and lost
try:
    time.sleep(20)
except Stopped as stopped:
    print(stopped.exit_code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "143\n", "")


def test_an_ignored_signal_stays_ignored() -> None:
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signals = Signals()
        signals.answer()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(signal.SIGTERM)
        assert stopped.value.exit_code == 143 and signals.asked is stopped.value
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def test_streams_of_a_test_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    open_streams()
    print("said")
    discard("stdout")
    assert "said" in capsys.readouterr().out


# -- a full disk, and calls side by side -----------------------------------------------------


@linux
@pytest.mark.parametrize(
    "line",
    [
        "REPSIMC compile a.onnx -o bundle --overwrite",
        "REPSIMC run bundle --input x.npy -o new.npz",
    ],
)
def test_a_full_disk_leaves_earlier_files_and_no_halves(tmp_path: Path, line: str) -> None:
    bundle_of(tmp_path, a=SCORES)
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    before = held(tmp_path)
    done = shell(f"ulimit -S -f 0; {line} 2>&1 | cat", tmp_path)  # a file may have no bytes
    assert "cannot be written: File too large" in done.stdout
    assert "Traceback" not in done.stdout
    assert held(tmp_path) == before


def held(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@linux
def test_three_compiles_into_one_folder(tmp_path: Path) -> None:
    save(tmp_path, a=SCORES)
    words = ["compile", "a.onnx", "-o", "bundle", "--overwrite"]
    calls = [
        subprocess.Popen(
            [*CALL, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    told = [call.communicate(timeout=120)[1] for call in calls]
    assert [call.returncode for call in calls] == [0, 0, 0], told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "bundle"]
    assert load(tmp_path / "bundle").run(np.ones((1, 3), np.float32))["a"]["y"].shape == (1, 3)
