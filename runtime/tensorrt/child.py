"""Work in a process of its own, since GPU libraries can end the process that calls them.

`python -m repsimc.runtime.tensorrt.child` reads a job, JSON with a `kind`, from stdin, and writes
what it found into the file `result` that the job names: libraries print to stdout as they like.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import BackendError, RepsimcError

# kind of job -> the module and function that do it
_WORK = {
    "probe": (".probe", "probe_here"),
    "build": (".building", "build_here"),
    "check": (".checking", "check_here"),
    "measure": (".device_bench", "measure_here"),
}


def run_child(
    kind: str,
    job: Mapping[str, Any],
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a fresh process finds for the job; what it prints goes to the end of `log`.

    Errors that it raises are raised here, OSError included. Raises BackendError if it crashes or
    is killed.
    """
    with tempfile.TemporaryDirectory(prefix="repsimc-") as scratch:
        result = Path(scratch) / "result.json"
        place = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            [sys.executable, "-m", "repsimc.runtime.tensorrt.child"],
            input=json.dumps({**job, "kind": kind, "result": str(result)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "PYTHONPATH": place, **(environment or {})},
        )
        if log is not None and done.stdout:
            with log.open("a", encoding="utf-8") as file:
                file.write(done.stdout)
        if not result.is_file():
            raise _crashed(kind, done.returncode, done.stdout, log)
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if "system" in found:
        raise OSError(*found["system"])
    if "error" in found:
        told = found["error"]
        kinds: dict[str, type[RepsimcError]] = {
            name: value
            for name, value in vars(errors).items()
            if isinstance(value, type) and issubclass(value, RepsimcError)
        }
        raise kinds.get(told["kind"], RepsimcError)(told["message"], told["hint"])
    return found


def _crashed(kind: str, code: int, said: str, log: Path | None) -> BackendError:
    how = f"exit status {code}"
    if code < 0:
        how = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    lines = [line for line in said.strip().splitlines() if line.strip()]
    last = f": {lines[-1][:300]}" if lines else ""
    hint = "SIGKILL means that memory ran out; " if code == -signal.SIGKILL else ""
    hint += f"all that was printed is in {log}" if log is not None else "repsimc doctor tells more"
    return BackendError(f"the process for '{kind}' ended with {how}{last}", hint)


def main() -> None:
    """Do the job on stdin."""
    job = json.load(sys.stdin)
    module, name = _WORK[job["kind"]]
    work: Callable[[dict[str, Any]], dict[str, Any]] = getattr(
        importlib.import_module(module, __package__), name
    )
    try:
        found = work(job)
    except RepsimcError as error:
        found = {
            "error": {
                "kind": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
            }
        }
    except OSError as error:
        found = {"system": [error.errno or 0, error.strerror or str(error)]}
    path = Path(job["result"])
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.replace(path)
    # The result stands; a library that crashes while the process ends must not undo it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
