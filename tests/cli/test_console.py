from __future__ import annotations

import errno
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from repsimc.compiler.errors import (
    BackendError,
    BudgetError,
    DataError,
    FidelityError,
    ModelError,
    RepsimcError,
    UsageError,
)
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.plan import Plan
from repsimc.compiler.reports.report import Report
from tests.cli.conftest import Compiled, Driver, Ran
from tests.reports.test_table import REPORT

Call = Callable[..., Ran]


def test_json_is_one_document_that_reads_back(repsimc: Call, driver: Driver) -> None:
    ran = repsimc("compile", "a.onnx", "--format", "json")
    data = json.loads(ran.out)
    assert Report.from_json(data) == REPORT
    assert data["bundle"] == "bundle"
    assert data["plan"] == Plan({}).to_json()
    assert ran.err == "" and "working" in ran.progress
    assert repsimc("compile", "a.onnx", "--format", "json", "-q").progress == ""


def test_markdown(repsimc: Call, driver: Driver) -> None:
    ran = repsimc("compile", "a.onnx", "--format", "markdown")
    assert "| model | weights |" in ran.out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("that makes no sense", "do this"), 2),
        (ModelError("model 'a' is broken", "do this"), 3),
        (DataError("frame 3 holds NaN", "do this"), 3),
        (FidelityError("too far off", "do this"), 4),
        (BudgetError("2 GB can't be met", "do this"), 5),
        (BackendError("no backend", "do this"), 6),
        (RepsimcError("something else", "do this"), 1),
    ],
)
def test_each_error_has_its_exit_code(
    repsimc: Call, driver: Driver, error: RepsimcError, code: int
) -> None:
    driver.fails = error
    ran = repsimc("compile", "a.onnx")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err == f"error: {error.message}\n  hint: do this\n"

    ran = repsimc("compile", "a.onnx", "--format", "json")
    assert ran.code == code
    assert json.loads(ran.out) == {
        "schema": "repsimc.error/1",
        "error": {
            "kind": type(error).__name__,
            "message": error.message,
            "hint": "do this",
            "exit_code": code,
        },
    }


def test_an_unexpected_exception_is_one_line_and_says_where_to_report(
    repsimc: Call, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.fails = KeyError("conv_3")
    ran = repsimc("compile", "a.onnx")
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert ran.err.startswith("error: internal error while working: KeyError: 'conv_3'\n")
    assert "please report it" in ran.err
    assert "Traceback" in repsimc("compile", "a.onnx", "-v").err
    monkeypatch.setenv("REPSIMC_DEBUG", "1")
    assert "Traceback" in repsimc("compile", "a.onnx").err


def test_a_traceback_for_a_mistake_is_never_shown(repsimc: Call, driver: Driver) -> None:
    driver.fails = ModelError("broken")
    assert "Traceback" not in repsimc("compile", "a.onnx", "-v").err


def test_a_full_disk_is_no_fault_of_repsimc(repsimc: Call, driver: Driver) -> None:
    driver.fails = OSError(errno.ENOSPC, "No space left on device", "bundle/merged.onnx")
    ran = repsimc("compile", "a.onnx")
    assert ran.code == 1
    assert ran.err.startswith("error: bundle/merged.onnx: No space left on device\n")
    assert "report" not in ran.err


def test_memory_that_ran_out(repsimc: Call, driver: Driver) -> None:
    driver.fails = MemoryError()
    assert repsimc("compile", "a.onnx").err.startswith("error: memory ran out\n")


def test_an_import_that_was_interrupted_may_raise_anything(repsimc: Call, driver: Driver) -> None:
    driver.fails = ImportError("numpy.core failed to import")
    driver.fails.__context__ = KeyboardInterrupt()
    ran = repsimc("compile", "a.onnx")
    assert (ran.code, ran.err) == (130, "interrupted\n")


def test_interrupted(repsimc: Call, driver: Driver) -> None:
    driver.fails = KeyboardInterrupt()
    ran = repsimc("compile", "a.onnx")
    assert (ran.code, ran.out) == (130, "")
    assert "Traceback" not in ran.err


def test_names_in_errors_do_not_steer_the_terminal(repsimc: Call, driver: Driver) -> None:
    driver.fails = ModelError("node '\x1b[2Jx\u202e\u2028\0\udcff' is broken")
    said = "error: node '\\x1b[2Jx\\u202e\\u2028\\x00\\udcff' is broken\n"
    assert repsimc("compile", "a.onnx").err == said


def test_a_message_has_an_end(repsimc: Call, driver: Driver) -> None:
    driver.fails = ModelError("x" * 10**6, "y" * 10**6)
    assert len(repsimc("compile", "a.onnx").err) < 10_000
    assert len(repsimc("compile", "a.onnx", "--format", "json").out) < 10_000


def test_warnings_are_told_on_stderr_and_not_with_q(
    repsimc: Call, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(options: CompileOptions, progress: Any = None, **_: Any) -> Compiled:
        warnings.warn("few frames", stacklevel=1)
        return Compiled(REPORT, None)

    monkeypatch.setattr(sys.modules["repsimc.compiler.driver"], "compile_models", warned)
    for action in ("default", "error", "ignore"):  # as PYTHONWARNINGS may say
        warnings.simplefilter(action)
        assert repsimc("compile", "a.onnx").err == "warning: few frames\n"
    assert repsimc("compile", "a.onnx", "-q").err == ""


def test_a_command_line_that_can_not_be_parsed_is_json_too(repsimc: Call, driver: Driver) -> None:
    ran = repsimc("compile", "a.onnx", "--frobnicate", "--format=json")
    assert json.loads(ran.out)["error"]["exit_code"] == 2
