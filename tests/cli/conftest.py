from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.bundle.compile_inputs import CompileInputs
from repsimc.compiler.bundle.writing import BundleContents, write_bundle
from repsimc.compiler.cli import main as cli
from repsimc.compiler.frontends.join import join
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.deadline import Deadline
from repsimc.compiler.planning.plan import Plan
from repsimc.compiler.reports.report import Report
from tests.programs import model_of_text

# Class scores [N, 3]: the largest is that of the largest input times its weight.
SCORES = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 3] y)
<float[3] w = {1, 1, 1}>
{ y = Mul (x, w) }
"""
SHIFTED = SCORES.replace("{1, 1, 1}", "{1, 1, 4}")
MAP = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 3, 1] y)
<int64[1] axes = {2}>
{ t = Tanh (x)
  y = Unsqueeze (t, axes) }
"""


_PROGRESS = re.compile(r"^ *\d+\.\d s  .*\n", re.MULTILINE)


@dataclass
class Ran:
    """What a call printed and its exit code; lines of progress apart from the rest of stderr."""

    code: int
    out: str
    err: str
    progress: str = ""


@pytest.fixture
def repsimc(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ran]:
    """`repsimc("compile", "a.onnx")` runs the command line in this process, in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: object) -> Ran:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        progress = "".join(line.group() for line in _PROGRESS.finditer(said.err))
        return Ran(code, said.out, _PROGRESS.sub("", said.err), progress)

    return run


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """frames.npz: 48 frames of 3 floats, whose label is the index of the largest."""
    x = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
    path = tmp_path / "frames.npz"
    np.savez(path, x=x, label=x.argmax(-1), other=np.full(48, 7), short=np.zeros(5, np.int64))
    return path


def save(folder: Path, **models: str) -> dict[str, Path]:
    """The models as files name.onnx in the folder."""
    paths: dict[str, Path] = {}
    for name, text in models.items():
        paths[name] = folder / f"{name}.onnx"
        onnx.save(model_of_text(text), paths[name])
    return paths


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """bundle/ of models a (class scores) and b (a map), on one input, beside a.onnx and b.onnx."""
    return bundle_of(tmp_path, a=SCORES, b=MAP)


def bundle_of(folder: Path, tied: bool = True, made_from: str = "", **models: str) -> Path:
    """A bundle of the models, whose originals lie beside it; nothing was rewritten."""
    from tests.reports.test_table import REPORT

    paths = save(folder, **models)
    programs = [read_model(path, name) for name, path in paths.items()]
    program = join(programs, [[(name, "x") for name in paths]] if tied else [])
    return write_bundle(
        folder / "bundle",
        BundleContents(
            program,
            plan={},
            report=REPORT.to_json(),
            fidelity={
                name: [{"output": "y", "metric": metric, "value": 1.0, "floor": 0.9, "frames": 8}]
                for name, metric in (("a", "top-1 agreement"), ("b", "explained variance"))
                if name in models
            },
            made_from=made_from,
        ),
    )


@dataclass
class Compiled:
    """What a compilation makes, as far as the command shows it."""

    report: Report
    bundle: Path | None
    plan: Plan = field(default_factory=lambda: Plan({}))


class Driver:
    """Stands in for the compiler: keeps the options it is called with."""

    def __init__(self) -> None:
        self.options: CompileOptions | None = None
        self.deadline: Deadline | None = None
        self.inputs: CompileInputs | None = None
        self.fails: BaseException | None = None

    def __call__(
        self,
        options: CompileOptions,
        progress: Any = None,
        *,
        deadline: Deadline | None = None,
        inputs: CompileInputs | None = None,
    ) -> Compiled:
        from tests.reports.test_table import REPORT

        self.options, self.deadline, self.inputs = options, deadline, inputs
        progress.stage("working", None)
        if self.fails is not None:
            raise self.fails
        return Compiled(REPORT, None if options.dry_run else options.output)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    fake = Driver()
    module = types.ModuleType("repsimc.compiler.driver")
    module.compile_models = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "repsimc.compiler.driver", module)
    return fake
