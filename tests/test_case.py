"""What a compilation starts from: the files as they run, and what was read of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.case import Case, case_of, read_models
from repsimc.compiler.errors import ModelError, UsageError
from repsimc.compiler.graph.program import Program
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.progress import NoProgress
from repsimc.passes.base import Change
from repsimc.passes.merge_linear import MergeLinear
from repsimc.passes.normalise import Normalise
from tests.programs import model_of_text

X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


def net(nodes: str = "h = Mul(x, w) y = Tanh(h)") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
    g (float[N,3] x) => (float[N,3] y) <float[3] w = {{1, -2, 3}}> {{ {nodes} }}"""


def options_of(folder: Path, frames: bool = False, **texts: str) -> CompileOptions:
    for name, text in texts.items():
        onnx.save(model_of_text(text), folder / f"{name}.onnx")
    models = tuple((name, folder / f"{name}.onnx") for name in texts)
    return CompileOptions(models=models, calibration=X if frames else None)


def case_in(folder: Path, frames: bool = False, **texts: str) -> Case:
    options = options_of(folder, frames, **texts)
    return case_of(read_models(options, NoProgress()), options, NoProgress())


@pytest.mark.parametrize("frames", [True, False])
def test_what_is_exact_was_run_beside_the_files(tmp_path: Path, frames: bool) -> None:
    case = case_in(tmp_path, frames, a=net(), b=net())
    assert not case.unverified
    assert not case.left_out
    probe = case.probes[0]
    x = probe.feeds["x"]
    for name in "ab":
        np.testing.assert_allclose(probe.expected[name]["y"], np.tanh(x * [1, -2, 3]), rtol=1e-5)
    assert len(x) == (4 if frames else 2)


@pytest.mark.parametrize("frames", [True, False])
def test_a_file_that_is_read_wrongly_is_refused(tmp_path: Path, frames: bool) -> None:
    options = options_of(tmp_path, frames, a=net(), b=net())
    read = read_models(options, NoProgress())
    options_of(tmp_path, frames, b=net("h = Mul(x, w) y = Sin(h)"))  # as if it had been this one
    with pytest.raises(ModelError, match=r"reads .*b\.onnx wrongly: .*'y' of model 'b' differs"):
        case_of(read, options, NoProgress())


def damaging(program: Program) -> list[Change]:
    weights = [weight for weight in program.weights().values() if np.any(weight.values == 3)]
    for weight in weights:
        weight.values = np.where(weight.values == 3, np.float32(4), weight.values)
    return [Change("a weight was changed", weight.name) for weight in weights]


@pytest.mark.parametrize("passes", [(Normalise,), (Normalise, MergeLinear)])
def test_exact_passes_that_move_an_output_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: tuple[type, ...]
) -> None:
    def run(_: object, program: Program) -> list[Change]:
        return damaging(program)

    for kind in passes:
        monkeypatch.setattr(kind, "run", run)
    case = case_in(tmp_path, a=net(), b=net())
    assert "normalise" in case.left_out
    assert (len(case.left_out) == 1) == (len(passes) == 1)
    assert len(case.program.weights()) == (1 if len(passes) == 1 else 2)  # others still ran
    assert 3 in case.program.weights()["a/w"].values


def test_what_cannot_be_run_here_is_unverified(tmp_path: Path) -> None:
    case = case_in(tmp_path, a=net(), b=net("h = mine.Own(x) y = Mul(h, w)"))
    assert list(case.unverified) == ["b"]
    assert "domain mine" in case.unverified["b"]
    assert [list(probe.expected) for probe in case.probes] == [["a"]] * len(case.probes)


@pytest.mark.parametrize("frames", [True, False])
def test_what_is_random_is_unverified(tmp_path: Path, frames: bool) -> None:
    noisy = net("r = RandomNormalLike(x) y = Add(x, r)")
    case = case_in(tmp_path, frames, a=net(), b=noisy)
    assert list(case.unverified) == ["b"]
    assert "random" in case.unverified["b"]


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"output_fidelity": {"a/z": 0.9}}, r"\[fidelity\] names 'a/z', .* no output 'z'"),
        ({"metrics": {"a/z": "top1"}}, r"\[metrics\] names 'a/z', .* no output 'z'"),
        ({"metrics": {"a": "best"}}, "'best' is not a fidelity metric"),
    ],
)
def test_a_floor_that_would_go_unheard_is_refused(
    tmp_path: Path, wishes: dict[str, Any], said: str
) -> None:
    options = replace(options_of(tmp_path, a=net()), **wishes)
    with pytest.raises(UsageError, match=said):
        read_models(options, NoProgress())
    kept = replace(options, output_fidelity={"a/y": 0.9}, metrics={"a/y": "variance"})
    assert len(read_models(kept, NoProgress())) == 1
