"""What build services read: strict readers take it, and no name can steer them."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.reports.measurements import OutputVerification
from repsimc.compiler.reports.outcome import (
    FAILED,
    FORMATS,
    PASSED,
    TOLD,
    UNDECIDED,
    BuildFigure,
    Finding,
    Outcome,
    bench_outcome,
    error_outcome,
    gha_benchmark,
    github,
    junit,
    report_outcome,
    verification_outcome,
)
from repsimc.compiler.reports.report import OutputFidelity
from repsimc.runtime.bench import BenchOptions, bench
from tests.reports.test_table import REPORT
from tests.runtime.bundles import bundled, tied_pair

EVIL = "a\n::error::x %0A,:<b>&\"'\x00\x1b\ud800\u2028\ufffe]]>"
OUTCOME = Outcome(
    "check",
    (
        Finding("fine", PASSED, ""),
        Finding(EVIL, FAILED, EVIL),
        Finding("noise", UNDECIDED, EVIL),
        Finding("note", TOLD, EVIL),
    ),
    (BuildFigure(EVIL, 0.5, "ms", "0.4 to 0.6"), BuildFigure("lost", math.nan, "share")),
)


def test_github_commands_are_one_line_each() -> None:
    lines = github(OUTCOME).split("\n")
    assert [line.split(" ")[0] for line in lines] == [
        "::notice", "::error", "::warning", "::notice", "",
    ]  # fmt: skip
    assert lines[0] == "::notice title=check%3A fine::passed"
    title, text = lines[1].removeprefix("::error title=").split("::", 1)
    assert "," not in title and ":" not in title and "%250A" in title
    assert "%250A" in text and "\x1b" not in text


def test_a_strict_reader_takes_the_xml() -> None:
    text = junit(OUTCOME)
    suites = ElementTree.fromstring(text.encode("utf-8"))
    (suite,) = suites
    assert suite.attrib == {
        "name": "repsimc check", "tests": "4", "failures": "1", "errors": "0", "skipped": "1",
    }  # fmt: skip
    cases = suite.findall("testcase")
    assert [[child.tag for child in case] for case in cases] == [
        [], ["failure"], ["skipped"], ["system-out"],
    ]  # fmt: skip
    assert "<b>&" in cases[1].attrib["name"] and "]]>" in (cases[3][0].text or "")
    (figure,) = suite.findall("properties/property")
    assert figure.attrib["value"] == "0.5"


def test_figures_for_the_benchmark_action() -> None:
    (found,) = json.loads(gha_benchmark(OUTCOME))
    assert found == {"name": EVIL, "unit": "ms", "value": 0.5, "range": "0.4 to 0.6"}
    assert json.loads(gha_benchmark(Outcome("check"))) == []


def test_an_error_is_a_failure_in_every_format() -> None:
    outcome = error_outcome("check", UsageError("wrong", "do this"))
    assert github(outcome) == "::error title=check%3A UsageError::wrong (do this)\n"
    assert 'message="wrong (do this)"' in junit(outcome)
    assert list(FORMATS) == ["github", "junit", "gha-benchmark"]


def test_a_verification() -> None:
    fidelity = OutputFidelity("y", "top-1 agreement", 0.95, 0.99, 400, 0.9)
    kept = replace(fidelity, value=1.0)
    found = verification_outcome(
        [OutputVerification("a", fidelity, 1.0), OutputVerification("b", kept, 0.0, 0.9, 0.75)]
    )
    assert [one.state for one in found.findings] == [FAILED, PASSED]
    assert {one.name: one.value for one in found.measured} == {
        "fidelity a/y, lost": pytest.approx(0.05),
        "fidelity b/y, lost": 0.0,
        "error rate b": 0.25,
    }


def test_a_report() -> None:
    found = report_outcome(REPORT)
    assert found.command == "compile" and {one.state for one in found.findings} <= {
        PASSED, FAILED, UNDECIDED, TOLD,
    }  # fmt: skip
    values = {one.name: one.value for one in found.measured}
    assert values["weights"] == REPORT.weights_after_nbytes


def test_a_bench(tmp_path: Path) -> None:
    options = BenchOptions(runs=2, warmup=0, threads=1, repeats=1)
    found = bench_outcome(bench(bundled(tmp_path, tied_pair()), options))
    assert found.measured[0].name == "latency merged, p10" and found.measured[0].value > 0
    assert any("original of model" in one.text for one in found.findings)
