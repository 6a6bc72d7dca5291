"""A result as build services read it: what passed or failed, and figures to keep an eye on.

Texts in it may hold names from models that anyone made: each format escapes what it would read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from ..errors import RepsimcError
from ..units import printable_line

if TYPE_CHECKING:
    from ...runtime.bench import BenchResult
    from .measurements import OutputVerification
    from .report import Report

FAILED, UNDECIDED, PASSED, TOLD = "failed", "undecided", "passed", "told"
# Characters that XML 1.0 has no way to write.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_COMMANDS = {FAILED: "error", UNDECIDED: "warning", PASSED: "notice", TOLD: "notice"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its name, FAILED, UNDECIDED, PASSED or TOLD, and why."""

    name: str
    state: str
    text: str


@dataclass(frozen=True)
class BuildFigure:
    """One figure of which less is better."""

    name: str
    value: float
    unit: str
    spread: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a command found; `command` is its name."""

    command: str
    findings: tuple[Finding, ...] = ()
    measured: tuple[BuildFigure, ...] = ()


def error_outcome(command: str, error: RepsimcError) -> Outcome:
    """The outcome of a call that ended with an error."""
    hint = f" ({error.hint})" if error.hint else ""
    return Outcome(command, (Finding(type(error).__name__, FAILED, f"{error.message}{hint}"),))


# -- the formats ---------------------------------------------------------------------------


def github(outcome: Outcome) -> str:
    """Workflow commands of GitHub Actions: ::error, ::warning and ::notice, a line each.

    Its newlines, percent signs and (in titles) colons and commas are escaped as its runner reads
    them; nothing of a name can begin a command of its own.
    """
    lines = [
        f"::{_COMMANDS[one.state]} title={_property(f'{outcome.command}: {one.name}')}::"
        f"{_data(one.text or one.state)}"
        for one in outcome.findings
    ]
    return "".join(f"{line}\n" for line in lines)


def _data(text: str) -> str:
    clean = printable_line(text)
    return clean.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def junit(outcome: Outcome) -> str:
    """A JUnit XML document: a test case per finding, its figures as properties of the suite."""
    failures = sum(one.state == FAILED for one in outcome.findings)
    skipped = sum(one.state == UNDECIDED for one in outcome.findings)
    counts = f'tests="{len(outcome.findings)}" failures="{failures}" errors="0" skipped="{skipped}"'
    suite = _attribute(f"repsimc {outcome.command}")
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<testsuites {counts}>"]
    lines.append(f"  <testsuite name={suite} {counts}>")
    figures = [one for one in outcome.measured if math.isfinite(one.value)]
    if figures:
        lines.append("    <properties>")
        for one in figures:
            name = _attribute(f"{one.name} [{one.unit}]")
            lines.append(f'      <property name={name} value="{one.value!r}"/>')
        lines.append("    </properties>")
    for one in outcome.findings:
        lines.append(f"    <testcase classname={suite} name={_attribute(one.name)}>")
        if one.state == FAILED:
            lines.append(f"      <failure message={_attribute(one.text)}/>")
        elif one.state == UNDECIDED:
            lines.append(f"      <skipped message={_attribute(one.text)}/>")
        elif one.text:
            lines.append(f"      <system-out>{escape(_xml(one.text))}</system-out>")
        lines.append("    </testcase>")
    lines += ["  </testsuite>", "</testsuites>"]
    return "\n".join(lines) + "\n"


def _attribute(text: str) -> str:
    return quoteattr(_xml(text))


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", printable_line(text))


def gha_benchmark(outcome: Outcome) -> str:
    """The JSON list of github-action-benchmark's customSmallerIsBetter."""
    found = [
        {"name": one.name, "unit": one.unit, "value": one.value}
        | ({"range": one.spread} if one.spread else {})
        for one in outcome.measured
        if math.isfinite(one.value)
    ]
    text = json.dumps(found, indent=2, allow_nan=False)
    return text + "\n"


FORMATS: Mapping[str, Callable[[Outcome], str]] = {
    "github": github,
    "junit": junit,
    "gha-benchmark": gha_benchmark,
}
"""By the word that --format takes."""


# -- what the commands found ---------------------------------------------------------------


def verification_outcome(found: Sequence[OutputVerification]) -> Outcome:
    """A finding per output, and how much of its fidelity each lacks."""
    findings: list[Finding] = []
    measured: list[BuildFigure] = []
    for item in found:
        one, name = item.fidelity, f"fidelity {item.model}/{item.fidelity.output}"
        text = f"{one.metric} {one.value:.6g}, floor {one.floor:g}, {one.frames} frames"
        findings.append(Finding(name, PASSED if one.met else FAILED, text))
        measured.append(BuildFigure(f"{name}, lost", 1 - one.value, "share"))
        if item.accuracy_compiled is not None:
            name = f"error rate {item.model}"
            measured.append(BuildFigure(name, 1 - item.accuracy_compiled, "share"))
    return Outcome("verify", tuple(findings), tuple(measured))


def bench_outcome(result: BenchResult) -> Outcome:
    """The latency beside the models apart, whether that tells anything, and the figures."""
    measured: list[BuildFigure] = []
    for name, side in (("merged", result.merged), ("apart", result.apart)):
        if side is None:
            continue
        low, high = side.latency.p10_seconds, side.latency.p90_seconds
        spread = f"p90 {1e3 * high:.4g}"
        measured.append(BuildFigure(f"latency {name}, p10", 1e3 * low, "ms", spread))
        if side.memory is not None:
            measured.append(BuildFigure(f"memory {name}", side.memory.uss_nbytes, "B"))
    findings: list[Finding] = []
    if (ratio := result.ratio) is not None:
        spread = f"{ratio.low:.3f} to {ratio.high:.3f}"
        measured.insert(0, BuildFigure("latency merged / apart", ratio.value, "ratio", spread))
        state = UNDECIDED if result.doubt else PASSED
        text = result.doubt or f"{ratio.value:.3f} ({spread})"
        findings.append(Finding("latency merged / apart", state, text))
    findings += [Finding("note", TOLD, note) for note in result.notes]
    return Outcome("bench", tuple(findings), tuple(measured))


def report_outcome(report: Report) -> Outcome:
    """A finding per output that was measured, per model that could not be, and per note."""
    findings: list[Finding] = []
    for model in report.models:
        for one in model.fidelity:
            text = f"{one.metric} {one.value:.6g}, floor {one.floor:g}, {one.frames} frames"
            name = f"fidelity {model.name}/{one.output}"
            findings.append(Finding(name, PASSED if one.met else FAILED, text))
        if model.unverified:
            findings.append(Finding(f"fidelity {model.name}", UNDECIDED, model.unverified))
    findings += [Finding("note", TOLD, note) for note in report.notes]
    measured: list[tuple[str, Any, str]] = [
        ("weights", report.weights_after_nbytes, "B"),
        ("memory, predicted", report.memory_after_nbytes, "B"),
    ]
    if not report.sizes_unknown:
        measured.append(("MACs", report.macs_after, "MACs"))
    return Outcome("compile", tuple(findings), tuple(BuildFigure(*one) for one in measured))
